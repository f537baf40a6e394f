"""The current model, and the earlier models that decide if it returns no score.

A model that raises for a transaction, or returns no number between 0 and 1, must not stop the stream: the transactions
between its promotion and its revert need a decision, and a replay must give the same one. So a row without a score is
decided by the previous model, or the one before that, independent of the other rows in the micro-batch.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from app.domain.changes import InForce, RevertibleChange
from app.domain.guard import LIMITS, DecisionTally, GuardLimits
from app.errors import StateError
from app.stages.challengers import CanaryDecision
from app.stages.scorers import (
    FallbackNeededError,
    Model,
    ScoringModels,
    TallyKey,
    UnloadableModel,
    checked,
    of_each_row,
)

#: A name of its own, because the logs of Faust's services are silenced.
logger = logging.getLogger("fraudstream")

#: Errors of this machine, not of the model: another worker would return a score.
_FATAL = (MemoryError, OSError)
#: Number of tally keys whose counts are kept.
_KEPT = 8


class TalliesByChange:
    """Counts of decisions under each of the newest changes, for the guard.

    Args:
        limits: define what is slow.
        watch_ms: how long a change is watched, milliseconds.

    Attributes:
        reverts: number of the guard's reverts that took effect here, by cause.
        unscored: transactions without a score, in all.
    """

    def __init__(self, limits: GuardLimits = LIMITS, watch_ms: int = 1_800_000) -> None:
        self.reverts: Counter[str] = Counter()
        self.unscored = 0
        self._limits = limits
        self._watch_ms = watch_ms
        #: In the order in which they were last added to.
        self._by_epoch: OrderedDict[TallyKey, DecisionTally] = OrderedDict()
        self._reverted: set[tuple[int, int]] = set()
        self._new: list[tuple[TallyKey, int, int, int, float | None]] = []

    def of_time(self, epoch: TallyKey, received: Sequence[int]) -> TallyKey:
        """The key under which transactions are counted, by the times when the broker received them, epoch milliseconds.

        A change is judged by the transactions that arrived while it was watched. Older ones come from a worker that
        lags or from a rebuild under another app id. A worker that lags may score the others long after their arrival.
        """
        since = epoch.since
        if since is None or since.at_ms < min(received) <= max(received) <= (
            since.at_ms + self._watch_ms
        ):
            return epoch
        return epoch._replace(judged=False)

    def add(self, epoch: TallyKey, scored: int, flagged: int, unscored: int, took: float) -> None:
        """Count a micro-batch; see `settle`.

        Args:
            epoch: the model and threshold that decided.
            scored: number of transactions.
            flagged: number that the model flagged as fraud.
            unscored: number for which it returned no score.
            took: duration of scoring, seconds.
        """
        self._new.append((epoch, scored, flagged, unscored, took))

    def flag(self, epoch: TallyKey, flagged: int) -> None:
        """Count transactions without a score by the current model that an earlier model flagged as fraud."""
        self._new.append((epoch, 0, flagged, 0, None))

    def forget(self) -> None:
        """What was added since `settle` is computed again."""
        self._new.clear()

    def settle(self) -> None:
        """What was added is not computed again."""
        for epoch, scored, flagged, unscored, took in self._new:
            tally = self._by_epoch.get(epoch)
            if tally is None:
                tally = self._by_epoch[epoch] = DecisionTally()
                if len(self._by_epoch) > _KEPT:
                    self._by_epoch.popitem(last=False)
            else:
                self._by_epoch.move_to_end(epoch)
            if took is None:
                tally.flagged += flagged
                continue
            self.unscored += unscored
            tally.add(scored, flagged, unscored, took * 1e6, self._limits)
            if epoch.since is None or not epoch.judged:  # else it ends with the watch
                tally.fade()
        self._new.clear()

    def revert(self, undone: Sequence[RevertibleChange], cause: str = "") -> None:
        """Changes were reverted: their counts are not used to judge others. Called once per partition."""
        places = {one.place for one in undone} - self._reverted
        self._reverted |= places
        if places and cause:
            self.reverts[cause] += 1

    def of(self, in_force: InForce, since: RevertibleChange) -> tuple[DecisionTally, DecisionTally]:
        """The counts before a watched change, and those under the newest change.

        The counts before the change are first those of the model and threshold it replaced, under whichever change
        these were counted; then, until enough transactions are known, those of what decided before.
        """
        self.settle()
        later = {one.place for one in in_force.watched[: in_force.watched.index(since) + 1]}
        others = [
            (epoch, tally)
            for epoch, tally in reversed(self._by_epoch.items())
            if epoch.since is None or epoch.since.place not in (later | self._reverted)
        ]
        right_before = since.before.hash, since.before.threshold
        others.sort(key=lambda one: one[0][:2] != right_before)
        before = DecisionTally()
        for _, tally in others:
            if before.scored < self._limits.known:
                before = before.with_(tally)
        newest = TallyKey(in_force.model, in_force.threshold, in_force.since)
        return before, self._by_epoch.get(newest, DecisionTally())


class Champion:
    """Computes scores by the current model.

    Args:
        reasons_from: lowest score for which reasons are computed.
        tallies: counts each micro-batch.

    Attributes:
        tallies: the same.
    """

    def __init__(self, reasons_from: float, tallies: TalliesByChange) -> None:
        self.tallies = tallies
        self._reasons_from = reasons_from
        self._told: Counter[tuple[str, str]] = Counter()

    @property
    def failures(self) -> int:
        """Transactions without a score."""
        return self.tallies.unscored

    def scores(self, judges: ScoringModels, rows: np.ndarray) -> list[float | None]:
        """The score of each row; None if the model raises or returns no number between 0 and 1."""
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
                judges.epoch, len(rows), int((found >= judges.threshold).sum()), 0, took
            )
            scores: list[float | None] = found.tolist()
            return scores
        scores = list(self._scores_alone(model, rows))
        unscored = scores.count(None)
        flagged = sum(one is not None and one >= judges.threshold for one in scores)
        self.tallies.add(judges.epoch, len(rows), flagged, unscored, took)
        return scores

    def anomalies(self, model: Model, rows: np.ndarray) -> Sequence[float | None]:
        """The anomaly score of each row; None without one, or if the model raises."""
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
        """The reasons of each row; empty if the model raises."""
        try:
            return model.reasons(rows)
        except _FATAL:
            raise
        except Exception:
            return [one or [] for one in self._alone(model, rows, model.reasons, "reasons")]

    def fall_back(
        self,
        judges: ScoringModels,
        unscored: Sequence[int],
        decided: Mapping[int, CanaryDecision],
        features_of: Callable[[Model], np.ndarray],
    ) -> dict[int, CanaryDecision]:
        """Decisions of earlier models on rows without a score: for each row, the first model that returns one decides.

        Args:
            judges: the models.
            unscored: indices of the rows.
            decided: the canary's decisions.
            features_of: gives all rows in the order of a model's features.

        Raises:
            FallbackNeededError: a row needs one that is not here.
            StateError: no model returns a score for a row that the canary does not decide.
        """
        found: dict[int, CanaryDecision] = {}
        left = [index for index in unscored if index not in decided]
        tried = [judges.model]
        for one in judges.fallbacks:
            if left:
                if one.model is None:
                    raise FallbackNeededError(one.earlier.hash)
                tried.append(one.model)
                found |= self._by(one.model, one.earlier.threshold, left, features_of)
                left = [index for index in left if index not in found]
        if left:
            raise StateError(_no_score(tried))
        deciders = [found.get(index) or decided[index] for index in unscored]
        self.tallies.flag(judges.epoch, sum(one.score >= one.threshold for one in deciders))
        return found

    def _by(
        self,
        model: Model,
        replaced: float | None,
        indices: Sequence[int],
        features_of: Callable[[Model], np.ndarray],
    ) -> dict[int, CanaryDecision]:
        threshold = model.threshold if replaced is None else replaced
        rows = features_of(model)[list(indices)]
        scores = self._scores_alone(model, rows)
        has = {place: score for place, score in enumerate(scores) if score is not None}
        odd = self.anomalies(model, rows[list(has)]) if has else ()
        found = {}
        for (place, score), anomaly in zip(has.items(), odd, strict=True):
            told = score >= self._reasons_from
            why = self.reasons(model, rows[place : place + 1])[0] if told else []
            found[indices[place]] = CanaryDecision(model, threshold, score, anomaly, why)
        return found

    def _scores_alone(self, model: Model, rows: np.ndarray) -> Sequence[float | None]:
        return self._alone(model, rows, lambda some: checked(model.score(some), len(some)), "score")

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


def _no_score(tried: Sequence[Model]) -> str:
    """What has happened, and what to do: a model that could not be loaded may be what is missing."""
    names = ", ".join(one.version for one in tried if not isinstance(one, UnloadableModel))
    unloadable = [one for one in tried if isinstance(one, UnloadableModel)]
    refused = "".join(f"; {one.hash[:16]} cannot be loaded: {one.reason}" for one in unloadable)
    fix = "fix that and restart the worker, or " if unloadable else ""
    return (
        f"no model returns a score between 0 and 1 for a transaction ({names}{refused}): {fix}start "
        "with another FRAUDSTREAM_APP_ID and FRAUDSTREAM_MODEL, after `fraudstream topics` with the same"
    )


def _listed(odd: np.ndarray | None, rows: np.ndarray) -> list[float | None]:
    found: list[float | None] = [None] * len(rows) if odd is None else odd.tolist()
    return found
