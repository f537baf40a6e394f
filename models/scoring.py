"""Scores that do not depend on company: a row gets the same bits alone, in a block, or in a replay.

scikit-learn's own probabilities do not promise that: a matrix product sums in an order that depends on
the batch's shape, and numpy's `log1p` and `exp` take other code paths for other strides and lengths
(measured: one `log1p` in a hundred differs in its last bit). So a logistic regression is flattened into
arrays here and summed feature by feature, with operations that IEEE 754 rounds correctly (+ and *) and
`math.exp` row by row; the order of the sum is that of the features. Forests are flattened too
(`models/forest.py`); what cannot be, scikit-learn scores.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from app.domain.explanation import Explainer
from models.flat_trees import flatten, flatten_blend, flatten_isolation
from models.forest import Flat

Rows = npt.NDArray[np.float64]

#: Up to this many rows plain Python is quicker than numpy's calls for each feature (measured with 17
#: features: 1 us a row against 20 us a block; in hundreds of rows numpy costs 0.2 us a row).
SMALL_BLOCK = 16
#: Sums of leaves that are nearer than that are taken for equal where one divides by what is between them.
_STEP = 1e-6

#: Their probabilities were measured not to depend on the batch's shape, and a test keeps watch.
TREES = (
    DecisionTreeClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)


class Scorer(ABC):
    """Scores rows of features, and says why.

    Args:
        columns: where the model's features stand in a row.
        explainer: words for the model's features, in the model's order.
    """

    def __init__(self, columns: Sequence[int], explainer: Explainer) -> None:
        self.columns = list(columns)
        self.explainer = explainer

    @abstractmethod
    def score(self, rows: Rows) -> Rows:
        """The probability of fraud of each row.

        Args:
            rows: (n, k) float64, k the features in the order of the catalogue; finite values.

        Returns:
            (n,) float64, each bit for bit what the row would get alone.
        """

    @abstractmethod
    def contributions(self, features: Rows) -> Rows:
        """How far each feature moved each score from where its usual value would have left it.

        Args:
            features: (n, m) float64, the model's features in the model's order.

        Returns:
            (n, m) float64, each row bit for bit what it would get alone.
        """

    def reasons(self, rows: Rows) -> list[list[str]]:
        """What moved each row's score most towards suspicion: at most three sentences a row.

        Args:
            rows: (n, k) float64, in the order of the catalogue.
        """
        features = rows[:, self.columns]
        told = self.contributions(features)
        # plain floats are quicker one by one than numpy's
        return list(map(self.explainer.reasons, features.tolist(), told.tolist()))


class LinearScorer(Scorer):
    """A logistic regression over (standardised) features, flattened.

    Contributions are in log-odds.
    """

    def __init__(self, steps: Sequence[Any], columns: Sequence[int], explainer: Explainer) -> None:
        super().__init__(columns, explainer)
        *before, model = steps
        weights = model.coef_[0].astype(np.float64)
        offset = float(model.intercept_[0])
        for scaler in before:
            weights = weights / scaler.scale_
            offset -= math.fsum(scaler.mean_ * weights)
        self.weights: list[float] = weights.tolist()
        self.offset = offset
        self._terms = list(zip(self.columns, self.weights, strict=True))
        self._usual, self._slopes = np.array(explainer.usual), weights

    @classmethod
    def fits(cls, steps: Sequence[Any]) -> bool:
        """Whether these pipeline steps are ones that can be flattened."""
        *before, model = steps
        return (
            type(model) is LogisticRegression
            and model.classes_.tolist() == [0, 1]
            and [type(step) for step in before] in ([], [StandardScaler])
            and all(step.with_mean and step.with_std for step in before)
        )

    def score(self, rows: Rows) -> Rows:
        """See `Scorer.score`."""
        if len(rows) <= SMALL_BLOCK:
            sums = [self._sum(row) for row in rows.tolist()]
        else:
            total = np.full(len(rows), self.offset)
            for column, weight in self._terms:
                total += rows[:, column] * weight
            sums = total.tolist()
        return np.array([sigmoid(value) for value in sums])

    def contributions(self, features: Rows) -> Rows:
        """See `Scorer.contributions`; in log-odds."""
        return (features - self._usual) * self._slopes

    def _sum(self, row: list[float]) -> float:
        """The same operations in the same order as on whole columns: the same bits."""
        total = self.offset
        for column, weight in self._terms:
            total += row[column] * weight
        return total


class ForestScorer(Scorer):
    """Trees as flat arrays.

    Contributions are in what the trees add up: log-odds with boosting, probability (times the trees) otherwise.
    """

    def __init__(self, flat: Flat, columns: Sequence[int], explainer: Explainer) -> None:
        super().__init__(columns, explainer)
        self._flat = flat
        self._places = np.array(self.columns, dtype=np.intp)
        usual = np.array([explainer.usual], dtype=np.float64)
        self._usual = flat.forest.contributions(usual)
        self._usual_sum = flat.forest.sums(usual)

    def score(self, rows: Rows) -> Rows:
        """See `Scorer.score`."""
        return self._flat.score(rows.take(self._places, axis=1))

    def contributions(self, features: Rows) -> Rows:
        """See `Scorer.contributions`: the way down the trees, less the way that the usual values take.

        They add up to the row's sum less that of the usual values. Scoring the row once more for each
        feature would cost more, and would miss news that two features tell alike.
        """
        return self._flat.forest.contributions(features) - self._usual

    def in_probability(self, features: Rows) -> Rows:
        """The contributions, a row's stretched alike so that they add up to what its probability moved."""
        told = self.contributions(features)
        # walking the trees once more for the exact sums would double the cost
        moved = np.array([math.fsum(row) for row in told.tolist()])
        # below that the slope: a quotient of roundings would be anything
        moved = np.where(np.abs(moved) < _STEP, _STEP, moved)
        finish, usual = self._flat.finish, self._usual_sum
        stretch: Rows = (finish(usual + moved) - finish(usual)) / moved
        return told * stretch[:, np.newaxis]


