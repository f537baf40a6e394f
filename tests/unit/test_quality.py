"""Decisions judged by labels: counted as a plain loop counts, precision as scikit-learn has it."""

from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from app.cassandra.label_queries import _latest
from app.cli.command_errors import run as run_command
from app.cli.quality import _lines
from app.quality.curves import curves
from app.quality.decision_tally import DecisionGroup, QualityTally, average_precision, step_of
from app.quality.measure_decisions import _counted
from app.quality.verdicts import FRAUD, GENUINE, UNKNOWN, Verdicts
from tests.conftest import SEED


def test_labels_are_found_by_event_time_and_id() -> None:
    verdicts = Verdicts([(1, "t1", True), (2, "t1", False), (2, "t2", False), (1, "t9", True)])
    assert len(verdicts) == 4
    asked = [(1, "t1"), (2, "t1"), (2, "t2"), (3, "t1"), (1, "t9"), (11, "t9")]
    expected = [FRAUD, GENUINE, GENUINE, UNKNOWN, FRAUD, UNKNOWN]
    assert verdicts.of(asked).tolist() == expected
    assert Verdicts([]).of(asked).tolist() == [UNKNOWN] * 6


def test_of_several_labels_the_latest_wins_whatever_card_they_name() -> None:
    at = [datetime.fromtimestamp(n, UTC).replace(tzinfo=None) for n in (5, 6)]
    rows = [
        (at[0], at[0], 0, 3, True), (at[0], at[1], 0, 2, False), (at[1], at[1], 0, 1, True),
        (at[1], at[1], 0, 4, False), (at[0], at[0], 1, 9, True),
    ]  # fmt: skip
    assert {t: label[-1] for t, label in _latest(rows).items()} == {5_000: False, 6_000: False}


def test_counts_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(SEED)
    size = 3_000
    day = [f"2026-01-{number:02d}" for number in rng.integers(1, 5, size)]
    model = [f"m@{number}" for number in rng.integers(1, 3, size)]
    verdict = rng.integers(-1, 2, size).astype(np.int8)
    score = np.clip(rng.beta(0.3, 1, size) + 0.3 * (verdict == FRAUD), 0, 1)
    alert = score > 0.5
    tally = QualityTally()
    for part in np.array_split(np.arange(size), 7):
        tally.add(
            [day[at] for at in part],
            [model[at] for at in part],
            score[part],
            alert[part],
            verdict[part],
        )
    groups = {
        **{(name, "day"): group for name, group in tally.by("day").items()},
        **{(name, "model"): group for name, group in tally.by("model").items()},
    }
    assert len(groups) == 6
    for (name, column), group in groups.items():
        here = np.array([value == name for value in (day if column == "day" else model)])
        check(group, score[here], alert[here], verdict[here])
    check(tally.total(), score, alert, verdict)


def check(group: DecisionGroup, score: np.ndarray, alert: np.ndarray, verdict: np.ndarray) -> None:
    told = group.as_dict()
    pairs = list(zip(alert.tolist(), verdict.tolist(), strict=True))
    assert told["transactions"] == len(pairs)
    assert told["true_positives"] == pairs.count((True, FRAUD))
    assert told["false_positives"] == pairs.count((True, GENUINE))
    assert told["unlabelled_alerts"] == pairs.count((True, UNKNOWN))
    assert told["missed"] == pairs.count((False, FRAUD))
    assert told["labelled_share"] == np.mean(verdict != UNKNOWN)
    assert told["precision"] == told["true_positives"] / (
        told["true_positives"] + told["false_positives"]
    )
    assert told["recall"] == told["true_positives"] / (told["true_positives"] + told["missed"])
    known = verdict != UNKNOWN
    exact = average_precision_score(verdict[known] == FRAUD, score[known])
    stepped = average_precision_score(verdict[known] == FRAUD, step_of(score[known]))
    assert told["average_precision"] == pytest.approx(stepped, abs=1e-12)
    assert told["average_precision"] == pytest.approx(exact, abs=0.01)


def test_steps_keep_the_order_of_scores_to_both_ends() -> None:
    scores = np.array([0.0, 1e-300, 1e-6, 1.1e-6, 0.01, 0.5, 0.99, 0.99999, 1 - 1e-12, 1.0])
    steps = step_of(scores).tolist()
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 1_999)
    assert len(set(steps[1:8])) == 7


def test_progress_is_told_now_and_then() -> None:
    told: list[tuple[str, int]] = []
    rows = _counted(iter(range(25_000)), "labels", lambda *said: told.append(said))
    assert len(list(rows)) == 25_000
    assert told == [("labels", 0), ("labels", 10_000), ("labels", 20_000)]


def test_curves_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(SEED)
    fraud = rng.random(4_000) < 0.1
    score = np.clip(rng.beta(0.5, 3, 4_000) + 0.4 * fraud * rng.random(4_000), 1e-6, 1 - 1e-6)
    tally = QualityTally()
    verdict = np.where(fraud, FRAUD, GENUINE).astype(np.int8)
    tally.add(["2026-01-01"] * 4_000, ["m@1"] * 4_000, score, score > 0.5, verdict)
    found = curves(tally.total().scores)
    points = found["precision_recall"]
    assert len(points) == 100
    assert points[-1][1] == 1.0
    assert [one[1] for one in points] == sorted(one[1] for one in points)
    for threshold, recall, precision in points:
        called = score >= threshold
        assert recall == pytest.approx(fraud[called].sum() / fraud.sum(), abs=5e-3)
        assert precision == pytest.approx(fraud[called].mean(), abs=5e-3)
    assert sum(count for *_, count in found["calibration"]) == 4_000
    for mean, share, count in found["calibration"]:
        here = np.floor(score * 10) == np.floor(mean * 10)
        # a score at an edge may be in the bin beside
        assert count == pytest.approx(here.sum(), abs=60)
        assert mean == pytest.approx(score[here].mean(), abs=0.01)
        assert share == pytest.approx(fraud[here].mean(), abs=0.1)


def test_curves_of_nothing() -> None:
    assert curves(DecisionGroup().scores) == {"precision_recall": [], "calibration": []}


def test_nothing_has_no_shares() -> None:
    told = DecisionGroup().as_dict()
    shares = ("labelled_share", "precision", "recall", "average_precision")
    assert [told[name] for name in shares] == [None] * 4
    assert average_precision(np.zeros((2, 3))) is None


def test_lines_for_people() -> None:
    group = DecisionGroup(
        transactions=1_234, labelled=100, frauds=4, alerts=5, true_positives=3, false_positives=1
    ).as_dict()
    result = {"labels": 100, "total": group, "by_day": {"2026-01-31": group}, "by_model": {}}
    head, day, total = _lines(result, "day")
    assert head.split()[:4] == ["day", "scored", "labelled", "frauds"]
    assert day.split() == [
        "2026-01-31",
        "1,234",
        "0.081",
        "4",
        "5",
        "3",
        "1",
        "1",
        "1",
        "0.750",
        "0.750",
        "-",
    ]
    assert total.split()[0] == "all"
    assert "no labels have arrived yet" in _lines({**result, "labels": 0}, "model")[-1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--from", "soon"], "--from soon: write a date or a time, such as 2018-07-25"),
        (["--from", "2026-02-01", "--to", "2026-01-01"], "is not before --to 2026-01-01"),
    ],
)
def test_mistakes_get_one_line(arguments, text, capsys) -> None:
    assert run_command(["quality", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
