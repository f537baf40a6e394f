"""Decisions counted by day and model version, and what follows from the counts. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.quality.verdicts import FRAUD, UNKNOWN

#: Steps into which scores are sorted for the average precision: equal steps of log-odds, so that scores near 0
#: and near 1 are told apart. Within one step (log-odds of 0.016) order is lost.
STEPS = 2_000
FURTHEST = 16.0


@dataclass
class DecisionGroup:
    """Decisions that belong together.

    Attributes:
        transactions: scored ones.
        labelled: those with a label.
        frauds: labelled ones that were fraud.
        alerts: transactions that were called fraud.
        true_positives, false_positives: alerts that were fraud, and that were not.
        scores: labelled transactions by step of their score; row 0 genuine ones, row 1 frauds.
    """

    transactions: int = 0
    labelled: int = 0
    frauds: int = 0
    alerts: int = 0
    true_positives: int = 0
    false_positives: int = 0
    scores: np.ndarray = field(default_factory=lambda: np.zeros((2, STEPS), dtype=np.int64))

    def add(self, other: "DecisionGroup") -> None:
        """Take another group's decisions, too."""
        for name in (
            "transactions",
            "labelled",
            "frauds",
            "alerts",
            "true_positives",
            "false_positives",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.scores += other.scores

    def as_dict(self) -> dict[str, Any]:
        """Counts, and shares of them; a share of nothing is None."""
        return {
            "transactions": self.transactions,
            "labelled": self.labelled,
            "labelled_share": _share(self.labelled, self.transactions),
            "frauds": self.frauds,
            "alerts": self.alerts,
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
            "unlabelled_alerts": self.alerts - self.true_positives - self.false_positives,
            "missed": self.frauds - self.true_positives,
            "precision": _share(self.true_positives, self.true_positives + self.false_positives),
            "recall": _share(self.true_positives, self.frauds),
            "average_precision": average_precision(self.scores),
        }


class QualityTally:
    """Groups by day and model version; memory grows with their number alone (32 KB each)."""

    def __init__(self) -> None:
        self._groups: defaultdict[tuple[str, str], DecisionGroup] = defaultdict(DecisionGroup)

    def add(
        self,
        day: Sequence[str],
        model: Sequence[str],
        score: np.ndarray,
        alert: np.ndarray,
        verdict: np.ndarray,
    ) -> None:
        """Take decisions, row i of each argument being decision i.

        Args:
            day: of the event, UTC, such as 2026-01-31.
            model: version of the model.
            score: probabilities, float64.
            alert: whether it was called fraud, bool.
            verdict: of its label, as `Verdicts.of` gives it.
        """
        keys = list(zip(day, model, strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        which = np.array([numbers[key] for key in keys], dtype=np.int64)
        step = step_of(score)
        for key, number in numbers.items():
            here = which == number
            known = here & (verdict != UNKNOWN)
            fraud = here & (verdict == FRAUD)
            group = self._groups[key]
            group.transactions += int(here.sum())
            group.labelled += int(known.sum())
            group.frauds += int(fraud.sum())
            group.alerts += int((here & alert).sum())
            group.true_positives += int((fraud & alert).sum())
            group.false_positives += int((known & ~fraud & alert).sum())
            group.scores[1] += np.bincount(step[fraud], minlength=STEPS)
            group.scores[0] += np.bincount(step[known & ~fraud], minlength=STEPS)

    def by(self, column: str) -> dict[str, DecisionGroup]:
        """Groups by `day` or by `model`, in order of their names."""
        at = ("day", "model").index(column)
        groups: defaultdict[str, DecisionGroup] = defaultdict(DecisionGroup)
        for key in sorted(self._groups):
            groups[key[at]].add(self._groups[key])
        return dict(sorted(groups.items()))

    def total(self) -> DecisionGroup:
        """All of them."""
        total = DecisionGroup()
        for group in self._groups.values():
            total.add(group)
        return total


def step_of(score: np.ndarray) -> np.ndarray:
    """The step of each score, 0 to `STEPS` - 1; never lower for a higher score."""
    with np.errstate(divide="ignore"):
        odds = np.log(score) - np.log1p(-score)
    odds = np.clip(odds, -FURTHEST, FURTHEST)
    return np.minimum(((odds + FURTHEST) * (STEPS / (2 * FURTHEST))).astype(np.int64), STEPS - 1)


def score_of(step: np.ndarray) -> np.ndarray:
    """The score at a step, or between two: the inverse of `step_of`."""
    return 1 / (1 + np.exp(FURTHEST - step * (2 * FURTHEST / STEPS)))


def average_precision(scores: np.ndarray) -> float | None:
    """Mean of the precision over recall, scores of one step being equal; None without a fraud.

    Args:
        scores: genuine ones and frauds by step, shape (2, steps).
    """
    genuine, frauds = scores[:, ::-1]
    total = int(frauds.sum())
    if not total:
        return None
    found = np.cumsum(frauds)
    called = found + np.cumsum(genuine)
    precision = found / np.maximum(called, 1)
    return float((precision * frauds).sum() / total)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
