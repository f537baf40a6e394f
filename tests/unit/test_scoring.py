"""A row's score: the same bits whatever the company, and scikit-learn's figure."""

import math

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from app.domain.explanation import Explainer
from models.scoring import (
    SMALL_BLOCK,
    BlendScorer,
    BlockScorer,
    ForestScorer,
    LinearScorer,
    RowScorer,
    build_scorer,
    sigmoid,
)

FEATURES = 17
NAMES = [f"feature_{index}" for index in range(FEATURES)]


def draw(count: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Long-tailed rows like ours, with some frauds."""
    rng = np.random.default_rng(seed)
    rows = rng.lognormal(2.0, 1.5, (count, FEATURES))
    fraud = (rows[:, 0] + rng.normal(0, 10, count) > 25).astype(int)
    return rows, fraud


ROWS, FRAUD = draw(1_200)


def scorer_of(estimator, columns=range(FEATURES)):
    fitted = estimator.fit(ROWS[:400, : len(columns)], FRAUD[:400])
    return fitted, build_scorer(
        fitted, columns, Explainer(NAMES[: len(columns)], [7.0] * len(columns))
    )


@pytest.fixture(scope="module")
def linear():
    return scorer_of(make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)))


@pytest.fixture(scope="module")
def alone(linear):
    """Each row's score when nothing else is in its block."""
    return np.array([linear[1].score(ROWS[i : i + 1])[0] for i in range(len(ROWS))])


def test_a_logistic_regression_is_flattened(linear):
    assert type(linear[1]) is LinearScorer
    assert type(scorer_of(LogisticRegression(max_iter=2_000))[1]) is LinearScorer


def test_linear_scores_are_those_of_scikit_learn(linear, alone):
    pipeline, scorer = linear
    expected = pipeline.predict_proba(ROWS)[:, 1]
    np.testing.assert_allclose(scorer.score(ROWS), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", [1, 2, 3, 4, 5, 6, 7, 8])
def test_linear_bits_do_not_depend_on_block_size(linear, alone, first):
    scorer = linear[1]
    for size in range(first, 1_001, 24 if first > 1 else 1):
        start = (size * 7) % 199
        got = scorer.score(ROWS[start : start + size])
        assert got.tobytes() == alone[start : start + size].tobytes(), f"block of {size}"


def test_linear_bits_do_not_depend_on_position_order_or_memory_layout(linear, alone):
    scorer = linear[1]
    reversed_rows = ROWS[::-1]
    wide = np.zeros((len(ROWS), 2 * FEATURES + 1))[:, 1::2]
    wide[:] = ROWS
    unaligned = np.zeros(ROWS.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(ROWS.shape)
    unaligned[:] = ROWS
    for count in (3, SMALL_BLOCK, SMALL_BLOCK + 1, 33, 1_200):
        expected = alone[:count].tobytes()
        assert scorer.score(np.asfortranarray(ROWS[:count])).tobytes() == expected
        assert scorer.score(wide[:count]).tobytes() == expected
        assert scorer.score(unaligned[:count]).tobytes() == expected
        assert scorer.score(np.repeat(ROWS[:count], 3, axis=0)[1::3]).tobytes() == expected
        assert scorer.score(reversed_rows[-count:])[::-1].tobytes() == expected


def test_empty_block_and_chosen_columns():
    columns = [4, 0, 9]
    fitted, scorer = scorer_of(make_pipeline(StandardScaler(), LogisticRegression()), columns)
    assert scorer.score(np.empty((0, FEATURES))).shape == (0,)
    expected = fitted.predict_proba(ROWS[:50][:, columns])[:, 1]
    np.testing.assert_allclose(scorer.score(ROWS[:50]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-300, 40.0, -40.0, 746.0, -746.0, 1e9, -1e9])
def test_sigmoid_never_overflows(value):
    got = sigmoid(value)
    assert 0.0 <= got <= 1.0
    if abs(value) < 700:
        assert math.isclose(got, 1 / (1 + math.exp(-value)), rel_tol=1e-15)


TREES = [
    DecisionTreeClassifier(max_depth=5, random_state=1),
    RandomForestClassifier(n_estimators=5, max_depth=6, random_state=1, n_jobs=2),
    ExtraTreesClassifier(n_estimators=5, max_depth=6, random_state=1),
    GradientBoostingClassifier(n_estimators=10, random_state=1),
    HistGradientBoostingClassifier(max_iter=10, random_state=1),
]


@pytest.mark.parametrize("estimator", TREES, ids=lambda each: type(each).__name__)
def test_trees_are_scored_in_blocks_with_the_bits_of_a_row_alone(estimator):
    fitted, scorer = scorer_of(estimator)
    flat = not isinstance(estimator, GradientBoostingClassifier)
    assert type(scorer) is (ForestScorer if flat else BlockScorer)
    whole = scorer.score(ROWS)
    if hasattr(fitted, "n_jobs"):  # with two threads scikit-learn adds trees up as they finish
        fitted.n_jobs = 1
    np.testing.assert_array_equal(whole, fitted.predict_proba(ROWS)[:, 1])
    for size in (1, 2, 3, 8, 17, 100, 255, 1_000):
        start = 1_200 - size - size % 7
        block = np.asfortranarray(ROWS[start : start + size])
        assert scorer.score(block).tobytes() == whole[start : start + size].tobytes()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier((8,), max_iter=10, random_state=1),
        make_pipeline(MinMaxScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=1_000)),
    ],
    ids=["network", "other scaler", "no mean"],
)
def test_anything_else_is_scored_row_by_row(estimator):
    fitted, scorer = scorer_of(estimator)
    assert type(scorer) is RowScorer
    some = ROWS[:40]
    whole = scorer.score(some)
    np.testing.assert_allclose(whole, fitted.predict_proba(some)[:, 1], rtol=1e-9)
    for size in (1, 3, 17):
        assert scorer.score(some[5 : 5 + size]).tobytes() == whole[5 : 5 + size].tobytes()


