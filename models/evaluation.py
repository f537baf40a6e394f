"""How good scores are: pure figures over arrays, as plain numbers that fit into a manifest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

DAY_MS = 86_400_000
#: Bounds of the calibration table: frauds are rare, so most scores lie below a hundredth.
CALIBRATION_BOUNDS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

Floats = npt.NDArray[np.float64]


def evaluate(
    scores: Floats,
    fraud: npt.NDArray[np.bool_],
    *,
    threshold: float,
    card: np.ndarray,
    event_time_ms: np.ndarray,
    kind: Sequence[str] | np.ndarray | None = None,
) -> dict[str, Any]:
    """Every figure of the report.

    Args:
        scores: (n,) probabilities.
        fraud: (n,) labels.
        threshold: score from which a transaction is called fraud.
        card: (n,) identifiers.
        event_time_ms: (n,) epoch milliseconds.
        kind: (n,) names of the kind of fraud, if known.

    Returns:
        JSON-ready: `auc`, `average_precision` (`average_precision_by_chance` beside it: the share of frauds),
        `card_precision_at_100` (and `..._at_best`, what perfect scores would get), `confusion`,
        `precision`, `recall`, `f1`, `calibration`, and `recall_by_kind` where kinds are known.
    """
    called = scores >= threshold
    hits = int(np.count_nonzero(called & fraud))
    precision, at_best = card_precision(scores, fraud, card, event_time_ms)
    figures = {
        "rows": len(scores),
        "frauds": int(np.count_nonzero(fraud)),
        "auc": float(roc_auc_score(fraud, scores)),
        "average_precision": float(average_precision_score(fraud, scores)),
        "average_precision_by_chance": float(np.mean(fraud)),
        "card_precision_at_100": precision,
        "card_precision_at_100_at_best": at_best,
        "confusion": {
            "true_positive": hits,
            "false_positive": int(np.count_nonzero(called & ~fraud)),
            "false_negative": int(np.count_nonzero(~called & fraud)),
            "true_negative": int(np.count_nonzero(~called & ~fraud)),
        },
        "precision": _ratio(hits, int(np.count_nonzero(called))),
        "recall": _ratio(hits, int(np.count_nonzero(fraud))),
        "f1": _ratio(2 * hits, int(np.count_nonzero(called) + np.count_nonzero(fraud))),
        "calibration": calibration(scores, fraud),
    }
    if kind is not None:
        names = np.asarray(kind)
        figures["recall_by_kind"] = {
            str(name): float(np.mean(called[fraud & (names == name)]))
            for name in np.unique(names[fraud])
        }
    return figures


def card_precision(
    scores: Floats,
    fraud: npt.NDArray[np.bool_],
    card: np.ndarray,
    event_time_ms: np.ndarray,
    top: int = 100,
) -> tuple[float, float]:
    """Card precision@k: the share of true ones among the `top` cards a day that investigators can check.

    Each day the cards are ranked by their highest score; a card that was found is blocked, and is not
    counted again on later days. Days are UTC.

    Returns:
        The mean over days, and the same for perfect scores: fewer than `top` cards may be defrauded a day.
    """
    return (
        _card_precision(scores, fraud, card, event_time_ms // DAY_MS, top),
        _card_precision(fraud.astype(np.float64), fraud, card, event_time_ms // DAY_MS, top),
    )


def _card_precision(
    scores: Floats, fraud: npt.NDArray[np.bool_], card: np.ndarray, day: np.ndarray, top: int
) -> float:
    _, cards = np.unique(card, return_inverse=True)
    found = np.zeros(cards.max() + 1, dtype=bool)
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & ~found[cards])
        highest = np.full(len(found), -1.0)
        np.maximum.at(highest, cards[rows], scores[rows])
        defrauded = np.zeros(len(found), dtype=bool)
        defrauded[cards[rows[fraud[rows]]]] = True
        # a stable sort: equal scores rank by card, the same every time
        ranked = np.argsort(-highest, kind="stable")[:top]
        caught = ranked[(highest[ranked] >= 0) & defrauded[ranked]]
        found[caught] = True
        shares.append(len(caught) / top)
    return float(np.mean(shares))


def calibration(scores: Floats, fraud: npt.NDArray[np.bool_]) -> list[dict[str, float | int]]:
    """For each range of scores that has any: rows, mean score, and the share that really was fraud."""
    table: list[dict[str, float | int]] = []
    bins = np.digitize(scores, CALIBRATION_BOUNDS[1:-1])
    for number, (low, high) in enumerate(
        zip(CALIBRATION_BOUNDS, CALIBRATION_BOUNDS[1:], strict=False)
    ):
        inside = bins == number
        if inside.any():
            table.append(
                {
                    "from": low,
                    "to": high,
                    "rows": int(np.count_nonzero(inside)),
                    "mean_score": float(np.mean(scores[inside])),
                    "fraud_share": float(np.mean(fraud[inside])),
                }
            )
    return table


def best_f1_threshold(scores: Floats, fraud: npt.NDArray[np.bool_]) -> float:
    """The score from which calling fraud gives the best balance of precision and recall (F1)."""
    precision, recall, thresholds = precision_recall_curve(fraud, scores)
    both = precision[:-1] + recall[:-1]
    f1 = np.divide(2 * precision[:-1] * recall[:-1], both, out=np.zeros_like(both), where=both > 0)
    return float(thresholds[np.argmax(f1)])


def budget_threshold(scores: Floats, event_time_ms: np.ndarray, alerts_a_day: float) -> float:
    """The lowest score that keeps to a number of alerts a day on average.

    Where equal scores would exceed the budget they are all left out (scores of exactly 1 cannot be).
    """
    days = max(1.0, float(np.ptp(event_time_ms)) / DAY_MS)
    allowed = int(alerts_a_day * days)
    ranked = np.sort(scores)[::-1]
    if allowed >= len(ranked):
        return 0.0
    # above the first score that no longer fits
    return float(min(1.0, np.nextafter(ranked[allowed], np.inf)))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
