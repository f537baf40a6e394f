"""The simulator: the same for the same arguments, plausible, and honest about what it disturbs."""

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from app.cli.command_errors import run as run_command
from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.lab.simulation.broken import broken_record
from app.lab.simulation.files import write_deliveries, write_labels
from app.lab.simulation.frauds import CARD_FACTOR, DAY_MS, _compromised
from app.lab.simulation.simulate import (
    Disorder,
    SimulatedTransactions,
    SimulationConfig,
    deliver,
    simulate,
)
from app.lab.simulation.transactions import Names
from app.ops import pyarrow_extra
from app.ops.files.suffixes import SUFFIXES
from app.wire.input_records import RecordRules, parse_transaction

NOW_MS = 1_760_000_000_000
RULES = RecordRules("EUR", 2, 0)


def small(**changes: object) -> SimulatedTransactions:
    chosen = {"cards": 200, "terminals": 400, "days": 10, **changes}
    return simulate(SimulationConfig(**chosen), now_ms=NOW_MS)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def large() -> SimulatedTransactions:
    return simulate(SimulationConfig(cards=2_000, terminals=4_000, days=60), now_ms=NOW_MS)


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_ones():
    first, again, other = (list(small(seed=seed).pairs()) for seed in (3, 3, 4))
    assert first == again
    assert {value for _, value in first}.isdisjoint(value for _, value in other)


def test_event_times_rise_and_never_reach_the_present():
    times = small().event_time_ms
    assert (np.diff(times) >= 0).all()
    assert times[0] >= NOW_MS - 10 * DAY_MS
    assert times[-1] < NOW_MS


def test_a_start_fixes_the_times_whatever_the_clock_says():
    start_ms = NOW_MS - 40 * DAY_MS
    early = simulate(SimulationConfig(cards=50, days=5, start_ms=start_ms), now_ms=NOW_MS)
    later = simulate(SimulationConfig(cards=50, days=5, start_ms=start_ms), now_ms=NOW_MS + 1_234)
    assert list(early.pairs()) == list(later.pairs())
    assert early.event_time_ms[0] >= start_ms


@pytest.mark.parametrize("changes", [{"start_ms": NOW_MS - DAY_MS}, {"end_ms": NOW_MS + 1}])
def test_the_future_is_refused(changes):
    with pytest.raises(UsageError, match="in the future"):
        small(days=5, **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cards": 0}, "cards must be from 1 to"),
        ({"count": 0}, "count must be from 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"run": 'a"b'}, "must be 1 to 64 letters"),
        ({"start_ms": 1, "end_ms": 2}, "a start or an end, not both"),
        ({"without_terminal": 2.0}, "without_terminal must be from 0 to 1"),
    ],
)
def test_wrong_values_are_named(changes, text):
    with pytest.raises(UsageError, match=text):
        SimulationConfig(**changes)


def test_without_any_time_nothing_can_be_simulated():
    with pytest.raises(UsageError, match="needs a start, an end or the present time"):
        simulate(SimulationConfig(cards=5, terminals=5))


def test_an_exact_count_takes_the_days_that_its_cards_need():
    counted = small(days=None, count=4_000)
    assert len(counted) == 4_000
    assert 8 <= (counted.event_time_ms[-1] - counted.event_time_ms[0]) / DAY_MS <= 12


def test_habits_are_plausible(large):
    per_day = len(large) / 2_000 / 60
    assert 1.9 < per_day < 2.1
    assert 40 < large.amount_minor.mean() / 100 < 70
    assert large.amount_minor.min() > 0
    hours = large.event_time_ms // 3_600_000 % 24
    assert np.mean((hours >= 8) & (hours < 20)) > 0.75
    # a card keeps to a few terminals near its home
    card = np.bincount(large.card).argmax()
    assert len(np.unique(large.terminal[large.card == card])) <= 32


def test_each_kind_of_fraud_has_its_share(large):
    amount, terminal, card = (np.mean(large.kind == kind) for kind in (1, 2, 3))
    assert 0.0002 < amount < 0.0015
    assert 0.003 < terminal < 0.009
    assert 0.001 < card < 0.005
    assert (large.is_fraud == (large.kind > 0)).all()
    # from the first day on, not only after the first compromises of the period
    first_week = large.event_time_ms < large.event_time_ms[0] + 7 * DAY_MS
    assert large.is_fraud[first_week].mean() > 0.003


def test_the_first_kind_is_every_amount_above_the_limit(large):
    above = large.amount_minor > 220_00
    assert (large.kind[above] > 0).all()
    assert (large.amount_minor[large.kind == 1] > 220_00).all()


