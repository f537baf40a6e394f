"""The model that decides, and the one before it, which decides where the first gives no score.

A model that raises for a transaction, or gives no number between 0 and 1, must not stop the stream: the transactions
between its promotion and the change that takes it back have to be decided all the same, on every replay alike. So a
row without a score is decided by the model that decided before, whatever the company of the row.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from app.domain.changes import Since
from app.domain.guard import LIMITS, Limits, Tally
from app.errors import StateError
from app.stages.challengers import Decided
from app.stages.scorers import Judges, Model, checked, of_each_row

#: Under a name that is not silenced with Faust's services.
logger = logging.getLogger("fraudstream")

#: Of this machine, not of the model: another worker would have a score.
_FATAL = (MemoryError, OSError)
#: Changes whose counts are kept.
_KEPT = 8


class Tallies:
    """What was counted under each of the newest changes; for the guard. Decides nothing.

    Args:
        limits: what is slow.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._by_change: dict[tuple[int, int] | None, Tally] = {}

    def add(
        self, since: Since | None, scored: int, flagged: int, unscored: int, took: float
    ) -> None:
        """Count a micro-batch.

        Args:
            since: the change under which it was scored; None: one that is not guarded.
            scored: its transactions.
            flagged: those that the model called fraud.
            unscored: those that it gave no score.
            took: seconds that the scores took.
        """
        key = None if since is None else (since.partition, since.offset)
        tally = self._by_change.get(key)
        if tally is None:
            tally = self._by_change[key] = Tally()
            if len(self._by_change) > _KEPT:
                del self._by_change[next(iter(self._by_change))]
        tally.add(scored, flagged, unscored, took * 1e6, self._limits)

    def of(self, since: Since) -> tuple[Tally, Tally]:
        """What was counted before a change, and since."""
        key = since.partition, since.offset
        before = Tally()
        for other, tally in reversed(self._by_change.items()):
            if other != key and before.scored < self._limits.known:
                before = Tally(
                    before.scored + tally.scored, before.flagged + tally.flagged, 0,
                    before.microseconds + tally.microseconds, before.batches + tally.batches,
                )  # fmt: skip
        return before, self._by_change.get(key, Tally())


class Champion:
    """Scores by the model that decides.

    Args:
        reasons_from: reasons are given for scores from here on.
        tallies: told of each micro-batch.

    Attributes:
        failures: transactions without a score.
        tallies: the same.
    """

    def __init__(self, reasons_from: float, tallies: Tallies) -> None:
        self.failures = 0
        self.tallies = tallies
        self._reasons_from = reasons_from
        self._told: Counter[tuple[str, str]] = Counter()

    def scores(self, judges: Judges, rows: np.ndarray) -> list[float | None]:
        """The score of each row; None where the model raises, or gives no number between 0 and 1."""
        model = judges.model
        began = perf_counter()
        try:
            found = model.score(rows)
            fine = bool(found.min() >= 0 and found.max() <= 1)  # NaN is neither
        except _FATAL:
            raise
        except Exception:
            fine = False
        took = perf_counter() - began
        if fine:
            self.tallies.add(
                judges.since, len(rows), int((found >= judges.threshold).sum()), 0, took
            )
            scores: list[float | None] = found.tolist()
            return scores
        scores = list(
            self._alone(model, rows, lambda some: checked(model.score(some), len(some)), "score")
        )
        unscored = scores.count(None)
        flagged = sum(one is not None and one >= judges.threshold for one in scores)
        self.failures += unscored
        self.tallies.add(judges.since, len(rows), flagged, unscored, took)
        return scores

    def anomalies(self, model: Model, rows: np.ndarray) -> Sequence[float | None]:
        """The anomaly score of each row; None without, also where the model raises."""
        try:
            odd = model.anomalies(rows)
        except _FATAL:
            raise
        except Exception:
            return self._alone(
                model, rows, lambda some: _listed(model.anomalies(some), some), "anomaly score"
            )
        return _listed(odd, rows)

    def reasons(self, model: Model, rows: np.ndarray) -> Sequence[list[str]]:
        """The reasons of each row; none where the model raises."""
        try:
            return model.reasons(rows)
        except _FATAL:
            raise
        except Exception:
            return [one or [] for one in self._alone(model, rows, model.reasons, "reasons")]

    def fall_back(
        self, judges: Judges, indices: Sequence[int], features_of: Callable[[Model], np.ndarray]
    ) -> dict[int, Decided]:
        """What the model before it says of rows that it gives no score.

        Args:
            judges: the models.
            indices: of the rows.
            features_of: all rows, as a model takes them.

        Raises:
            StateError: that one gives none either, or there is none.
        """
        one = judges.fallback
        name = judges.model.version
        if one is None:
            msg = (
                f"model {name} gives no score between 0 and 1 to a transaction, and no model has decided before it: "
                "start with another FRAUDSTREAM_APP_ID and FRAUDSTREAM_MODEL, after `fraudstream topics` with the same"
            )
            raise StateError(msg)
        model, threshold = one
        rows = features_of(model)[list(indices)]
        scores = self._alone(
            model, rows, lambda some: checked(model.score(some), len(some)), "score"
        )
        found = [
            (index, row, score)
            for index, row, score in zip(indices, rows, scores, strict=True)
            if score is not None
        ]
        if len(found) < len(indices):
            msg = f"neither model {name} nor {model.version}, which decided before it, gives a score to a transaction"
            raise StateError(msg)
        odd = self.anomalies(model, rows)
        decided = {}
        for (index, row, score), anomaly in zip(found, odd, strict=True):
            told = score >= self._reasons_from
            why = self.reasons(model, row[np.newaxis])[0] if told else []
            decided[index] = Decided(model, threshold, score, anomaly, why)
        return decided

    def _alone(
        self, model: Model, rows: np.ndarray, function: Callable[[np.ndarray], Any], what: str
    ) -> Sequence[Any]:
        found, why = of_each_row(rows, function, fatal=_FATAL)
        if None in found and (model.hash, what) not in self._told:
            self._told[model.hash, what] += 1
            logger.warning(
                "model %s gives no %s for some transactions: %s",
                model.version, what, why or "its scores are not between 0 and 1",
            )  # fmt: skip
        return found


def _listed(odd: np.ndarray | None, rows: np.ndarray) -> list[float | None]:
    found: list[float | None] = [None] * len(rows) if odd is None else odd.tolist()
    return found
