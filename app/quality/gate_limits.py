"""A challenger beside the model that decides, over the same transactions: figures, and whether it may decide. Pure.

Differences are told with an interval: cards are drawn again and again, the same ones for both models (a paired
bootstrap), and the middle 95 % of the differences are kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple

import numpy as np

from app.quality.verdicts import FRAUD, UNKNOWN
from models.evaluation import calibration
from models.evaluation_sets import (
    DAY_MS,
    RESAMPLES,
    Bools,
    Floats,
    Ranking,
    auc_and_precision,
    card_precision,
    on_known_cards,
    rank,
)

_BINS = 10


@dataclass(frozen=True)
class GateLimits:
    """From where on a challenger is refused.

    Attributes:
        frauds: labelled frauds that are needed at least, of those that are compared.
        worse: how much lower average precision and card precision may be, with 95 % certainty.
        more_alerts: how many times as many alerts, beyond `few_alerts` a day.
        fewer_alerts: which share of the alerts at least.
        few_alerts: alerts a day that are no trouble.
        too_good: an average precision that only a model reaches that has seen the labels.
        microseconds: for a transaction in a micro-batch of 100, where it is also twice the other model's.
    """

    frauds: int = 20
    worse: float = 0.02
    more_alerts: float = 2.0
    fewer_alerts: float = 0.2
    few_alerts: float = 10.0
    too_good: float = 0.98
    microseconds: float = 50.0


class ScorePair(NamedTuple):
    """Both models' scores of the same transactions.

    Attributes:
        champion, challenger: (n,) scores; NaN: none.
        verdict: (n,) `UNKNOWN`, `GENUINE` or `FRAUD`.
        card: (n,) a number or name for each card.
        event_time_ms: (n,) epoch milliseconds.
    """

    champion: Floats
    challenger: Floats
    verdict: np.ndarray
    card: np.ndarray
    event_time_ms: np.ndarray

    def labels_until(self, last_ms: int) -> "ScorePair":
        """The same without the labels of transactions after this event time, epoch milliseconds."""
        verdict = np.where(self.event_time_ms <= last_ms, self.verdict, UNKNOWN)
        return self._replace(verdict=verdict.astype(self.verdict.dtype))

    def without_labels_of(self, cards: Iterable[int]) -> "ScorePair":
        """The same without the labels of some cards."""
        verdict = np.where(np.isin(self.card, list(cards)), UNKNOWN, self.verdict)
        return self._replace(verdict=verdict.astype(self.verdict.dtype))


def compare(
    pair: ScorePair, *, thresholds: tuple[float, float], delay_ms: int, seed: int = 1
) -> dict[str, Any]:
    """The figures of both models, and their differences.

    Args:
        pair: at least one transaction.
        thresholds: of the champion and of the challenger.
        delay_ms: how long a label takes to come: see `evaluation_sets.on_known_cards`.
        seed: of the resamples.

    Returns:
        JSON-ready: `transactions`; of those that both models scored, how many are `labelled`, `frauds` and
        `frauds_compared` (without cards that were known to be defrauded); `without_score` of the challenger, `days`,
        `psi`, and for `champion` and `challenger` each `alerts_per_day`, `average_precision`, `card_precision_at_100`
        and `calibration_error`; `difference` of the two precisions with an `interval`. Figures that labels do not tell
        are None.
    """
    scored = ~np.isnan(pair.challenger) & ~np.isnan(pair.champion)
    days = max(1.0, float(np.ptp(pair.event_time_ms)) / DAY_MS)
    judged = scored & (pair.verdict != UNKNOWN)
    fraud = pair.verdict == FRAUD
    figures: dict[str, Any] = {
        "transactions": len(scored),
        "labelled": int(judged.sum()),
        "frauds": int((judged & fraud).sum()),
        "without_score": int(np.isnan(pair.challenger).sum()),
        "days": round(days, 2),
        "psi": stability(pair.champion[scored], pair.challenger[scored]),
    }
    ranked = judged.copy()
    if figures["frauds"]:
        # a card that is known to be defrauded is blocked: finding its frauds once more is no merit
        known = on_known_cards(pair.card, pair.event_time_ms, fraud & judged, judged, delay_ms)
        ranked[np.flatnonzero(judged)[known]] = False
    figures["frauds_compared"] = int((ranked & fraud).sum())
    told = bool((ranked & fraud).any() and (ranked & ~fraud).any())
    rankings = []
    for name, scores, threshold in (
        ("champion", pair.champion, thresholds[0]),
        ("challenger", pair.challenger, thresholds[1]),
    ):
        ranking = None
        if told:
            rows = scores[ranked], fraud[ranked], pair.card[ranked], pair.event_time_ms[ranked]
            ranking = rank(*rows)
            rankings.append(ranking)
        figures[name] = {
            "threshold": threshold,
            "alerts_per_day": float((scores[scored] >= threshold).sum() / days),
            "average_precision": ranking and _precisions(ranking)[0],
            "card_precision_at_100": ranking and _precisions(ranking)[1],
            "calibration_error": calibration_error(scores[judged], fraud[judged]),
        }
    figures["difference"] = _differences(*rankings, seed=seed) if told else None
    return figures


def refusals(figures: dict[str, Any], limits: GateLimits = GateLimits()) -> list[str]:
    """Why a challenger may not decide; none: it may.

    Args:
        figures: of `compare`, with `microseconds` for each model where they were measured.
        limits: from where on it is refused.
    """
    champion, challenger = figures["champion"], figures["challenger"]
    found = []
    if figures["without_score"]:
        share = f"{figures['without_score']:,} of {figures['transactions']:,}"
        found.append(f"it gives no score between 0 and 1 for {share} transactions")
    mine, other = challenger["alerts_per_day"], champion["alerts_per_day"]
    if mine > limits.more_alerts * other + limits.few_alerts:
        found.append(f"{mine:,.1f} flagged per day instead of {other:,.1f}")
    if mine < limits.fewer_alerts * other - limits.few_alerts or (other and not mine):
        found.append(f"only {mine:,.1f} flagged per day instead of {other:,.1f}")
    times = challenger.get("microseconds"), champion.get("microseconds")
    if (
        times[0] is not None
        and times[1] is not None
        and times[0] > max(limits.microseconds, 2 * times[1])
    ):
        found.append(
            f"it takes {times[0]:,.0f} us per transaction instead of {times[1]:,.0f}; "
            f"{limits.microseconds:g} us are allowed"
        )
    if figures["frauds_compared"] < limits.frauds or figures["difference"] is None:
        compared = figures["frauds_compared"]
        known = f" ({compared} on cards that were not known to be defrauded)"
        found.append(
            f"{figures['frauds']} of {figures['labelled']:,} labelled transactions are fraud"
            f"{known if compared != figures['frauds'] else ''}, {limits.frauds} are needed to compare: wait for "
            "labels, or begin earlier (--from)"
        )
        return found
    for name in ("average_precision", "card_precision_at_100"):
        low, high = figures["difference"][name]["interval"]
        if not low >= -limits.worse:  # NaN is no pass
            text = name.replace("_at_100", "@100").replace("_", " ")
            found.append(
                f"{text} {challenger[name]:.3f} instead of {champion[name]:.3f}: the difference may be as low as "
                f"{low:+.3f} (95 % interval {low:+.3f} to {high:+.3f}), {-limits.worse:+.3f} is allowed"
            )
    if challenger["average_precision"] >= limits.too_good > champion["average_precision"] + 0.05:
        found.append(
            f"average precision {challenger['average_precision']:.3f} is too good: was it trained on these labels?"
        )
    return found


def is_undecided(figures: dict[str, Any], limits: GateLimits = GateLimits()) -> bool:
    """Whether more labels may turn the refusal into a pass: only an interval is too wide, and it contains zero.

    Args:
        figures: as for `refusals`.
        limits: from where on a challenger is refused.
    """
    if not refusals(figures, limits) or refusals(figures, replace(limits, worse=inf)):
        return False
    return all(one["interval"][1] >= 0 for one in figures["difference"].values())


def stability(expected: Floats, found: Floats) -> float | None:
    """Population stability index of two sets of scores: 0 where they are spread alike; above 0.25 is a large shift.

    The bins are tenths of the first set. A share of nothing counts as a hundredth of a percent.
    """
    if not len(expected) or not len(found):
        return None
    bounds = np.unique(np.quantile(expected, np.linspace(0, 1, _BINS + 1)[1:-1]))
    shares = []
    for scores in (expected, found):
        counts = np.bincount(np.searchsorted(bounds, scores, "right"), minlength=len(bounds) + 1)
        shares.append(np.maximum(counts / len(scores), 1e-4))
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def calibration_error(scores: Floats, fraud: Bools) -> float | None:
    """Mean distance of scores from the share of fraud among those of their range; None without any."""
    if not len(scores):
        return None
    table = calibration(scores, fraud)
    gaps = sum(one["rows"] * abs(one["mean_score"] - one["fraud_share"]) for one in table)
    return float(gaps / len(scores))


def _precisions(ranking: Ranking, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Average precision and card precision@100; NaN where the drawn cards have only frauds, or none."""
    every = np.ones(ranking.cards, np.int64) if weights is None else weights
    found = auc_and_precision(ranking, every)
    return (np.nan if found is None else found[1]), card_precision(ranking, weights=weights)


def _differences(champion: Ranking, challenger: Ranking, *, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    whole = np.subtract(_precisions(challenger), _precisions(champion))
    drawn = []
    for _ in range(RESAMPLES):
        cards = rng.integers(0, champion.cards, champion.cards)
        weights = np.bincount(cards, minlength=champion.cards)
        drawn.append(np.subtract(_precisions(challenger, weights), _precisions(champion, weights)))
    low, high = np.nanquantile(np.array(drawn), [0.025, 0.975], axis=0)
    names = ("average_precision", "card_precision_at_100")
    return {
        name: {"value": float(whole[at]), "interval": [float(low[at]), float(high[at])]}
        for at, name in enumerate(names)
    }
