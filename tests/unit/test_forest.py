"""Flat forests: scikit-learn's bits, whatever the shape of the trees and the company of a row."""

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from models import leaf_lookup
from models.flat_trees import flatten, flatten_isolation
from models.forest import CHUNK, Forest, Tree

FEATURES = 6
#: Whole numbers and halves: rows stand on thresholds, and thresholds between float32 and float64.
RNG = np.random.default_rng(11)
ROWS = np.hstack(
    [
        RNG.lognormal(2, 1.5, (600, 3)),
        RNG.integers(0, 5, (600, 2)).astype(float),
        RNG.normal(0, 1e9, (600, 1)) + 1 / 3,
    ]
)
FRAUD = (ROWS[:, 0] + RNG.normal(0, 8, 600) > 18) | (ROWS[:, 3] > RNG.integers(1, 9, 600))
SIZES = (1, 2, 3, 17, 100, 255, 600)

CLASSIFIERS = [
    DecisionTreeClassifier(random_state=1),
    DecisionTreeClassifier(max_depth=1, random_state=1),
    RandomForestClassifier(n_estimators=100, max_depth=8, random_state=2),
    RandomForestClassifier(n_estimators=7, random_state=2, class_weight="balanced", n_jobs=2),
    ExtraTreesClassifier(n_estimators=30, min_samples_leaf=3, random_state=3),
    HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=15, random_state=4),
    HistGradientBoostingClassifier(max_iter=5, max_depth=1, random_state=4),
]


@pytest.fixture(scope="module", params=CLASSIFIERS, ids=lambda each: repr(each)[:40])
def fitted(request):
    return request.param.fit(ROWS[:400], FRAUD[:400])


def thresholds_of(estimator) -> np.ndarray:
    """Rows that stand on the thresholds of the first tree, and a step beside."""
    nodes = (
        estimator._predictors[0][0].nodes["num_threshold"]
        if isinstance(estimator, HistGradientBoostingClassifier)
        else getattr(estimator, "estimators_", [estimator])[0].tree_.threshold
    )
    rows = np.repeat(nodes[:, np.newaxis], FEATURES, axis=1)
    return np.vstack([rows, np.nextafter(rows, np.inf), np.nextafter(rows, -np.inf)])


def test_probabilities_are_those_of_scikit_learn_to_the_bit(fitted):
    flat = flatten(fitted)
    assert flat is not None
    fitted.set_params(**({"n_jobs": 1} if "n_jobs" in fitted.get_params() else {}))
    for rows in (ROWS, thresholds_of(fitted)):
        assert flat.score(rows).tobytes() == fitted.predict_proba(rows)[:, 1].tobytes()


def test_a_rows_bits_do_not_depend_on_its_company(fitted):
    flat = flatten(fitted)
    alone = np.concatenate([flat.score(row[np.newaxis]) for row in ROWS])
    assert len(ROWS) * 100 > 2 * CHUNK  # the hundred trees are walked in several parts
    for size in SIZES:
        start = (size * 7) % (601 - size)
        rows = slice(start, start + size)
        for block in (
            ROWS[rows],
            np.asfortranarray(ROWS[rows]),
            np.repeat(ROWS, 2, axis=0)[::2][rows],
        ):
            assert flat.score(block).tobytes() == alone[rows].tobytes()
    assert flat.score(ROWS[:0]).shape == (0,)


def test_few_rows_get_the_bits_of_a_walk(fitted, monkeypatch):
    """Also on thresholds and beside them, and where the sets of leaves would be too large."""
    flat = flatten(fitted)
    rows = np.vstack([ROWS[:100], thresholds_of(fitted)[::7]])
    pairs = [rows[first : first + 2] for first in range(0, len(rows), 2)]
    by_sets = [(flat.score(pair), flat.forest.contributions(pair)) for pair in pairs]
    assert flat.forest._sets is not None
    monkeypatch.setattr(leaf_lookup, "_MOST_BYTES", -1)
    walked = flatten(fitted)
    assert walked.forest._sets is None
    for pair, (scores, contributions) in zip(pairs, by_sets, strict=True):
        assert walked.score(pair).tobytes() == scores.tobytes()
        assert walked.forest.contributions(pair).tobytes() == contributions.tobytes()


def test_contributions_add_up_to_the_sum_less_the_mean(fitted):
    forest = flatten(fitted).forest
    mean = forest._mean[forest._roots].sum() + forest.start
    given = forest.contributions(ROWS[:50])
    assert given.shape == (50, FEATURES)
    assert given.sum(axis=1) + mean == pytest.approx(forest.sums(ROWS[:50]), abs=1e-9)


def test_a_rows_contributions_do_not_depend_on_its_company(fitted):
    forest = flatten(fitted).forest
    alone = np.concatenate([forest.contributions(row[np.newaxis]) for row in ROWS])
    together = CHUNK // (len(forest._roots) * (forest.depth + 1))
    times = together // len(ROWS) + 2  # so many that they are walked in several parts
    block = np.tile(ROWS, (times, 1))
    assert forest.contributions(block).tobytes() == np.tile(alone, (times, 1)).tobytes()
    assert forest.contributions(np.asfortranarray(ROWS[5:8])).tobytes() == alone[5:8].tobytes()
    assert forest.contributions(ROWS[:0]).shape == (0, FEATURES)


@pytest.mark.parametrize(
    "options",
    [{}, {"max_features": 0.5}, {"max_samples": 2}, {"max_samples": 1}, {"n_estimators": 3}],
    ids=str,
)
def test_anomaly_scores_are_those_of_scikit_learn(options):
    estimator = IsolationForest(random_state=5, **options).fit(ROWS[:400])
    flat = flatten_isolation(estimator)
    expected = -estimator.score_samples(ROWS)
    got = flat.score(ROWS)
    # the sums of the paths are the same bits; numpy's power may differ from libm's in the last one
    np.testing.assert_array_max_ulp(got, expected, maxulp=1)
    alone = np.concatenate([flat.score(row[np.newaxis]) for row in ROWS[:200]])
    assert alone.tobytes() == got[:200].tobytes()
    assert got.min() >= 0
    assert got.max() <= 1


def test_what_cannot_be_flattened_is_left_to_others():
    three = RandomForestClassifier(n_estimators=2).fit(ROWS, RNG.integers(0, 3, len(ROWS)))
    assert flatten(three) is None
    colours = HistGradientBoostingClassifier(max_iter=3, categorical_features=[3])
    assert flatten(colours.fit(ROWS, FRAUD | (ROWS[:, 3] == 2))) is None
    assert flatten(object()) is None


def test_a_forest_by_hand():
    """
    x0 <= 1 ? 10 : (x1 <= 5 ? 20 : 40)      three rows went left, one to each other leaf
    """
    tree = Tree(
        left=np.array([1, -1, 3, -1, -1]),
        right=np.array([2, -1, 4, -1, -1]),
        feature=np.array([0, -2, 1, -2, -2]),
        threshold=np.array([1.0, -2, 5.0, -2, -2]),
        leaf=np.array([False, True, False, True, True]),
        value=np.array([0.0, 10, 0, 20, 40]),
        weight=np.array([5, 3, 2, 1, 1]),
    )
    forest = Forest([tree, tree], start=1.0)
    rows = np.array([[1.0, 9.0], [1.1, 5.0], [2.0, 5.5]])
    assert forest.depth == 2
    assert forest.sums(rows).tolist() == [21.0, 41.0, 81.0]
    # means: root 18, right child 30
    assert forest.contributions(rows[[0, 2]]).tolist() == [[-16.0, 0.0], [24.0, 20.0]]
