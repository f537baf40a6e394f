"""How good scores are: pure figures over arrays, as plain numbers that fit into a manifest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from models.evaluation_sets import DAY_MS, card_precision, intervals, rank

#: Bounds of the calibration table: frauds are rare, so most scores lie below a hundredth.
CALIBRATION_BOUNDS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

_RANKED = (
    "auc",
    "average_precision",
    "average_precision_by_chance",
    "card_precision_at_100",
    "card_precision_at_100_at_best",
)

Floats = npt.NDArray[np.float64]


def evaluate(
    scores: Floats,
    fraud: npt.NDArray[np.bool_],
    *,
    threshold: float,
    card: np.ndarray,
    event_time_ms: np.ndarray,
    known: npt.NDArray[np.bool_] | None = None,
    kind: Sequence[str] | np.ndarray | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """Every figure of the report.

    Args:
        scores: (n,) probabilities.
        fraud: (n,) labels.
        threshold: score from which a transaction is called fraud.
        card: (n,) identifiers.
        event_time_ms: (n,) epoch milliseconds.
        known: (n,) transactions on cards that are blocked (`evaluation_sets.on_known_cards`): the ranking is judged
            without them, the threshold with them, because the stream scores them too.
        kind: (n,) names of the kind of fraud, if known.
        seed: of the resamples of cards.

    Returns:
        JSON-ready: `auc`, `average_precision` (`average_precision_by_chance` beside it: the share of frauds),
        `card_precision_at_100` (and `..._at_best`, what perfect scores would get), `intervals` for
        them, `ranked` (the rows and frauds that they are about); `confusion`, `precision`, `recall`, `f1`,
        `calibration`, and `recall_by_kind` where kinds are known. The first are None where the blocked cards
        leave nothing to tell apart.
    """
    called = scores >= threshold
    hits = int(np.count_nonzero(called & fraud))
    figures = {
        "rows": len(scores),
        "frauds": int(np.count_nonzero(fraud)),
        **_ranked(scores, fraud, card, event_time_ms, known, seed),
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


def _ranked(
    scores: Floats,
    fraud: npt.NDArray[np.bool_],
    card: np.ndarray,
    event_time_ms: np.ndarray,
    known: npt.NDArray[np.bool_] | None,
    seed: int,
) -> dict[str, Any]:
    """The figures of the ranking, without the cards that are blocked."""
    if known is not None:
        scores, fraud = scores[~known], fraud[~known]
        card, event_time_ms = card[~known], event_time_ms[~known]
    figures: dict[str, Any] = {
        "ranked": {"rows": len(scores), "frauds": int(np.count_nonzero(fraud))}
    }
    if fraud.all() or not fraud.any():
        return figures | dict.fromkeys(_RANKED) | {"intervals": {}}
    ranking = rank(scores, fraud, card, event_time_ms)
    at_best = rank(fraud.astype(np.float64), fraud, card, event_time_ms)
    values = (
        float(roc_auc_score(fraud, scores)),
        float(average_precision_score(fraud, scores)),
        float(np.mean(fraud)),
        card_precision(ranking),
        card_precision(at_best),
    )
    figures |= dict(zip(_RANKED, values, strict=True))
    return figures | {"intervals": intervals(ranking, seed=seed)}


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
