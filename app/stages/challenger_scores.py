"""Challengers: shadows, and the canary, which decides for a share of the cards.

A challenger must neither stop nor delay the current model. If a challenger raises an error, or returns no number
between 0 and 1, its score for that transaction is null; if it is the canary, the current model decides.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from app.domain.challengers import Challenger
from app.stages.scoring_models import LoadedChallenger, Model, ScoringModels, checked, of_each_row
from app.wire.prediction_fields import SHADOW_FLAGGED, SHADOW_SCORES

T = TypeVar("T")

#: A name of its own, because the logs of Faust's services are silenced.
logger = logging.getLogger("fraudstream")


class CanaryDecision(NamedTuple):
    """The canary's decision on a transaction of one of its cards."""

    model: Model
    threshold: float
    score: float
    anomaly: float | None
    reasons: list[str]


class Challengers:
    """Computes the scores of challengers, and the canary's decisions.

    Args:
        reasons_from: lowest score for which reasons are computed.

    Attributes:
        failures: transactions without a score, by challenger.
    """

    def __init__(self, reasons_from: float) -> None:
        self.failures: Counter[str] = Counter()
        self._reasons_from = reasons_from
        self._told: set[tuple[str, str]] = set()

    def judge(
        self,
        judges: ScoringModels,
        cards: Sequence[str],
        scores: Sequence[float | None],
        features: Callable[[Model], np.ndarray],
    ) -> tuple[list[dict[str, Any]], dict[int, CanaryDecision]]:
        """The challengers' scores of some transactions.

        Args:
            judges: the models.
            cards: the card of each transaction.
            scores: those of the current model; None: it returned none.
            features: gives the transactions' features in the order of a model.

        Returns:
            For each transaction the additional fields of its prediction; and the canary's decisions, by the
            transaction's index.
        """
        said: list[tuple[str, float, Sequence[float | None]]] = [
            (judges.model.version, judges.threshold, scores)
        ]
        decided: dict[int, CanaryDecision] = {}
        canary = 0
        for place, one in enumerate(judges.beside, 1):
            rows = features(one.model)
            found = self._scores(one, rows)
            said.append((one.challenger.model, one.threshold, found))
            if one.challenger.share:
                canary, decided = place, self._decided(one, cards, rows, found)
        fields = []
        for index in range(len(cards)):
            decides = canary if index in decided else 0
            if scores[index] is None and not decides:  # an earlier model decides, not a challenger
                decides = -1
            others = [
                (name, threshold, found[index])
                for place, (name, threshold, found) in enumerate(said)
                if place != decides  # its score is the row's own
            ]
            fields.append({
                SHADOW_SCORES: {name: score for name, _, score in others},
                SHADOW_FLAGGED: [
                    name for name, threshold, score in others if score is not None and score >= threshold
                ],
            })  # fmt: skip
        return fields, decided

    def _scores(self, one: LoadedChallenger, rows: np.ndarray) -> Sequence[float | None]:
        return self._alone(
            one, rows, lambda some: checked(one.model.score(some), len(some)), "scores"
        )

    def _decided(
        self,
        one: LoadedChallenger,
        cards: Sequence[str],
        rows: np.ndarray,
        scores: Sequence[float | None],
    ) -> dict[int, CanaryDecision]:
        """The canary's decisions on its cards, with all fields that a prediction takes from the model that decides.

        If the canary raises for an anomaly score or for reasons, the row lacks them; its score still decides.
        """
        mine = {
            index: score
            for index, card in enumerate(cards)
            if (score := scores[index]) is not None and one.challenger.decides_for(card)
        }
        # reasons of a forest take milliseconds: only for scores that need them
        told = [index for index, score in mine.items() if score >= self._reasons_from]
        reasons = self._alone(one, rows[told], one.model.reasons, "reasons")
        why = {index: found or [] for index, found in zip(told, reasons, strict=True)}
        odd = self._alone(
            one, rows[list(mine)], lambda some: _anomalies(one.model, some), "anomaly scores"
        )
        return {
            index: CanaryDecision(
                one.model, one.threshold, mine[index], found and found[0], why.get(index, [])
            )
            for index, found in zip(mine, odd, strict=True)
        }

    def _alone(
        self,
        one: LoadedChallenger,
        rows: np.ndarray,
        function: Callable[[np.ndarray], Sequence[T | None]],
        what: str,
    ) -> Sequence[T | None]:
        """The function's result for each row; None for a row for which it raises, independent of the other rows."""
        found, why = of_each_row(rows, function)
        if None in found:
            why = why or getattr(one.model, "reason", "its scores are not between 0 and 1")
            self._tell(one.challenger, what, why)
            if what == "scores":
                self.failures[one.challenger.model] += found.count(None)
        return found

    def _tell(self, challenger: Challenger, what: str, why: str) -> None:
        if (challenger.model, what) not in self._told:
            self._told.add((challenger.model, what))
            logger.warning(
                "challenger %s has no %s for some transactions: %s. Their rows lack it; the decisions do not change. "
                "`fraudstream models %s %s --stop` ends it",
                challenger.model, what, why, "canary" if challenger.share else "shadow", challenger.model,
            )  # fmt: skip


def _anomalies(model: Model, rows: np.ndarray) -> list[tuple[float | None] | None]:
    """Anomaly score of each row; a model without anomaly scores gives None, which is not a failure."""
    odd = model.anomalies(rows)
    return [(None,)] * len(rows) if odd is None else [(each,) for each in odd.tolist()]
