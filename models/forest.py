"""Forests as flat arrays: all trees of a block are walked at once, level by level, in a few numpy calls.

scikit-learn walks tree by tree and pays some 40 us for each, whatever the block: milliseconds in which a
worker's event loop does nothing else. Measured with 100 trees and 26 features on one core, us a block:

    rows                                 1          30         100         300        1,000
    here, any forest of depth 8         38         130         350       1,000        3,400
    here, boosting of 15 leaves         47         130         310         910        3,000
    scikit-learn, random forest      4,400       4,400       4,900       5,600        7,500
    scikit-learn, isolation forest   4,700       6,600       5,300       5,600        7,000
    scikit-learn, boosting             440         430         530       1,030        2,600

A row's contributions take 40 to 55 us. Trees without a limit of depth (45 levels) take 170 us for one row.

The bits are scikit-learn's own (`tests/unit/test_forest.py`): the same comparisons on the same types (trees cast
features to float32, histogram boosting does not), and leaves added up in the order of the trees; only the power
that ends an anomaly score is libm's (see `flatten_isolation`) and may differ in the last bit. Nothing
depends on a block's company: every operation is one correctly rounded addition, multiplication or
comparison for each row and tree.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.tree import DecisionTreeClassifier

Rows = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

#: Rows times trees that are walked together: their temporary arrays stay in a core's cache.
CHUNK = 16_384
_FORESTS = (RandomForestClassifier, ExtraTreesClassifier)


@dataclass(frozen=True)
class Tree:
    """One tree as scikit-learn numbers its nodes: m nodes, the root first.

    Attributes:
        left, right: (m,) children; a row goes left when its feature is at most the threshold.
        feature, threshold: (m,) what a node asks; anything at leaves.
        leaf: (m,) which nodes are leaves.
        value: (m,) what a leaf adds; anything elsewhere.
        weight: (m,) training rows that came to each node.
    """

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    leaf: np.ndarray
    value: np.ndarray
    weight: np.ndarray


class Forest:
    """Trees whose leaves are added up.

    Nodes are numbered anew, so that the left child stands behind the right one: a step is
    `right + (feature <= threshold)`. A leaf asks for a feature below minus infinity and so leads to itself.

    Args:
        trees: at least one; their order is the order of the sum.
        start: what the sum starts from.
        single: whether features are compared as float32.
    """

    def __init__(self, trees: Sequence[Tree], start: float = 0.0, *, single: bool = True) -> None:
        parts = [_renumbered(tree) for tree in trees]
        offsets = np.cumsum([0, *(len(part.right) for part in parts[:-1])])
        self.start = start
        self.single = single
        self.depth = max(part.depth for part in parts)
        self._roots: Places = offsets.astype(np.intp)
        self._right: Places = np.concatenate(
            [part.right + offset for part, offset in zip(parts, offsets, strict=True)]
        ).astype(np.intp)
        self._feature: Places = np.concatenate([part.feature for part in parts]).astype(np.intp)
        self._threshold: Rows = np.concatenate([part.threshold for part in parts])
        self._value: Rows = np.concatenate([part.value for part in parts])
        self._mean: Rows = np.concatenate([part.mean for part in parts])

    def sums(self, rows: Rows) -> Rows:
        """The sum of each row's leaves, in the order of the trees.

        Args:
            rows: (n, k) finite float64, the features in the model's order.

        Returns:
            (n,) float64.
        """
        features = self._compared(rows)
        sums = np.empty(len(rows))
        step = max(1, CHUNK // len(self._roots))
        for begin in range(0, len(rows), step):
            chunk = features[begin : begin + step]
            leaves = self._value.take(self._walk(chunk))
            leaves[0] += self.start
            # accumulate adds one after the other, as scikit-learn does; reduce would add pairwise
            sums[begin : begin + step] = np.add.accumulate(leaves, axis=0)[-1]
        return sums

    def contributions(self, rows: Rows) -> Rows:
        """How far each feature moved each row's sum from the mean over the training rows, on its way down.

        Each step moves the mean of the leaves below a node to that of the child's; the feature that was
        asked gets the difference. They add up to the sum less the mean.

        Args:
            rows: (n, k) finite float64, the features in the model's order.

        Returns:
            (n, k) float64, each row what it would get alone.
        """
        features = self._compared(rows)
        told = np.empty(rows.shape)
        step = max(1, CHUNK // (len(self._roots) * (self.depth + 1)))
        for begin in range(0, len(rows), step):
            chunk = features[begin : begin + step]
            told[begin : begin + step] = self._told(chunk)
        return told

    def _told(self, features: Rows) -> Rows:
        count, width = features.shape
        path = [np.repeat(self._roots[:, np.newaxis], count, axis=1)]
        self._walk(features, path)
        nodes = np.stack(path)
        means = self._mean.take(nodes)
        steps = means[1:] - means[:-1]
        cells = self._feature.take(nodes[:-1])
        cells += np.arange(0, features.size, width, dtype=np.intp)
        # it adds one after the other: a row's cells in the order of levels and trees, whatever stands beside it
        told = np.bincount(cells.ravel(), steps.ravel(), minlength=features.size)
        return told.astype(np.float64, copy=False).reshape(count, width)

    def _compared(self, rows: Rows) -> Rows:
        """The features as they are compared, rows behind one another."""
        if self.single:
            return rows.astype(np.float32).astype(np.float64, order="C")
        return np.ascontiguousarray(rows)

    def _walk(self, features: Rows, path: list[Places] | None = None) -> Places:
        """Each tree's leaf for each row, (trees, rows); `path` gets the nodes of every level."""
        flat = features.ravel()
        base: Places = np.arange(0, flat.size, features.shape[1], dtype=np.intp)
        nodes: Places = np.repeat(self._roots[:, np.newaxis], len(features), axis=1)
        for _ in range(self.depth):
            asked = self._feature.take(nodes)
            asked += base
            left = flat.take(asked) <= self._threshold.take(nodes)
            nodes = self._right.take(nodes)
            nodes += left
            if path is not None:
                path.append(nodes)
        return nodes


