"""The current model, and the earlier models that decide if it returns no score.

A model that raises for a transaction, or returns no number between 0 and 1, must not stop the stream: the transactions
between its promotion and its revert need a decision, and a replay must give the same one. So a row without a score is
decided by the previous model, or the one before that, independent of the other rows in the micro-batch.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from app.errors import StateError
from app.stages.challenger_scores import CanaryDecision
from app.stages.guard_counts import TalliesByChange
from app.stages.scoring_models import (
    FallbackNeededError,
    Model,
    ScoringModels,
    UnloadableModel,
    checked,
    of_each_row,
)

#: A name of its own, because the logs of Faust's services are silenced.
logger = logging.getLogger("fraudstream")

#: Errors of this machine, not of the model: another worker would return a score.
_FATAL = (MemoryError, OSError)


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