def test_a_compromise_takes_every_transaction_of_its_span_and_no_other():
    """One payment an hour at each of 50 terminals, for 400 days."""
    hours, terminals, span_hours = 400 * 24, 50, 28 * 24
    who = np.repeat(np.arange(terminals), hours)
    when = np.tile(np.arange(hours) * 3_600_000 + NOW_MS, terminals)
    period = (NOW_MS, NOW_MS + 400 * DAY_MS)
    rng = np.random.default_rng(1)
    bad = _compromised(rng, who, when, terminals, 0.01, 28 * DAY_MS, period).reshape(-1, hours)
    assert 0.18 < bad.mean() < 0.32  # 1 - exp(-0.01 * 28) is 0.24
    for line in bad:
        edges = np.flatnonzero(np.diff(line.astype(int), prepend=0, append=0)).reshape(-1, 2)
        for begin, end in edges:
            whole = begin > 0 and end < hours
            assert end - begin >= span_hours if whole else end > begin


def test_the_third_kind_is_far_above_what_the_card_usually_pays(large):
    stolen = large.kind == 3
    usual = np.bincount(large.card[~stolen], large.amount_minor[~stolen], 2_000)
    usual /= np.maximum(np.bincount(large.card[~stolen], minlength=2_000), 1)
    ratio = large.amount_minor[stolen] / usual[large.card[stolen]]
    assert 0.8 * CARD_FACTOR < ratio.mean() < 1.2 * CARD_FACTOR


def test_runs_have_their_own_transaction_ids():
    assert small(seed=7).transaction_id[0] == "s7-0000000"
    assert small(run="monday").transaction_id[0] == "monday-0000000"
    assert len(set(small().transaction_id.tolist())) == len(small())


def test_records_are_valid_transactions_and_carry_no_label():
    made = small(without_terminal=0.3)
    records = list(made.records())
    for (key, value), record, minor in zip(
        made.pairs(), records, made.amount_minor.tolist(), strict=True
    ):
        assert json.loads(value) == record
        transaction = parse_transaction(value, key, NOW_MS, RULES)
        assert transaction.minor == minor
    assert set(records[0]) <= {
        "transaction_id", "card_id", "terminal_id", "amount", "currency", "event_time",
    }  # fmt: skip
    without = sum("terminal_id" not in record for record in records)
    assert 0.2 < without / len(records) < 0.4
    assert without == np.count_nonzero(made.terminal_id == "")


@pytest.mark.parametrize(("digits", "literal"), [(0, b'"amount":7,'), (3, b'"amount":0.007,')])
def test_amounts_have_the_digits_of_the_currency(digits, literal):
    made = small(minor_digits=digits, currency="JPY" if digits == 0 else "BHD")
    one = made.take(slice(0, 1))
    one.amount_minor[:] = 7
    assert literal in next(one.pairs())[1]


# Arrivals:          newest of the card
#   out of order   t ....... |t'        t' - t <= lateness
#   late           t ............... |t'  t' - t > lateness


def standing(deliveries) -> dict[str, set[int]]:
    """What each arrival is, worked out one after the other."""
    newest: dict[int, int] = {}
    seen: set[int] = set()
    found: dict[str, set[int]] = {"late": set(), "out_of_order": set(), "duplicate": set()}
    made = deliveries.transactions
    for row in deliveries.order[deliveries.order >= 0].tolist():
        card, time = int(made.card[row]), int(made.event_time_ms[row])
        behind = newest.get(card, time) - time
        if row in seen:
            found["duplicate"].add(row)
        elif behind > DAY_MS:
            found["late"].add(row)
        elif behind > 0:
            found["out_of_order"].add(row)
        seen.add(row)
        newest[card] = max(newest.get(card, time), time)
    return found


def test_disorder_is_what_it_says_it_is():
    made = small()
    disorder = Disorder(out_of_order=0.05, late=0.02, duplicates=0.03, broken=0.01)
    deliveries = deliver(made, disorder, seed=5)
    found = standing(deliveries)
    assert found["late"] == set(deliveries.late.tolist())
    assert found["out_of_order"] == set(deliveries.out_of_order.tolist())
    assert found["duplicate"] == set(deliveries.duplicates.tolist())
    count = len(made)
    assert 0.015 * count < len(deliveries.late) <= 0.02 * count
    assert 0.03 * count < len(deliveries.out_of_order) <= 0.05 * count
    assert len(deliveries.duplicates) == round(0.03 * count)
    assert deliveries.broken == round(0.01 * count)
    assert len(deliveries) == count + len(deliveries.duplicates) + deliveries.broken
    assert sorted(set(deliveries.order[deliveries.order >= 0].tolist())) == list(range(count))


def test_disorder_follows_its_seed_and_leaves_the_transactions_alone():
    disorder = Disorder(out_of_order=0.1, late=0.1, duplicates=0.1, broken=0.1)
    first, again, other = (deliver(small(), disorder, seed=seed) for seed in (1, 1, 2))
    assert list(first.pairs()) == list(again.pairs())
    assert list(first.pairs()) != list(other.pairs())
    assert list(deliver(small()).pairs()) == list(small().pairs())


def test_cards_with_one_transaction_cannot_be_overtaken():
    made = small(cards=200, days=1, count=3)
    deliveries = deliver(made, Disorder(late=1.0))
    assert deliveries.order.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "changes", [{"late": 1.5}, {"broken": -0.1}, {"out_of_order": 0.6, "late": 0.6}]
)
def test_impossible_shares_are_refused(changes):
    with pytest.raises(UsageError):
        Disorder(**changes)


