"""Training as a bank would meet it: the label delay before what chooses, given parameters, week after week."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.tree import DecisionTreeClassifier

from app.errors import UsageError
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.ops.train import TrainingOptions, train
from app.ops.training_features import compute_features
from app.settings import load_settings
from models.backtest import judge_weeks
from models.splits import VALIDATION_MS, Periods, Split, in_training, split_by_periods
from models.training_candidates import KINDS, Candidate, candidates_of, fit_best, refit
from models.training_examples import Examples

START = 1_735_689_600_000  # 2025-01-01
DAY_MS = 86_400_000
HOUR = 3_600_000


def periods(days: int, delay: int = 7) -> Periods:
    train_to = START + days * DAY_MS
    test_from = train_to + delay * DAY_MS
    return Periods(START, train_to, test_from, test_from + VALIDATION_MS, delay * DAY_MS)


def hourly(days: int) -> tuple[np.ndarray, np.ndarray]:
    """A transaction an hour, every other one a fraud."""
    times = START + np.arange(days * 24) * HOUR
    return times, np.arange(days * 24) % 2 == 0


def span(times: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """First and last day, from the beginning."""
    return tuple(((times[rows][[0, -1]] - START) / DAY_MS).round(1).tolist())


# days        0       14      21      28      35      42
# learned     |=======|       .       .       |       .       at first: its labels are known when
# chooses             .       |+++++++|       .       .       this begins
# in the end  |=======================|       .       .
# judges                                      |-------|
def test_the_label_delay_lies_before_what_chooses():
    times, fraud = hourly(60)
    split = split_by_periods(times, fraud, periods(28))
    assert [span(times, rows) for rows in split] == [(0, 14), (21, 28), (35, 42)]
    assert span(times, in_training(times, periods(28))) == (0, 28)


def test_a_period_too_short_for_the_delay_chooses_all_the_same():
    times, fraud = hourly(60)
    split = split_by_periods(times, fraud, periods(8))
    assert [span(times, rows) for rows in split] == [(0, 6), (6, 8), (15, 22)]


def learnable(count: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    features = rng.lognormal(1, 1, (count, 4))
    return features, features[:, 2] + rng.normal(0, 2, count) > 10


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("logistic", {"C": 0.5}),
        ("histgb", {"max_iter": 7}),
        ("forest", {"n_estimators": 3}),
        ("blend", {"forest__n_estimators": 3}),
    ],
)
def test_parameters_may_be_given(kind, given):
    features, fraud = learnable()
    rows = np.arange(2_000)
    split = Split(rows < 1_000, (rows >= 1_000) & (rows < 1_500), rows >= 1_500)
    fitted = fit_best(kind, features, fraud, split, fixed=given)
    assert fitted.parameters == given
    assert [parameters for parameters, _ in fitted.tried] == [given]
    model = fitted.estimator[-1] if kind == "logistic" else fitted.estimator
    ((name, value),) = given.items()
    assert model.get_params()[name] == value
    assert len(candidates_of(kind, 1)) == len(KINDS[kind](1)) > 1


def test_a_blend_learns_from_all_frauds_and_some_of_the_rest_with_their_weight(monkeypatch):
    given = []

    class Recording(DecisionTreeClassifier):
        def fit(self, features, labels, sample_weight=None):
            given.append((features, labels, sample_weight))
            return super().fit(features, labels, sample_weight)

    def candidates(_seed):
        return [Candidate({}, Recording(max_depth=2), genuine=0.25)]

    monkeypatch.setattr("models.training_candidates.KINDS", {"recording": candidates})
    features, fraud = learnable(8_000)
    rows = np.arange(8_000)
    split = Split(rows < 4_000, (rows >= 4_000) & (rows < 6_000), rows >= 6_000)
    fitted = fit_best("recording", features, fraud, split, seed=3)
    refit(fitted, features, fraud, rows < 6_000)
    for (seen, labels, weights), until in zip(given, (4_000, 6_000), strict=True):
        frauds = np.count_nonzero(fraud[:until])
        assert np.count_nonzero(labels) == frauds
        assert set(map(tuple, features[:until][fraud[:until]])) <= set(map(tuple, seen))
        assert set(weights[labels == 1]) == {1.0}
        assert set(weights[labels == 0]) == {4.0}
        assert weights[labels == 0].sum() == pytest.approx(until - frauds, rel=0.1)
    again = fit_best("recording", features, fraud, split, seed=3)
    assert given[2][0].tobytes() == given[0][0].tobytes()
    assert again.tried == fitted.tried


def test_a_blends_probabilities_are_those_of_all_transactions():
    features, fraud = learnable(8_000)
    rows = np.arange(8_000)
    split = Split(rows < 4_000, (rows >= 4_000) & (rows < 6_000), rows >= 6_000)
    (candidate,) = candidates_of("blend", 1, {"forest__n_estimators": 10, "histgb__max_iter": 30})
    assert candidate.genuine < 1
    fitted = fit_best("blend", features, fraud, split, fixed=candidate.parameters)
    told = fitted.estimator.predict_proba(features[split.test])[:, 1].mean()
    # unweighted, it would tell several times as many
    assert told == pytest.approx(fraud[split.test].mean(), rel=0.15)


def test_a_parameter_that_there_is_not():
    with pytest.raises(
        UsageError, match="--parameter D is unknown; blend has .*forest__max_depth, "
    ):
        candidates_of("blend", 1, {"D": 1})

    with pytest.raises(UsageError, match="--parameter D is unknown; logistic has C, "):
        candidates_of("logistic", 1, {"D": 1})


def weekly(weeks: int, days: int = 70):
    times = START + np.arange(days * 48) * HOUR // 2
    features, fraud = learnable(days * 48)
    card = np.array([f"c{number}" for number in range(len(times))])
    examples = Examples(features, fraud, times, card)
    given = periods(21)
    fitted = fit_best("logistic", features, fraud, split_by_periods(times, fraud, given))
    return fitted, examples, given, judge_weeks(fitted, features, examples, given, weeks)


def test_each_week_has_a_model_of_its_own():
    fitted, examples, given, found = weekly(4)
    assert [(week["train_from"], week["test_from"]) for week in found] == [
        ("2025-01-01", "2025-01-29"),
        ("2025-01-08", "2025-02-05"),
        ("2025-01-15", "2025-02-12"),
        ("2025-01-22", "2025-02-19"),
    ]
    assert len({week["average_precision"] for week in found}) == 4
    # the third one by hand
    later = replace(
        given, train_from=given.train_from + 14 * DAY_MS, train_to=given.train_to + 14 * DAY_MS
    )
    rows = in_training(examples.event_time_ms, later)
    estimator = refit(fitted, examples.features, examples.is_fraud, rows).estimator
    judged = (examples.event_time_ms >= given.test_from + 14 * DAY_MS) & (
        examples.event_time_ms < given.test_from + 21 * DAY_MS
    )
    scores = estimator.predict_proba(examples.features[judged])[:, 1]
    by_hand = average_precision_score(examples.is_fraud[judged], scores)
    assert found[2]["average_precision"] == pytest.approx(by_hand, abs=1e-12)


def test_a_week_without_transactions_is_named():
    with pytest.raises(UsageError, match="--weeks 9: the week from 2025-03-12 has 0 frauds in 0"):
        weekly(9)


def test_a_training_tells_its_weeks(tmp_path):
    drawn = simulate(SimulationConfig(cards=300, terminals=300, days=70, start_ms=START, seed=5))
    settings = load_settings({"home": tmp_path})
    options = TrainingOptions(tmp_path / "m", periods=periods(45), weeks=2, fixed={"C": 1.0})
    made = train(drawn, settings, options, now_ms=START).manifest
    weeks = made.metrics["weeks"]
    assert [week["test_from"] for week in weeks] == ["2025-02-22", "2025-03-01"]
    assert weeks[0]["average_precision"] == pytest.approx(
        made.metrics["average_precision"], abs=1e-9
    )
    assert made.trained["parameters"] == {"C": 1.0}


def test_terminals_and_labels_raise_average_precision():
    """What the second stage and the road of labels are for, on the project's own simulator.

    Whole weeks judge, known cards included: the stream scores them too.
    """
    days, weeks = 70, 3
    drawn = simulate(
        SimulationConfig(cards=900, terminals=1_800, days=days, start_ms=START, seed=1)
    )
    times, fraud = drawn.event_time_ms, drawn.is_fraud.astype(bool)
    test_from = START + days * DAY_MS - weeks * VALIDATION_MS
    learned, judged = times < test_from - 7 * DAY_MS, times >= test_from
    genuine = ~fraud[judged]
    at_terminals = drawn.fraud_kind[judged] == "terminal"
    reached = {}
    for sets in ("basic", "engineered"):
        settings = load_settings({"features": sets, "label_delay": "7d"})
        features = compute_features(drawn, settings)
        (candidate,) = candidates_of("logistic", 1, {"C": 1.0})
        model = candidate.estimator.fit(features[learned], fraud[learned].astype(int))
        scores = model.predict_proba(features[judged])[:, 1]
        reached[sets] = [
            average_precision_score(fraud[judged], scores),
            average_precision_score(
                at_terminals[genuine | at_terminals], scores[genuine | at_terminals]
            ),
        ]
    without, with_labels = reached["basic"], reached["engineered"]
    assert with_labels[0] > without[0] + 0.2
    # of the frauds at compromised terminals nothing shows without labels
    assert without[1] < 0.05
    assert with_labels[1] > 0.4
