"""Explanations: which features raised a score most, in sentences that a reviewer understands. Pure.

The scorer computes how far each feature moved the score (`models/scoring.py`); this module selects the strongest.
The wording is part of the feature (`app/domain/features`).
"""

from collections.abc import Callable, Sequence

from app.domain.features.feature import WINDOW, ExplainedTransaction, Phrase
from app.domain.features.feature_sets import find_feature
from app.domain.features.own_features import NOTHING, OwnCatalogue

MAX_REASONS = 3
#: Contributions below this share of the strongest one are omitted as noise.
WORTH_TELLING = 0.1


class Explainer:
    """Turns contributions into at most three sentences.

    Args:
        names: the model's features, in the order of the values that `reasons` gets.
        usual: each feature's baseline (the training median), in the same order.
        digits: digits after the decimal point in the deployment's currency.
    """

    def __init__(
        self,
        names: Sequence[str],
        usual: Sequence[float],
        digits: int = 2,
        own: OwnCatalogue = NOTHING,
    ) -> None:
        self.usual = tuple(usual)
        self._names = list(names)
        self._digits = digits
        self._worded = [_Worded(name, own) for name in names]

    def reasons(self, values: Sequence[float], contributions: Sequence[float]) -> list[str]:
        """The features that moved a transaction's score most towards fraud, as sentences, strongest first.

        Args:
            values: the transaction's features.
            contributions: how far each value moved the score, compared with its baseline; positive means towards
                fraud. The unit is the scorer's.

        Returns:
            At most three sentences, one per fact: a card that is used ten times in an hour would otherwise
            fill all three with its counts in several windows.
        """
        ranked = sorted((-push, index) for index, push in enumerate(contributions) if push > 0)
        others = dict(zip(self._names, values, strict=True))
        reasons: list[str] = []
        facts_told = set()
        for push, index in ranked:
            if (
                push > WORTH_TELLING * ranked[0][0]
            ):  # both negative: weaker than a tenth of the first
                break
            worded, facts = self._worded[index], self._facts(index, values, others)
            plainer = worded.plainer(facts)
            if plainer in others:
                index = self._names.index(plainer)  # noqa: PLW2901 -- the same fact under another name
                worded, facts = self._worded[index], self._facts(index, values, others)
            if worded.fact in facts_told:
                continue
            facts_told.add(worded.fact)
            reasons.append(worded.phrase(facts))
            if len(reasons) == MAX_REASONS:
                break
        return reasons

    def _facts(
        self, index: int, values: Sequence[float], others: dict[str, float]
    ) -> ExplainedTransaction:
        value = values[index]
        high = value > self.usual[index]
        return ExplainedTransaction(value, high, self._worded[index].window, self._digits, others)


class _Worded:
    """The wording of one of a model's features; a feature that this release does not know is named."""

    def __init__(self, name: str, own: OwnCatalogue) -> None:
        self.window = ""
        self.phrase: Phrase = lambda facts: f"{name} {facts.value:g} is {facts.level}"
        match = WINDOW.fullmatch(name)
        self.fact = match[1] if match else name
        self.plainer: Callable[[ExplainedTransaction], str | None] = _nothing
        try:
            feature, self.window = find_feature(name, own)
        except KeyError:
            return
        self.phrase, self.plainer = feature.phrase, feature.plainer
        self.fact = feature.fact or self.fact


def _nothing(_facts: ExplainedTransaction) -> str | None:
    return None
