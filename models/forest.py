"""Forests as flat arrays: all trees of a block are walked at once, level by level, in a few numpy calls.

scikit-learn walks tree by tree and pays some 40 us for each, whatever the block: milliseconds in which a
worker's event loop does nothing else. Measured with 100 trees and 26 features on one core, us a block:

    rows                                 1          30         100         300        1,000
    here, any forest of depth 8         38         130         350       1,000        3,400
    here, boosting of 15 leaves         47         130         310         910        3,000
    scikit-learn, random forest      4,400       4,400       4,900       5,600        7,500
    scikit-learn, isolation forest   4,700       6,600       5,300       5,600        7,000
    scikit-learn, boosting             440         430         530       1,030        2,600

(Here before a walk used its arrays again and again: since then 0.5 to 0.7 of it from 30 rows on.) A row's
contributions take 40 to 55 us. Trees without a limit of depth (45 levels) take 170 us for one row.

The bits are scikit-learn's own (`tests/unit/test_forest.py`): the same comparisons on the same types (trees cast
features to float32, histogram boosting does not), and leaves added up in the order of the trees. Nothing
depends on a block's company: every operation is one correctly rounded addition, multiplication or
comparison for each row and tree. What makes them of scikit-learn's estimators: `models/flat_trees.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from models.leaf_lookup import FEW_ROWS, LeafSets, Node

Rows = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

#: Rows times trees that are walked together: their temporary arrays stay in a core's cache.
CHUNK = 16_384


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
        inner, firsts, leaves = _from_left_to_right(
            self._roots.tolist(), self._right.tolist(), self._feature, self._threshold
        )
        self._sets = LeafSets.of(inner, firsts, len(leaves))
        self._leaf_nodes: Places = np.array(leaves, dtype=np.intp)
        self._leaf_values: Rows = self._value.take(self._leaf_nodes)

    def sums(self, rows: Rows) -> Rows:
        """The sum of each row's leaves, in the order of the trees.

        Args:
            rows: (n, k) finite float64, the features in the model's order.

        Returns:
            (n,) float64.
        """
        features = self._compared(rows)
        if self._sets is not None and len(rows) <= FEW_ROWS:
            return np.array(
                [self._sum(self._sets, row) for row in features.tolist()], dtype=np.float64
            )
        sums = np.empty(len(rows))
        step = max(1, CHUNK // len(self._roots))
        for begin in range(0, len(rows), step):
            chunk = features[begin : begin + step]
            leaves = self._value.take(self._walk(chunk))
            leaves[0] += self.start
            # accumulate adds one after the other, as scikit-learn does; reduce would add pairwise
            sums[begin : begin + step] = np.add.accumulate(leaves, axis=0)[-1]
        return sums

    def _sum(self, sets: LeafSets, row: list[float]) -> float:
        leaves = self._leaf_values.take(sets.find(row))
        leaves[0] += self.start
        total: float = np.add.accumulate(leaves)[-1]
        return total

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
        if self._sets is not None and len(rows) <= FEW_ROWS:
            each = [self._told_by_leaf(self._sets, row) for row in features.tolist()]
            return np.array(each, dtype=np.float64).reshape(rows.shape)
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

    def _told_by_leaf(self, sets: LeafSets, row: list[float]) -> Rows:
        """The same additions in the same order as `_told`, of what is known of each leaf."""
        cells, steps = self._ways
        leaves = sets.find(row)
        told = np.bincount(
            cells.take(leaves, axis=1).ravel(),
            steps.take(leaves, axis=1).ravel(),
            minlength=len(row),
        )
        return told.astype(np.float64, copy=False)

    @cached_property
    def _ways(self) -> tuple[Places, Rows]:
        """Of each leaf, level by level on its way: the feature that is asked, and how far the mean moves there."""
        parents = np.arange(len(self._right), dtype=np.intp)
        inner = np.flatnonzero(self._right != parents)
        parents[self._right[inner]] = parents[self._right[inner] + 1] = inner
        ways = []
        for leaf in self._leaf_nodes.tolist():
            way = [leaf]
            while parents[way[-1]] != way[-1]:
                way.append(int(parents[way[-1]]))
            ways.append([*reversed(way), *[leaf] * (self.depth + 1 - len(way))])
        nodes = np.array(ways, dtype=np.intp).T
        means = self._mean.take(nodes)
        return self._feature.take(nodes[:-1]), means[1:] - means[:-1]

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
        asked = np.empty_like(nodes)
        value, threshold = np.empty(nodes.shape), np.empty(nodes.shape)
        left = np.empty(nodes.shape, dtype=bool)
        # No place is ever outside; "clip" is how numpy is told not to look, and to write to `out` without a copy
        # of its own. With arrays made anew at each level it took 1.8 times as long.
        for _ in range(self.depth):
            self._feature.take(nodes, out=asked, mode="clip")
            asked += base
            flat.take(asked, out=value, mode="clip")
            self._threshold.take(nodes, out=threshold, mode="clip")
            np.less_equal(value, threshold, out=left)
            self._right.take(nodes, out=asked, mode="clip")
            np.add(asked, left, out=nodes)
            if path is not None:
                path.append(nodes.copy())
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


@dataclass(frozen=True)
class _Renumbered:
    """A tree whose children stand side by side; `mean` is that of the leaves below each node."""

    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray
    mean: np.ndarray
    depth: int


def _from_left_to_right(
    roots: Sequence[int], right: Sequence[int], feature: Places, threshold: Rows
) -> tuple[list[Node], list[int], list[int]]:
    """Inner nodes, each tree's leftmost leaf, and the node of each leaf; leaves are numbered from left to right."""
    features, thresholds = feature.tolist(), threshold.tolist()
    inner: list[Node] = []
    firsts: list[int] = []
    leaves: list[int] = []
    for root in roots:
        firsts.append(len(leaves))
        #: nodes to be visited, the next one last; a negative one: the left side of this inner node is complete
        ahead = [root]
        began: dict[int, int] = {}
        while ahead:
            node = ahead.pop()
            if node < 0:
                node = ~node
                inner.append(Node(features[node], thresholds[node], began[node], len(leaves)))
            elif right[node] == node:
                leaves.append(node)
            else:
                began[node] = len(leaves)
                ahead += (right[node], ~node, right[node] + 1)
    return inner, firsts, leaves


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