@dataclass(frozen=True)
class Flat:
    """A forest and what becomes of its sums.

    Attributes:
        forest: the trees.
        finish: scores of sums, (n,) to (n,); row by row.
    """

    forest: Forest
    finish: Callable[[Rows], Rows]

    def score(self, rows: Rows) -> Rows:
        """The score of each row, bit for bit what scikit-learn gives, and what the row gets alone.

        Args:
            rows: (n, k) finite float64, C or Fortran order.

        Returns:
            (n,) float64.
        """
        return self.finish(self.forest.sums(rows))


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


@dataclass(frozen=True)
class _Renumbered:
    """A tree whose children stand side by side; `mean` is that of the leaves below each node."""

    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray
    mean: np.ndarray
    depth: int


def _renumbered(tree: Tree) -> _Renumbered:
    order, right, depth = [0], [], 0
    levels = [1]
    for place, node in enumerate(order):  # it grows under way: breadth first
        if place == levels[-1]:
            levels.append(len(order))
        if tree.leaf[node]:
            right.append(place)
        else:
            right.append(len(order))
            order += (int(tree.right[node]), int(tree.left[node]))
    depth = len(levels) - 1
    leaf = tree.leaf[order]
    value = np.where(leaf, tree.value[order], 0.0)
    weight = np.asarray(tree.weight, dtype=np.float64)[order]
    mean = value.copy()
    for place in range(len(order) - 1, -1, -1):  # children before parents
        if not leaf[place]:
            below = slice(right[place], right[place] + 2)
            mean[place] = np.average(mean[below], weights=weight[below])
    return _Renumbered(
        np.array(right),
        np.where(leaf, 0, tree.feature[order]),
        np.where(leaf, -np.inf, tree.threshold[order]),
        value,
        mean,
        depth,
    )


def _average_path(rows: int) -> float:
    """The mean path to one of so many rows in a random tree: scikit-learn's formula, its operations."""
    if rows <= 1:
        return 0.0
    if rows == 2:
        return 1.0
    log = float(np.log(np.array([rows - 1.0]))[0])
    return 2.0 * (log + np.euler_gamma) - 2.0 * (rows - 1.0) / rows
