"""Training: slices of time, the choice, thresholds, figures; the same arguments, the same bits."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from app.domain.features import Catalogue
from app.errors import UsageError
from app.lab.simulation.arrivals import Disorder, deliver
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.ops.feature_choice import choose_features
from app.ops.reference import (
    CardReference,
    ReferenceOutcome,
    ReferenceRules,
    TerminalReference,
    WaitingLabel,
)
from app.ops.train import TrainingOptions, place, train, train_on
from app.ops.training_features import compute_features
from app.settings import load_settings
from app.stages.deployed_features import catalogue_of
from models.artifact import load_artifact
from models.artifact_folders import artifact_folders
from models.evaluation import (
    DAY_MS,
    best_f1_threshold,
    budget_threshold,
    calibration,
    evaluate,
)
from models.evaluation_sets import (
    auc_and_precision,
    card_precision,
    intervals,
    on_known_cards,
    rank,
)
from models.model_loader import ModelHolder
from models.splits import split_by_time
from models.training_candidates import LOGISTIC_C, fit_best, refit
from models.training_examples import Examples

START = 1_735_689_600_000
CONFIG = SimulationConfig(cards=60, terminals=40, days=60, start_ms=START, seed=3)


@pytest.fixture(scope="module")
def drawn():
    return simulate(CONFIG)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return TrainingOptions(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture(scope="module")
def trained(drawn, options):
    settings = load_settings({"home": options.folder.parent, "features": "basic"})
    return train(drawn, settings, options, now_ms=START, kinds_of_fraud=drawn.fraud_kind)


def separable(count=3_000, seed=5):
    rng = np.random.default_rng(seed)
    features = rng.lognormal(1, 1, (count, 4))
    fraud = features[:, 2] + rng.normal(0, 2, count) > 10
    return features, fraud, np.arange(count) * 60_000


# ---------------------------------------------------------------- slices of time


def test_slices_follow_time_whatever_the_order_of_rows():
    times = np.random.default_rng(1).permutation(100)
    split = split_by_time(times, np.arange(100) % 2 == 0)
    assert [np.count_nonzero(rows) for rows in split] == [60, 20, 20]
    assert times[split.train].max() < times[split.valid].min()
    assert times[split.valid].max() < times[split.test].min()


def test_transactions_of_one_millisecond_stay_together():
    times = np.repeat(np.arange(10), 10)
    times[55:65] = 5
    split = split_by_time(times, np.arange(100) % 2 == 0)
    assert np.all(sum(rows.astype(int) for rows in split) == 1)
    assert not set(times[split.train]) & set(times[split.valid])


def test_a_slice_without_frauds_is_refused():
    fraud = np.zeros(100, dtype=bool)
    fraud[:70] = True
    with pytest.raises(UsageError, match=r"newest 20 % of the transactions contain 0 frauds in 20"):
        split_by_time(np.arange(100), np.roll(fraud, 5))
    with pytest.raises(UsageError, match="no transactions"):
        split_by_time(np.empty(0), np.empty(0, dtype=bool))


# ---------------------------------------------------------------- the choice


def test_the_best_of_the_validation_slice_is_kept():
    features, fraud, times = separable()
    split = split_by_time(times, fraud)
    told = []
    fitted = fit_best("logistic", features, fraud, split, tell=lambda *each: told.append(each))
    figures = {parameters["C"]: figure for parameters, figure in fitted.tried}
    assert list(figures) == list(LOGISTIC_C)
    assert figures[fitted.parameters["C"]] == max(figures.values()) > 0.8
    assert told[-1] == (len(LOGISTIC_C), len(LOGISTIC_C))
    assert fitted.usual == tuple(np.median(features[split.train], axis=0))


def test_only_the_oldest_slice_is_learned_from():
    features, fraud, times = separable()
    split = split_by_time(times, fraud)
    first = fit_best("logistic", features, fraud, split)
    changed = features.copy()
    changed[split.test] *= 7.0
    second = fit_best("logistic", changed, fraud, split)
    assert first.estimator[-1].coef_.tobytes() == second.estimator[-1].coef_.tobytes()


def test_the_same_arguments_give_the_same_bits():
    features, fraud, times = separable()
    split = split_by_time(times, fraud)
    first, second = (fit_best("logistic", features, fraud, split, seed=4) for _ in range(2))
    assert first.estimator[-1].coef_.tobytes() == second.estimator[-1].coef_.tobytes()
    assert first.estimator[-1].intercept_.tobytes() == second.estimator[-1].intercept_.tobytes()


@pytest.mark.parametrize("kind", ["forest", "blend"])
def test_trees_that_grow_side_by_side_are_the_same(kind):
    features, fraud, times = separable()
    split = split_by_time(times, fraud)
    fixed = {"forest": {"n_estimators": 5}, "blend": {"forest__n_estimators": 5}}[kind]
    alone, beside = (
        fit_best(kind, features, fraud, split, fixed=fixed, cores=cores) for cores in (1, 3)
    )
    every = np.arange(len(fraud)) >= 0
    alone, beside = (
        refit(each, features, fraud, every, cores=cores)
        for each, cores in ((alone, 1), (beside, 3))
    )
    assert alone.tried == beside.tried
    first, second = (each.estimator.predict_proba(features) for each in (alone, beside))
    assert first.tobytes() == second.tobytes()
    # left so, the trees would be added up in the order in which they are done
    whole = beside.estimator
    for each in (whole, *getattr(whole, "estimators_", ())):
        assert all(
            value is None for name, value in each.get_params().items() if name.endswith("n_jobs")
        )


# ---------------------------------------------------------------- thresholds


def test_best_f1_by_trying_every_score():
    rng = np.random.default_rng(8)
    scores = rng.random(300).round(2)
    fraud = rng.random(300) < scores**2

    def f1(threshold):
        called = scores >= threshold
        return 2 * np.count_nonzero(called & fraud) / (called.sum() + fraud.sum())

    assert f1(best_f1_threshold(scores, fraud)) == max(map(f1, scores))


@pytest.mark.parametrize("budget", [1, 3, 10, 24])
def test_a_budget_is_kept_even_where_scores_are_equal(budget):
    scores = np.random.default_rng(9).random(240).round(1) * 0.9
    times = np.linspace(0, 10 * DAY_MS, 240)
    called = np.count_nonzero(scores >= budget_threshold(scores, times, budget))
    assert called <= budget * 10


def test_a_budget_larger_than_the_traffic_calls_everything():
    assert budget_threshold(np.array([0.1, 0.2]), np.array([0, DAY_MS]), 50) == 0.0


# ---------------------------------------------------------------- figures


def test_card_precision_ranks_cards_by_their_highest_score_a_day():
    # day 0: cards a (fraud), b, c; day 1: a again (found already), b (fraud), c
    card = np.array(["a", "a", "b", "c", "a", "b", "c"])
    scores = np.array([0.1, 0.9, 0.8, 0.2, 0.9, 0.7, 0.1])
    fraud = np.array([False, True, False, False, True, True, False])
    times = np.array([1, 2, 3, 4, DAY_MS + 1, DAY_MS + 2, DAY_MS + 3])

    def precision(scores, top):
        return card_precision(rank(scores, fraud, card, times), top)

    assert (precision(scores, 1), precision(fraud * 1.0, 1)) == (1.0, 1.0)
    assert (precision(scores, 2), precision(fraud * 1.0, 2)) == (0.5, 0.5)
    assert precision(np.where(card == "c", 0.9, 0.1), 1) == 0.0


def test_a_card_that_counts_twice_takes_two_of_the_places():
    card = np.array(["a", "b", "c"])
    fraud = np.array([True, False, True])
    ranking = rank(np.array([0.9, 0.8, 0.7]), fraud, card, np.array([1, 2, 3]))
    assert card_precision(ranking, 2, np.array([2, 1, 1])) == 1.0
    assert card_precision(ranking, 2, np.array([0, 1, 1])) == 0.5
    assert card_precision(ranking, 2, np.array([1, 3, 1])) == 0.5


def test_cards_whose_fraud_is_known_are_blocked_day_by_day():
    """Two days are judged, 20 and 21; the delay is 3 days, the week before it begins on day 10."""
    days = {"old": 9, "week": 10, "last": 16, "next day": 17, "unknown": 18, "honest": None}
    card, day, fraud = [], [], []
    for name, fraud_day in days.items():
        for each in (fraud_day, 20, 21):
            if each is not None:
                card.append(name)
                day.append(each)
                fraud.append(each == fraud_day)
    times = np.array(day) * DAY_MS + 1_000
    judged = times >= 20 * DAY_MS
    known = on_known_cards(np.array(card), times, np.array(fraud), judged, 3 * DAY_MS)
    left_out = {
        (c, d)
        for c, d, k in zip(np.array(card)[judged], np.array(day)[judged], known, strict=True)
        if k
    }
    assert left_out == {("week", 20), ("week", 21), ("last", 20), ("last", 21), ("next day", 21)}


def test_weighted_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(12)
    scores = rng.random(400).round(2)
    fraud = rng.random(400) < scores**2
    card = rng.integers(0, 60, 400)
    ranking = rank(scores, fraud, card, np.arange(400))
    weights = rng.integers(0, 4, 60)
    each = weights[np.unique(card, return_inverse=True)[1]]
    auc, precision = auc_and_precision(ranking, weights)
    assert auc == pytest.approx(roc_auc_score(fraud, scores, sample_weight=each), abs=1e-12)
    expected = average_precision_score(fraud, scores, sample_weight=each)
    assert precision == pytest.approx(expected, abs=1e-12)
    assert auc_and_precision(ranking, np.zeros(60, dtype=int)) is None


def test_intervals_hold_the_figure_and_shrink_with_more_cards():
    rng = np.random.default_rng(13)

    def width(cards):
        card = np.repeat(np.arange(cards), 5)
        scores = rng.random(len(card))
        fraud = rng.random(len(card)) < scores**3
        ranking = rank(scores, fraud, card, np.arange(len(card)) * 60_000)
        found = intervals(ranking, seed=1)
        assert found == intervals(ranking, seed=1)
        low, high = found["auc"]
        assert low < roc_auc_score(fraud, scores) < high
        return high - low

    assert width(1_000) < width(60)


def test_calibration_covers_every_row_and_both_ends():
    scores = np.array([0.0, 0.0005, 0.02, 0.5, 1.0])
    table = calibration(scores, np.array([False, False, True, True, True]))
    assert [(row["from"], row["to"], row["rows"]) for row in table] == [
        (0.0, 0.001, 2),
        (0.01, 0.03, 1),
        (0.3, 1.0, 2),
    ]
    assert table[-1]["mean_score"] == 0.75
    assert table[-1]["fraud_share"] == 1.0


def test_the_figures_of_a_small_case():
    figures = evaluate(
        np.array([0.9, 0.8, 0.3, 0.1]),
        np.array([True, False, True, False]),
        threshold=0.5,
        card=np.array(["a", "b", "c", "d"]),
        event_time_ms=np.array([1, 2, 3, 4]),
        kind=["card", "none", "amount", "none"],
    )
    assert figures["confusion"] == {
        "true_positive": 1,
        "false_positive": 1,
        "false_negative": 1,
        "true_negative": 1,
    }
    assert (figures["precision"], figures["recall"], figures["f1"]) == (0.5, 0.5, 0.5)
    assert figures["auc"] == 0.75
    assert figures["recall_by_kind"] == {"amount": 0.0, "card": 1.0}
    assert figures["average_precision_by_chance"] == 0.5
    assert figures["ranked"] == {"rows": 4, "frauds": 2}


def test_blocked_cards_count_in_the_confusion_and_not_in_the_ranking():
    figures = evaluate(
        np.array([0.9, 0.8, 0.3, 0.1]),
        np.array([True, False, True, False]),
        threshold=0.5,
        card=np.array(["a", "b", "c", "d"]),
        event_time_ms=np.array([1, 2, 3, 4]),
        known=np.array([False, False, True, False]),
    )
    assert figures["ranked"] == {"rows": 3, "frauds": 1}
    assert figures["auc"] == 1.0
    assert figures["confusion"]["false_negative"] == 1
    nothing = evaluate(
        np.array([0.9, 0.1]),
        np.array([True, False]),
        threshold=0.5,
        card=np.array(["a", "b"]),
        event_time_ms=np.array([1, 2]),
        known=np.array([True, False]),
    )
    assert nothing["auc"] is None
    assert nothing["card_precision_at_100"] is None
    assert nothing["recall"] == 1.0


# ---------------------------------------------------------------- the whole


@pytest.mark.parametrize("sets", ["basic", "handbook,engineered"])
def test_features_are_the_streams_duplicates_and_late_ones_included(drawn, sets):
    settings = load_settings(
        {"windows": "1h,1d,7d", "max_entries_per_key": 60, "features": sets, "label_delay": "3d"}
    )
    names = catalogue_of(settings).names
    disorder = Disorder(out_of_order=0.1, late=0.05, duplicates=0.05)
    columns = deliver(drawn.take(slice(0, 1_500)), disorder, seed=2).valid
    got = compute_features(columns, settings)
    rules = ReferenceRules(
        windows_ms=settings.windows,
        allowed_lateness_ms=settings.allowed_lateness,
        max_entries=60,
        label_delay_ms=settings.label_delay,
        features=names,
    )
    cards, terminals = CardReference(rules), TerminalReference(rules)
    fates = set()
    for index, (name, card, terminal, minor) in enumerate(
        zip(
            columns.transaction_id.tolist(),
            columns.card_id.tolist(),
            columns.terminal_id.tolist(),
            columns.amount_minor.tolist(),
            strict=True,
        )
    ):
        t_ms = int(columns.event_time_ms[index])
        verdict = cards.apply(card, name, t_ms, minor)
        fates.add(verdict.became)
        if verdict.became is ReferenceOutcome.DUPLICATE:
            assert np.isnan(got[index]).all()
            continue
        weight = 0 if verdict.became is ReferenceOutcome.LATE else 1
        high = "high_amount" in verdict.flags
        at_terminal = terminals.apply(terminal or None, t_ms, weight, name, high=high)
        waits = WaitingLabel(
            name, t_ms, bool(columns.is_fraud[index]), t_ms, 0, ("labels", 0, index)
        )
        terminals.label(terminal or None, waits)
        expected = verdict.features | at_terminal.features
        assert dict(zip(names, got[index].tolist(), strict=True)) == expected
    assert fates == {ReferenceOutcome.SCORED, ReferenceOutcome.LATE, ReferenceOutcome.DUPLICATE}


def plain(columns, **more):
    """Columns that can be changed."""
    names = (
        "transaction_id",
        "card_id",
        "terminal_id",
        "amount_minor",
        "event_time_ms",
        "is_fraud",
    )
    return SimpleNamespace(**{name: getattr(columns, name) for name in names}, **more)


def test_a_label_counts_from_the_delay_on_whenever_within_it_it_came(drawn):
    settings = load_settings({"features": "engineered", "label_delay": "3d"})
    columns = drawn.take(slice(0, 3_000))
    times = columns.event_time_ms
    delays = np.random.default_rng(4).integers(0, settings.label_delay + 1, len(columns))
    at_once = compute_features(columns, settings)
    known_at = plain(columns, label_known_at_ms=times + delays)
    assert compute_features(known_at, settings).tobytes() == at_once.tobytes()
    known_at.label_known_at_ms = times + 40 * DAY_MS  # long after
    never = compute_features(known_at, settings)
    risk = catalogue_of(settings).names.index("terminal_risk_30d")
    assert at_once[:, risk].any()
    assert not never[:, risk].any()


def test_features_are_the_same_in_any_number_of_processes(drawn, monkeypatch):
    settings = load_settings({"features": "handbook,engineered", "label_delay": "3d"})
    columns = drawn.take(slice(0, 2_000))
    told: list[int] = []
    alone = compute_features(columns, settings, told.append)
    assert told == sorted(told)
    assert told[-1] == len(columns)
    monkeypatch.setattr("app.ops.training_features._ALONE", 0)
    assert compute_features(columns, settings, cores=2).tobytes() == alone.tobytes()


def test_features_with_labels_need_labels(drawn):
    columns = plain(drawn.take(slice(0, 10)))
    del columns.is_fraud
    with pytest.raises(UsageError, match="choose sets without them, such as label_free"):
        compute_features(columns, load_settings({"features": "handbook"}))
    assert not np.isnan(compute_features(columns, load_settings({"features": "label_free"}))).any()


def test_a_model_of_one_set_fits_a_deployment_of_more(drawn, options):
    folder = options.folder.parent / "fifteen"
    home = {"home": options.folder.parent, "model": str(folder)}
    small = load_settings({**home, "features": "handbook"})
    manifest = train(drawn, small, replace(options, folder=folder), now_ms=START).manifest
    assert len(manifest.features) == 15
    assert manifest.feature_schema == "handbook@1-delay7d"
    more = {**home, "features": "basic,handbook"}
    settings = load_settings(more)
    model = ModelHolder(artifact_folders(settings), catalogue_of(settings), 2).named(str(folder))
    rows = slice(0, 500)
    scores = model.score(compute_features(drawn.take(rows), settings))
    holder = ModelHolder(artifact_folders(small), catalogue_of(small), 2)
    same = holder.named(str(folder)).score(compute_features(drawn.take(rows), small))
    assert scores.tobytes() == same.tobytes()
    for change, remedy in (
        ({"features": "basic"}, "add handbook to FRAUDSTREAM_FEATURES"),
        ({"label_delay": "3d"}, "set FRAUDSTREAM_LABEL_DELAY=7d"),
    ):
        settings = load_settings(more | change)
        with pytest.raises(UsageError, match=remedy):
            ModelHolder(artifact_folders(settings), catalogue_of(settings), 2).named(str(folder))


def test_a_training_is_an_artifact_that_scores_as_it_was_judged(drawn, trained):
    manifest = trained.manifest
    settings = load_settings(
        {"home": trained.folder.parent, "model": str(trained.folder), "features": "basic"}
    )
    catalogue = Catalogue(settings.windows, 2, "UTC")
    model = ModelHolder(artifact_folders(settings), catalogue, 2).named(settings.model)
    features = compute_features(drawn, settings)
    split = split_by_time(drawn.event_time_ms, drawn.is_fraud)
    called = model.score(features[split.test]) >= manifest.threshold
    confusion = manifest.metrics["confusion"]
    assert np.count_nonzero(called) == confusion["true_positive"] + confusion["false_positive"]
    assert manifest.features == catalogue.names
    assert manifest.trained["rows"] == len(drawn)
    assert manifest.trained["frauds"] == np.count_nonzero(drawn.is_fraud)
    assert manifest.trained["from"].startswith("2025-01-01T")
    assert manifest.metrics["average_precision"] > manifest.metrics["average_precision_by_chance"]


def test_trained_twice_is_the_same_file(drawn, trained, options):
    settings = load_settings({"home": options.folder.parent, "features": "basic"})
    again = replace(options, folder=options.folder.parent / "again")
    assert train(drawn, settings, again, now_ms=START).manifest.sha256 == trained.manifest.sha256


def test_repeated_transactions_are_learned_once(drawn, trained, options):
    settings = load_settings({"home": options.folder.parent, "features": "basic"})
    repeated = deliver(drawn, Disorder(duplicates=0.2), seed=2).valid
    assert len(repeated) > len(drawn)
    twice = replace(options, folder=options.folder.parent / "repeated")
    got = train(repeated, settings, twice, now_ms=START).manifest
    assert got.trained["rows"] == len(drawn)
    assert got.sha256 == trained.manifest.sha256


def test_a_budget_of_alerts_sets_the_threshold(drawn, trained, options):
    settings = load_settings({"home": options.folder.parent, "features": "basic"})
    few = replace(options, folder=options.folder.parent / "few", alerts_a_day=0.2)
    manifest = train(drawn, settings, few, now_ms=START).manifest
    assert manifest.trained["threshold_by"] == "0.2 alerts a day"
    assert manifest.threshold != trained.manifest.threshold


def test_the_place_is_checked_before_the_work(tmp_path):
    settings = load_settings({"home": tmp_path})
    assert place(settings, "shop") == (1, tmp_path / "models" / "shop-1")
    with pytest.raises(UsageError, match="exists already"):
        place(settings, "shop", tmp_path)
    with pytest.raises(UsageError, match="is not a valid model name"):
        place(settings, "../shop")


def test_a_manifest_is_plain_json(trained):
    text = (trained.folder / "manifest.json").read_text()
    assert json.loads(text)["metrics"] == trained.manifest.metrics


def test_a_set_of_all_features_in_another_order_is_learned_in_its_own(tmp_path):
    """It was taken as it stood: models learned columns under the names of others."""
    settings = load_settings({"features": "handbook,engineered,label_free"})
    choice = choose_features(settings, "engineered")
    assert len(choice.columns) == len(catalogue_of(settings).names)
    assert choice.columns != sorted(choice.columns)
    rng = np.random.default_rng(1)
    features = rng.random((3_000, len(choice.columns)))
    fraud = features[:, 17] + 0.1 * rng.random(3_000) > 0.9
    times = np.arange(3_000) * 3_600_000
    cards = np.array([f"c{number % 50}" for number in range(3_000)])
    options = TrainingOptions(
        folder=tmp_path / "model", name="model", kind="logistic", features="engineered", source={}
    )
    trained = train_on(Examples(features, fraud, times, cards), settings, options, now_ms=0)
    model = load_artifact(trained.folder, trained.manifest).model
    found = model.predict_proba(features[:, choice.columns])[:, 1]
    assert average_precision_score(fraud, found) > 0.9
