"""Scikit-learn's fitted trees, forests and blends as flat arrays (`models/forest.py`), with its own bits.

Only the power that ends an anomaly score is libm's (see `flatten_isolation`), and may differ in the last bit.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from models.forest import Flat, Forest, Rows, Tree

_FORESTS = (RandomForestClassifier, ExtraTreesClassifier)


def flatten(estimator: Any) -> Flat | None:
    """The probability of class 1 of a fitted classifier of two classes; None when it cannot be flattened."""
    if type(estimator) is DecisionTreeClassifier:
        return _forest([estimator], estimator.classes_)
    if type(estimator) in _FORESTS:
        return _forest(estimator.estimators_, estimator.classes_)
    if type(estimator) is HistGradientBoostingClassifier:
        return _boosting(estimator)
    return None


def flatten_blend(estimator: Any) -> list[tuple[Flat, float]] | None:
    """The members of a fitted soft vote with their weights; None when it, or a member, cannot be flattened.

    Its probability is the members' weighted sum, added up in their order, divided by the weights' sum.
    """
    if type(estimator) is not VotingClassifier or estimator.voting != "soft":
        return None
    if estimator.classes_.tolist() != [0, 1]:
        return None
    flats = [flatten(member) for member in estimator.estimators_]
    weights = estimator.weights or [1.0] * len(flats)
    pairs = [(flat, float(weight)) for flat, weight in zip(flats, weights, strict=False) if flat]
    # a dropped member would leave its weight behind
    return pairs if len(pairs) == len(flats) == len(weights) else None


def flatten_isolation(estimator: IsolationForest) -> Flat:
    """The anomaly score of a fitted isolation forest: `-score_samples`, in [0, 1], the higher the odder."""
    trees = [
        # a leaf adds the path to it, and the path that its rows would still need to be told apart
        _tree(tree.tree_, depths + lengths - 1.0, features)
        for tree, features, depths, lengths in zip(
            estimator.estimators_,
            estimator.estimators_features_,
            estimator._decision_path_lengths,  # noqa: SLF001 -- computed by fit for score_samples alone
            estimator._average_path_length_per_tree,  # noqa: SLF001
            strict=True,
        )
    ]
    usual = len(trees) * _average_path(int(estimator.max_samples_))

    def finish(depths: Rows) -> Rows:
        # with a single training row nothing is odd and everything is
        exponents = (-(depths / usual) if usual else np.full(len(depths), -1.0)).tolist()
        # row by row, by libm: numpy's power is another one with AVX-512 than without, and a replay on another
        # processor would differ. Measured with AVX-512: the last bit of 5 % of scores is not scikit-learn's,
        # which takes numpy's; of 200 such, libm's was nearer the exact value in all
        return np.array([math.pow(2.0, exponent) for exponent in exponents])

    return Flat(Forest(trees), finish)


def _forest(estimators: Sequence[Any], classes: np.ndarray) -> Flat | None:
    """The mean of the trees' shares of fraud."""
    if classes.tolist() not in ([0, 1], [False, True]):
        return None
    count = len(estimators)
    forest = Forest([_tree(tree.tree_, tree.tree_.value[:, 0, 1]) for tree in estimators])
    return Flat(forest, lambda sums: sums / count)


def _boosting(estimator: HistGradientBoostingClassifier) -> Flat | None:
    """The logistic function of the trees' log-odds."""
    nodes = [tree.nodes for iteration in estimator._predictors for tree in iteration]  # noqa: SLF001
    categorical = any(each["is_categorical"].any() for each in nodes)
    if estimator.classes_.tolist() not in ([0, 1], [False, True]) or categorical or not nodes:
        return None
    trees = [
        Tree(
            each["left"],
            each["right"],
            each["feature_idx"],
            each["num_threshold"],
            each["is_leaf"].astype(bool),
            each["value"],
            each["count"],
        )
        for each in nodes
    ]
    start = float(estimator._baseline_prediction[0, 0])  # noqa: SLF001
    # scipy computes it number by number, and scikit-learn by scipy
    return Flat(Forest(trees, start, single=False), expit)


def _tree(tree: Any, value: np.ndarray, features: np.ndarray | None = None) -> Tree:
    """A tree of `sklearn.tree`; `features` names the columns where it saw some of them only."""
    leaf = tree.children_left < 0
    asked = np.where(leaf, 0, tree.feature)
    return Tree(
        tree.children_left,
        tree.children_right,
        asked if features is None else np.asarray(features)[asked],
        tree.threshold,
        leaf,
        value,
        tree.weighted_n_node_samples,
    )


def _average_path(rows: int) -> float:
    """The mean path to one of so many rows in a random tree: scikit-learn's formula, its operations."""
    if rows <= 1:
        return 0.0
    if rows == 2:
        return 1.0
    log = float(np.log(np.array([rows - 1.0]))[0])
    return 2.0 * (log + np.euler_gamma) - 2.0 * (rows - 1.0) / rows
