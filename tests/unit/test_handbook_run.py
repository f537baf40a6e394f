"""The Handbook's proof without servers: periods, goals, the file, stored rows, figures, the report."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.cli.command_errors import run
from app.errors import NotFoundError, UsageError, VerificationError
from app.lab.handbook import data, evaluation, rows
from app.lab.handbook.evaluation import Lines
from app.lab.handbook.live import Pass
from app.lab.handbook.plan import ENGINEERED, GOALS, Figures, Plan, Recipe
from app.lab.handbook.report import Report
from app.lab.handbook.run import deciders
from app.lab.handbook.weekly_retraining import Call, Segments
from app.ops.feature_choice import choose_features
from app.ops.train import TrainingOptions, train_on
from app.settings import load_settings
from models.artifact import load_artifact
from models.training_examples import Examples

HEADER = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_TIME_SECONDS,TX_FRAUD"
PLAN = Plan(Path("transactions.csv"))


def day(text: str) -> int:
    return int(np.datetime64(text, "ms").astype(np.int64))


def test_the_weeks_are_those_of_the_published_figures():
    week = PLAN.a_week()
    assert (week.train_from, week.train_to) == (day("2018-07-25"), day("2018-08-01"))
    assert (week.test_from, week.test_to) == (day("2018-08-08"), day("2018-08-15"))
    assert week.later(3).test_to == day("2018-09-05") == PLAN.end_ms
    assert PLAN.complete
    assert not replace(PLAN, rows=10).complete
    assert not replace(PLAN, weeks=3).complete


def test_the_champion_learns_until_the_delay_before_the_first_week_that_judges():
    first = day("2018-04-01")
    everything = replace(PLAN, recipe=Recipe(train_days=None)).champions(first)
    assert everything.train_from == first
    recent = replace(PLAN, recipe=Recipe(train_days=30)).champions(first)
    assert (recent.train_from, recent.train_to) == (day("2018-07-02"), day("2018-08-01"))
    assert recent.test_from - recent.train_to == PLAN.delay_ms
    shortest = PLAN.champions(day("2018-07-25") + 31_000)
    assert shortest.train_to == day("2018-08-01")
    with pytest.raises(UsageError, match="contains too little before the test weeks"):
        PLAN.champions(day("2018-07-26"))


@pytest.mark.parametrize(
    ("line", "figures", "met"),
    [
        ("logistic, fifteen", (0.8705, 0.6057, 0.2914), True),
        ("logistic, fifteen", (0.8705, 0.6066, 0.2914), False),
        ("logistic, engineered", (0.5, 0.7201, 0.1), True),
        ("champion", (0.8801, 0.7601, 0.3), True),
        ("champion", (0.8801, 0.7599, 0.3), False),
        ("champion, weeks", (0.8801, 0.7501, 0.3079), False),
        ("isolation", (0.5, 0.2, 0.1), True),
    ],
)
def test_goals(line: str, figures: tuple[float, float, float], met: bool):
    assert GOALS[line].met(Figures(*figures)) is met


def test_without_the_data_one_line_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "none.csv"))
    assert run(["handbook"]) == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "there is no file" in said
    monkeypatch.delenv(data.VARIABLE)
    monkeypatch.setattr(data, "locate", lambda: None)
    with pytest.raises(NotFoundError, match=r"neither HANDBOOK_TRANSACTIONS nor shared/handbook"):
        data.require(None)


def test_options_that_cannot_be_are_refused_before_anything_is_read(capsys, tmp_path):
    path = csv(tmp_path, [])
    assert run(["handbook", str(path), "--kind", "oracle"]) == 2
    assert "--kind 'oracle' is unknown; choose one of" in capsys.readouterr().err
    assert run(["handbook", str(path), "--from", "2018-07-26"]) == 2
    assert "must contain a training week" in capsys.readouterr().err
    assert run(["handbook", str(path), "--from", "2018-07-25"]) == 2
    assert "contains no transactions" in capsys.readouterr().err


def csv(folder: Path, lines: list[str]) -> Path:
    path = folder / "transactions.csv"
    path.write_text("\n".join([HEADER, *lines, ""]))
    return path


def test_the_file_is_read_like_produce_reads_it(tmp_path):
    lines = [f"{n},2018-04-0{n + 1} 10:00:00,7,9,85.64999999999999,0,{n % 2}" for n in range(6)]
    path, settings = csv(tmp_path, lines), load_settings({"home": tmp_path})
    span = day("2018-04-02"), day("2018-04-06")
    skip, columns = data.read_span(path, settings, *span, rows=3)
    assert skip == 2
    assert columns.transaction_id.tolist() == ["2", "3", "4"]
    assert columns.amount_minor.tolist() == [8565] * 3
    assert columns.is_fraud.tolist() == [False, True, False]
    with data.open_span(path, settings, skip, len(columns)) as reading:
        sent = list(reading.labelled())
    assert [json.loads(value)["transaction_id"] for _, value, _, _ in sent] == ["2", "3", "4"]
    assert [moment for _, _, moment, _ in sent] == columns.event_time_ms.tolist()
    assert [fraud for *_, fraud in sent] == columns.is_fraud.tolist()
    with pytest.raises(UsageError, match="no transactions of the period"):
        data.read_span(path, settings, day("2019-01-01"), day("2019-02-01"), None)
    path = csv(tmp_path, lines[::-1])
    with pytest.raises(UsageError, match="not in order of TX_DATETIME"):
        data.read_span(path, settings, *span, rows=None)


def packed(values: dict[str, float]) -> bytes:
    """A map of text to double as Cassandra sends it: sorted by key."""
    parts = [struct.pack(">i", len(values))]
    for name in sorted(values):
        parts += [struct.pack(">i", len(name)), name.encode(), struct.pack(">id", 8, values[name])]
    return b"".join(parts)


NAMES = ["b", "a"]


def row(
    name: str, a: float, b: float, score: float = 0.5, model: str = "m", odd: float | None = 0.4
):
    return name, model, score, odd, packed({"a": a, "b": b})


def test_rows_come_back_in_the_order_of_the_file():
    stored = rows.gather(
        [row("y", 1, 2, 0.25), row("x", 3, 4, 0.75, model="n", odd=0.6), row("y", 1, 2, 0.25)],
        NAMES, ["x", "y"], ["m", "n"],
    )  # fmt: skip
    assert stored.models.tolist() == [1, 0]
    assert stored.features.tolist() == [[4, 3], [2, 1]]
    assert stored.scores.tolist() == [0.75, 0.25]
    assert stored.anomalies.tolist() == [0.6, 0.4]


@pytest.mark.parametrize(
    "wrong",
    [row("z", 1, 2), row("x", 1, 2, model="n"), row("x", 1, 2, odd=None), ("x", "m", 0.5, 0.4, packed({"a": 1.0}))],
)  # fmt: skip
def test_rows_of_anything_else_are_refused(wrong):
    with pytest.raises(VerificationError, match="rows of another run"):
        rows.gather([row("y", 1, 2), wrong], NAMES, ["x", "y"], ["m"])


def test_a_row_that_is_missing_is_told():
    with pytest.raises(VerificationError, match="1 of 2 transactions have no row"):
        rows.gather([row("y", 1, 2)], NAMES, ["x", "y"], ["m"])


def test_rows_differ_in_any_bit():
    ours = np.array([[0.1, 0.2], [1.0, 0.0], [3.0, 4.0]])
    theirs = ours.copy()
    assert rows.differing(ours, theirs) == 0
    theirs[0, 1] = np.nextafter(0.2, 1)
    theirs[1, 1] = -0.0
    assert rows.differing(ours, theirs) == 2


def test_the_figures_leave_out_cards_that_were_known_by_then():
    plan = Plan(Path("x"), end_ms=day("2018-08-15"), weeks=1)
    moments = [day("2018-07-28"), *[day("2018-08-08") + n for n in range(4)]]
    examples = Examples(
        np.zeros((5, 1)),
        np.array([True, True, False, True, False]),
        np.array(moments),
        np.array(["known", "known", "a", "b", "c"]),
    )
    # the known card's fraud ranks last: counted, it would spoil both figures
    found = evaluation.ranking_figures(np.array([0.5, 0.0, 0.2, 0.9, 0.1]), examples, plan.a_week())
    assert (found.auc, found.average_precision) == (1.0, 1.0)
    assert found.card_precision_at_100 == pytest.approx(1 / 100)


def examples_of_two_months(count: int = 6_000) -> Examples:
    settings = load_settings({"features": "handbook,engineered,label_free"})
    from app.stages.deployed_features import catalogue_of

    names = catalogue_of(settings).names
    rng = np.random.default_rng(3)
    features = rng.random((count, len(names)))
    times = np.sort(rng.integers(day("2018-07-01"), day("2018-08-29"), count))
    # only what the simulator has shaped tells anything
    fraud = features[:, names.index("amount_is_high_again")] > 0.97
    return Examples(features, fraud, times, rng.integers(0, 3_000, count).astype(str))


def test_every_line_is_judged_and_shaped_features_are_told_apart():
    from models.training_candidates import candidates_of

    settings = load_settings({"features": "handbook,engineered,label_free"})
    examples = examples_of_two_months()
    plan = Plan(Path("x"), day("2018-07-01"), day("2018-08-29"), weeks=2)
    fraud = examples.is_fraud.astype(float)
    said: list[str] = []
    lines = evaluation.judge(
        settings,
        plan,
        examples,
        scores=fraud,
        anomalies=1 - fraud,
        champion=candidates_of("histgb", 1, {"max_iter": 20})[0].estimator,
        cores=1,
        tell=said.append,
    )
    assert set(lines.first) == {
        "champion",
        "isolation",
        "logistic, fifteen",
        "logistic, engineered",
    }
    assert lines.first["champion"].auc == 1
    assert lines.first["isolation"].auc == 0
    assert len(lines.weeks) == 2
    assert lines.mean.average_precision == pytest.approx(
        np.mean([w.average_precision for w in lines.weeks])
    )
    assert min(week.average_precision for week in lines.weeks) > 0.9
    assert lines.general.average_precision < 0.2
    assert lines.first["logistic, engineered"].auc > 0.9 > lines.first["logistic, fifteen"].auc
    # the first week's is what scored live; it is not trained again
    assert lines.weeks[0] == lines.first["champion"] != lines.weeks[1]
    assert any("for each later week" in line for line in said)


def test_a_champion_that_is_trained_anew_for_its_own_week_is_the_champion(tmp_path):
    settings = load_settings({"features": "handbook,engineered,label_free"})
    examples = examples_of_two_months()
    # with what is easy to tell apart, any model would have the same figures
    noise = np.random.default_rng(4).random(len(examples.is_fraud)) < 0.05
    examples = replace(examples, is_fraud=examples.is_fraud ^ noise)
    recipe = Recipe(fixed={"forest__n_estimators": 10, "histgb__max_iter": 20})
    plan = Plan(Path("x"), day("2018-07-01"), day("2018-08-29"), weeks=2, recipe=recipe)
    periods = plan.champions(int(examples.event_time_ms[0]))
    options = TrainingOptions(
        tmp_path / "champion", kind=recipe.kind, seed=recipe.seed, features=ENGINEERED,
        periods=periods, fixed=recipe.fixed, importance=False,
    )  # fmt: skip
    trained = train_on(examples, settings, options, now_ms=0)
    model = load_artifact(trained.folder, trained.manifest).model
    columns = choose_features(settings, ENGINEERED).columns
    scores = model.predict_proba(examples.features[:, columns])[:, 1]
    live = evaluation.ranking_figures(scores, examples, plan.a_week())
    learned = evaluation._learned(model, recipe)
    (anew,) = evaluation._weekly(learned, examples, periods, [(columns, 0)], 1)
    assert anew == pytest.approx(live, abs=1e-12)
    assert 0.2 < live.average_precision < 0.8


GOOD = Figures(0.9, 0.8, 0.31)


def report(**fields) -> Report:
    lines = Lines(
        {
            "champion": GOOD,
            "isolation": Figures(0.6, 0.25, 0.1),
            "logistic, fifteen": Figures(0.8705, 0.6057, 0.2914),
            "logistic, engineered": Figures(0.88, 0.73, 0.3),
        },
        [GOOD] * 4,
        Figures(0.89, 0.7, 0.3),
    )
    values = {
        "plan": PLAN,
        "champion": "histgb (leaves 15)",
        "live": Pass(1_000, 990, 0.2, {"worker": 100.0}),
        "lines": lines,
        "differing": 0,
        "verified": {"read": 1_000, "scored": 1_000, "pending": 0, "missing": 0, "differing": 0},
        "naive_rate": 240.0,
        "seconds": {"live": 0.2},
        **fields,
    }
    return Report(**values)


def test_a_run_that_reaches_everything_misses_nothing():
    made = report()
    assert made.missed == []
    text = made.text()
    assert "MISSED" not in text
    assert text.count(" met") == len(GOALS) - 1  # nothing was retrained live
    assert "20.8 times as fast" in text
    assert "0 of 1,000 rows differ" in text
    said = json.loads(json.dumps(made.as_dict()))
    assert said["period"] == ["2018-04-01", "2018-09-04"]
    assert said["lines"]["champion"]["published"]["average_precision"] == 0.658
    assert said["live"]["events_per_second"] == 5_000
    assert said["missed"] == []


def test_what_is_missed_is_named():
    lines = report().lines
    low = Lines({**lines.first, "champion": Figures(0.9, 0.75, 0.31)}, lines.weeks, lines.general)
    made = report(
        lines=low,
        differing=3,
        naive_rate=300.0,
        verified={"read": 5, "pending": 0, "missing": 2, "differing": 0},
    )
    assert made.missed == [
        "best model, as it scored live",
        "3 rows differ from training",
        "2 missing",
        "16.7 times naive Faust",
    ]
    assert made.text().count("MISSED") == 1


def test_the_champion_is_trained_before_each_later_week_and_promoted_as_it_begins():
    assert PLAN.stops == ()
    stops = replace(PLAN, weekly=True).stops
    assert stops == tuple(
        day(one)
        for one in (
            "2018-08-12", "2018-08-15", "2018-08-19", "2018-08-22", "2018-08-26", "2018-08-29",
        )
    )  # fmt: skip


def test_the_pass_is_cut_where_event_time_reaches_a_moment():
    items = [(False, None, b"%d" % n, n * 10) for n in range(5)]
    items.insert(4, (True, None, b"label", 30))  # event time as far as it has come
    cut = Segments(items)
    assert [one[2] for one in cut.until(20)] == [b"0", b"1"]
    assert list(cut.until(20)) == []
    assert [one[2] for one in cut.until(25)] == [b"2"]
    assert [one[2] for one in cut.until(None)] == [b"3", b"label", b"4"]
    assert list(cut.until(None)) == []


def test_each_week_names_the_models_that_decided():
    plan = Plan(Path("x"), end_ms=day("2018-08-22"), weeks=2, weekly=True)
    times = np.array([day("2018-08-07"), day("2018-08-08"), day("2018-08-15"), day("2018-08-21")])
    found = deciders(plan, times, np.array([0, 0, 0, 1]), ["m@1", "m@2"])
    assert found == [{"m@1": 1}, {"m@1": 1, "m@2": 1}]


def test_the_report_says_what_retraining_did():
    lines = replace(report().lines, live=(GOOD, replace_ap(GOOD, 0.70), GOOD, GOOD))
    calls = (
        Call(day("2018-08-12"), "trained", "m@2", "h", "2018-08-04T23:59:58Z", ["trained m@2"]),
        Call(day("2018-08-15"), "refused", "m@2", "h", "2018-08-04T23:59:58Z", ["m@2 does not pass"]),
    )  # fmt: skip
    by = ({"m@1": 5}, {"m@1": 5}, {"m@1": 1, "m@2": 4}, {"m@2": 5})
    live = replace(report().live, calls=calls)
    made = report(plan=replace(PLAN, weekly=True), lines=lines, live=live, deciders=by)
    assert made.figures["champion, live weeks"].average_precision == pytest.approx(0.775)
    assert made.missed == []
    text = " ".join(made.text().split())
    for part in ("m@1 1, m@2 4", "2018-08-15 refused m@2 learned to 2018-08-04"):
        assert part in text
    said = json.loads(json.dumps(made.as_dict()))
    assert said["live_weeks"][2]["decided_by"] == {"m@1": 1, "m@2": 4}
    assert [one["did"] for one in said["retrained"]] == ["trained", "refused"]
    low = replace(lines, live=(replace_ap(GOOD, 0.70),) * 4)
    assert replace(made, lines=low).missed == ["the same through the registry, as it scored live"]


def replace_ap(figures: Figures, value: float) -> Figures:
    return figures._replace(average_precision=value)


def test_another_period_has_no_goals_but_equality():
    made = report(plan=replace(PLAN, rows=10), lines=report().lines, naive_rate=None, verified=None)
    assert made.missed == []
    assert "met" not in made.text().replace("average", "")
    assert made.as_dict()["lines"]["champion"]["met"] is None
    assert replace(made, differing=1).missed == ["1 rows differ from training"]