@pytest.mark.parametrize("number", range(16))
def test_a_broken_record_can_never_become_a_transaction(number):
    key, value = broken_record(number, Names("s1", "EUR", 2, (7, 5, 5)))
    with pytest.raises(DeadRecordError):
        parse_transaction(value, key, NOW_MS, RecordRules("EUR", 2, 300_000))


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a file of any format, as text."""
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row["event_time"] = row["event_time"].isoformat(timespec="milliseconds")
        return [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    text = (gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes()).decode()
    if ".csv" in path.suffixes:
        return list(csv.DictReader(io.StringIO(text)))
    rows = [json.loads(line, parse_float=str) for line in text.splitlines()]
    return [{"terminal_id": "", **{k: str(v) for k, v in row.items()}} for row in rows]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_holds_the_same(tmp_path, suffix):
    made = small(days=2, without_terminal=0.2)
    path = tmp_path / f"some{suffix}"
    told: list[int] = []
    assert write_deliveries(path, deliver(made), progress=told.append) == len(made)
    expected = [
        {
            "transaction_id": transaction,
            "card_id": card,
            "terminal_id": terminal,
            "amount": made.names.amount(minor),
            "currency": "EUR",
            "is_fraud": str(int(kind != "none")),
            "fraud_kind": kind,
        }
        for (transaction, card, terminal, minor, _), kind in zip(
            made.rows(), made.fraud_kind.tolist(), strict=True
        )
    ]
    found = read(path)
    moments = [datetime.fromisoformat(row.pop("event_time")) for row in found]
    assert found == expected
    assert [round(moment.timestamp() * 1000) for moment in moments] == made.event_time_ms.tolist()
    assert {moment.tzinfo for moment in moments} == {UTC}
    assert told[-1] == len(made)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl.gz"])
def test_gzip_files_of_equal_simulations_are_equal(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        write_deliveries(path, deliver(small(days=1)))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_labels_may_stand_apart(tmp_path):
    made = small()
    path, labels = tmp_path / "t.csv", tmp_path / "labels.csv.gz"
    write_deliveries(path, deliver(made), labels=False)
    assert write_labels(labels, made) == len(made)
    assert "is_fraud" not in read(path)[0]
    assert [row["is_fraud"] for row in read(labels)] == [str(int(each)) for each in made.is_fraud]
    assert set(read(labels)[0]) == {"transaction_id", "is_fraud", "fraud_kind"}


def test_broken_records_keep_their_bytes_in_json_lines_and_fit_nowhere_else(tmp_path):
    deliveries = deliver(small(days=1), Disorder(broken=0.1))
    write_deliveries(tmp_path / "t.jsonl", deliveries)
    lines = (tmp_path / "t.jsonl").read_bytes().splitlines()
    assert len(lines) == len(deliveries)
    assert [line for line in lines if b"is_fraud" not in line] == [
        value for (_, value, kind) in deliveries.lines() if kind < 0
    ]
    with pytest.raises(UsageError, match="can only be written as JSON lines"):
        write_deliveries(tmp_path / "t.csv", deliveries)


def test_wrong_files_are_named(tmp_path, monkeypatch):
    deliveries = deliver(small(days=1))
    with pytest.raises(UsageError, match=r"must end in \.csv"):
        write_deliveries(tmp_path / "t.txt", deliveries)
    with pytest.raises(UsageError, match="there is no folder"):
        write_deliveries(tmp_path / "no" / "t.csv", deliveries)
    with pytest.raises(UsageError, match="labels are written as CSV"):
        write_labels(tmp_path / "t.jsonl", deliveries.transactions)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        pyarrow_extra.require_pyarrow()


def test_the_command_writes_a_file_and_says_what_is_in_it(tmp_path, capsys):
    out = tmp_path / "t.csv"
    arguments = ["simulate", "--cards", "50", "--terminals", "90", "--count", "500", "--seed", "9"]
    assert run_command([*arguments, "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["transactions"] == summary["records"] == 500
    assert sum(1 for _ in out.open()) == 501
    assert summary["last"] < datetime.now(UTC).isoformat()
    assert run_command([*arguments, "--out", "-", "--no-labels"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 500
    assert printed.err.startswith("500 transactions, ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give --out FILE or --to-kafka"),
        (["--out", "a.csv", "--to-kafka"], "give --out FILE or --to-kafka"),
        (["--out", "a.csv", "--rate", "5"], "--rate needs --to-kafka"),
        (["--out", "-", "--json"], "--json would mix"),
        (["--out", "a.xls"], "must end in"),
        (["--out", "a.csv", "--start", "soon"], "--start soon: write a date or a time, such as"),
        (["--out", "a.csv", "--labels", "b.csv", "--no-labels"], "not both"),
        (["--out", "a.csv", "--end", "2999-01-01"], "in the future"),
    ],
)
def test_mistakes_on_the_command_line_get_one_line(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(["simulate", "--cards", "5", "--terminals", "5", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