def test_linear_contributions_add_up_to_the_log_odds(linear):
    pipeline, scorer = linear
    usual = np.full((1, FEATURES), 7.0)
    moved = pipeline.decision_function(ROWS[3:9]) - pipeline.decision_function(usual)
    assert scorer.contributions(ROWS[3:9]).sum(axis=1) == pytest.approx(moved, abs=1e-9)


@pytest.mark.parametrize("estimator", TREES, ids=lambda each: type(each).__name__)
def test_a_forest_inside_a_pipeline_is_scored_by_scikit_learn(estimator):
    fitted, scorer = scorer_of(make_pipeline(StandardScaler(), clone(estimator)))
    assert type(scorer) is BlockScorer
    np.testing.assert_array_equal(scorer.score(ROWS), fitted.predict_proba(ROWS)[:, 1])


@pytest.mark.parametrize("estimator", [TREES[0], TREES[1], TREES[4]])
def test_forest_contributions_add_up_to_what_moved_the_sum(estimator):
    _fitted, scorer = scorer_of(clone(estimator))
    usual = np.full((1, FEATURES), 7.0)
    moved = scorer._flat.forest.sums(ROWS[:20]) - scorer._flat.forest.sums(usual)
    assert scorer.contributions(ROWS[:20]).sum(axis=1) == pytest.approx(moved, abs=1e-9)


MEMBERS = [
    ("forest", RandomForestClassifier(n_estimators=9, max_depth=6, random_state=1)),
    ("histgb", HistGradientBoostingClassifier(max_iter=20, random_state=1)),
    ("extra", ExtraTreesClassifier(n_estimators=5, max_depth=6, random_state=1)),
]
BLENDS = [
    VotingClassifier(MEMBERS[:2], voting="soft"),
    VotingClassifier(MEMBERS[:2], voting="soft", weights=[0.3, 0.7]),
    VotingClassifier(MEMBERS, voting="soft", weights=[3, 1, 0.1]),
]


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(max_iter=2_000), *TREES, BLENDS[0]],
    ids=lambda each: type(each).__name__,
)
def test_reasons_name_what_moved_the_score(estimator):
    _fitted, scorer = scorer_of(clone(estimator))
    rows = np.full((2, FEATURES), 7.0)
    rows[1, 0] = 90.0
    usual, dear = scorer.reasons(rows)
    assert usual == []
    assert dear[0] == "feature_0 90 is high"
    assert scorer.reasons(rows[:0]) == []


@pytest.mark.parametrize("estimator", BLENDS, ids=["even", "weighted", "three"])
def test_a_blend_has_the_bits_of_scikit_learn_whatever_the_company(estimator):
    fitted, scorer = scorer_of(clone(estimator))
    assert type(scorer) is BlendScorer
    whole = scorer.score(ROWS)
    assert whole.tobytes() == fitted.predict_proba(ROWS)[:, 1].tobytes()
    assert scorer.score(ROWS[:0]).shape == (0,)
    for size in (1, 2, 3, 17, 255, 1_000):
        block = np.asfortranarray(ROWS[7 : 7 + size])
        assert scorer.score(block).tobytes() == whole[7 : 7 + size].tobytes()
        assert fitted.predict_proba(block)[:, 1].tobytes() == whole[7 : 7 + size].tobytes()


@pytest.mark.parametrize("estimator", BLENDS, ids=["even", "weighted", "three"])
def test_a_blends_contributions_add_up_to_what_its_probability_moved(estimator):
    _fitted, scorer = scorer_of(clone(estimator))
    usual = np.full((1, FEATURES), 7.0)
    assert scorer.contributions(usual).tolist() == [[0.0] * FEATURES]
    moved = scorer.score(ROWS[:50]) - scorer.score(usual)
    told = scorer.contributions(ROWS[:50])
    assert told.sum(axis=1) == pytest.approx(moved, abs=1e-9)
    alone = np.concatenate([scorer.contributions(row[np.newaxis]) for row in ROWS[:50]])
    assert alone.tobytes() == told.tobytes()


def test_a_blend_takes_its_features_from_their_columns():
    columns = [4, 0, 9]
    fitted, scorer = scorer_of(clone(BLENDS[0]), columns)
    expected = fitted.predict_proba(ROWS[:50][:, columns])[:, 1]
    assert scorer.score(ROWS[:50]).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "estimator",
    [
        VotingClassifier(
            [MEMBERS[0], ("linear", LogisticRegression(max_iter=2_000))], voting="soft"
        ),
        VotingClassifier([MEMBERS[0], ("extra", "drop")], voting="soft", weights=[1, 2]),
    ],
    ids=["a member that is no forest", "a member that was dropped"],
)
def test_other_blends_are_scored_by_scikit_learn(estimator):
    fitted, scorer = scorer_of(clone(estimator))
    assert type(scorer) is RowScorer
    np.testing.assert_allclose(
        scorer.score(ROWS[:40]), fitted.predict_proba(ROWS[:40])[:, 1], rtol=1e-12
    )
