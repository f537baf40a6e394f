"""Models that score beside the one that decides: shadows, and the canary, which decides for a share of the cards.

What they do must neither stop nor delay the model that decides: one that raises, or gives no number between 0 and 1,
has no score for that transaction (null), and a canary then leaves the decision to the other model.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from app.domain.changes import Challenger
from app.stages.scorers import LoadedChallenger, Model, ScoringModels, checked, of_each_row
from app.wire.prediction_fields import SHADOW_FLAGGED, SHADOW_SCORES

T = TypeVar("T")

#: Under a name that is not silenced with Faust's services.
logger = logging.getLogger("fraudstream")


class CanaryDecision(NamedTuple):
    """What the canary says of one of its cards' transactions."""

    model: Model
    threshold: float
    score: float
    anomaly: float | None
    reasons: list[str]


class Challengers:
    """Scores by the models that do not decide, and decisions by the canary.

    Args:
        reasons_from: reasons are given for scores from here on.

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
        """What the challengers say of some transactions.

        Args:
            judges: the models.
            cards: of each transaction.
            scores: by the model that decides; None: it gives none.
            features: of the transactions, as a model takes them.

        Returns:
            For each transaction the fields that its prediction has besides, and by its number what the canary
            decides.
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
            if scores[index] is None and not decides:  # the model of before will: nobody here
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
        """What the canary decides of its cards, with all that a row has of the model that decided it.

        Where it raises for an anomaly score or for reasons, the row has none: its score decides all the same.
        """
        mine = {
            index: score
            for index, card in enumerate(cards)
            if (score := scores[index]) is not None and one.challenger.decides_for(card)
        }
        # with a forest one takes milliseconds: only where they are asked for
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
        """What a function gives of each row; None where it raises, whatever it makes of other rows."""
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
    """Anomaly score of each row; one without them has none, and has not failed."""
    odd = model.anomalies(rows)
    return [(None,)] * len(rows) if odd is None else [(each,) for each in odd.tolist()]