class BlendScorer(Scorer):
    """Several forests as flat arrays, and the mean of their probabilities: scikit-learn's soft vote.

    Contributions are in probability: boosting tells its own in log-odds, which cannot be added to a random
    forest's, so each member's are stretched until they add up to what its probability moved. They add
    up to the row's score less that of the usual values.
    """

    def __init__(
        self,
        members: Sequence[tuple[Flat, float]],
        columns: Sequence[int],
        explainer: Explainer,
    ) -> None:
        super().__init__(columns, explainer)
        self._members = [
            ForestScorer(flat, range(len(self.columns)), explainer) for flat, _ in members
        ]
        self._weights = [weight for _, weight in members]
        self._total = sum(self._weights)

    def score(self, rows: Rows) -> Rows:
        """See `Scorer.score`."""
        features = rows[:, self.columns]
        total = np.zeros(len(features))
        # one after the other, as scikit-learn adds them: another order would have other last bits
        for member, weight in zip(self._members, self._weights, strict=True):
            total += member.score(features) * weight
        total /= self._total
        return total

    def contributions(self, features: Rows) -> Rows:
        """See `Scorer.contributions`; in probability."""
        moved = np.zeros(features.shape)
        for member, weight in zip(self._members, self._weights, strict=True):
            moved += member.in_probability(features) * weight
        return moved / self._total


class BlockScorer(Scorer):
    """An estimator whose probabilities do not depend on the batch: it gets whole blocks.

    Contributions are in probability: what the score loses when the feature takes its usual value.
    """

    def __init__(self, pipeline: Any, columns: Sequence[int], explainer: Explainer) -> None:
        super().__init__(columns, explainer)
        self.pipeline = pipeline
        model = _steps(pipeline)[-1]
        if hasattr(model, "n_jobs"):
            model.n_jobs = 1  # threads would add the trees up in whatever order they finish
        self._positive = positive_column(model)

    def score(self, rows: Rows) -> Rows:
        """See `Scorer.score`."""
        if not len(rows):
            return np.empty(0)
        return self._probabilities(np.ascontiguousarray(rows[:, self.columns]))

    def contributions(self, features: Rows) -> Rows:
        """See `Scorer.contributions`; in probability."""
        return np.array([self._contributions(row) for row in features]).reshape(features.shape)

    def _contributions(self, row: Rows) -> Rows:
        variants = np.tile(row, (len(row) + 1, 1))
        for index, usual in enumerate(self.explainer.usual):
            variants[index + 1, index] = usual
        scores = self._probabilities(variants)
        return scores[0] - scores[1:]

    def _probabilities(self, features: Rows) -> Rows:
        result: Rows = self.pipeline.predict_proba(features)[:, self._positive]
        return np.ascontiguousarray(result)


class RowScorer(BlockScorer):
    """Any other estimator: one row at a time, in a buffer of its own, so that its shape and place never change."""

    def __init__(self, pipeline: Any, columns: Sequence[int], explainer: Explainer) -> None:
        super().__init__(pipeline, columns, explainer)
        self._buffer = np.empty((1, len(columns)))

    def _probabilities(self, features: Rows) -> Rows:
        scores = np.empty(len(features))
        for index, row in enumerate(features):
            self._buffer[0] = row
            scores[index] = self.pipeline.predict_proba(self._buffer)[0, self._positive]
        return scores


class AnomalyScorer:
    """An isolation forest as flat arrays: how odd a row is, in [0, 1]; about a half is ordinary.

    Args:
        isolation: a fitted `IsolationForest`.
        columns: where its features stand in the rows that it will be given.
    """

    def __init__(self, isolation: IsolationForest, columns: Sequence[int]) -> None:
        self._flat = flatten_isolation(isolation)
        self._places = np.array(columns, dtype=np.intp)

    def score(self, rows: Rows) -> Rows:
        """See `Scorer.score`."""
        return self._flat.score(rows.take(self._places, axis=1))


def build_scorer(pipeline: Any, columns: Sequence[int], explainer: Explainer) -> Scorer:
    """The quickest scorer that keeps a row's bits the same whatever the company.

    Args:
        pipeline: a fitted scikit-learn classifier or Pipeline of two classes, 0 and 1 (fraud).
        columns: where its features stand in the rows that it will be given.
        explainer: words for its features, in its order.
    """
    steps = _steps(pipeline)
    if LinearScorer.fits(steps):
        return LinearScorer(steps, columns, explainer)
    if len(steps) == 1:
        flat = flatten(steps[0])
        if flat is not None:
            return ForestScorer(flat, columns, explainer)
        members = flatten_blend(steps[0])
        if members is not None:
            return BlendScorer(members, columns, explainer)
    kind: Callable[..., Scorer] = BlockScorer if isinstance(steps[-1], TREES) else RowScorer
    return kind(pipeline, columns, explainer)


def positive_column(estimator: Any) -> int:
    """The column of `predict_proba` that holds the probability of class 1, fraud."""
    return int(estimator.classes_.tolist().index(1))


def sigmoid(value: float) -> float:
    """The probability of these log-odds; no argument overflows."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    power = math.exp(value)
    return power / (1.0 + power)


def _steps(pipeline: Any) -> list[Any]:
    return [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else [pipeline]
