"""Files into records: every format, foreign columns, and one clear line for each mistake."""

import gzip
import json
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.cli.command_errors import run as run_command
from app.cli.file_options import file_and_mapping
from app.errors import UnavailableError, UsageError
from app.lab.simulation.files import write_deliveries
from app.lab.simulation.simulate import Disorder, SimulationConfig, deliver, simulate
from app.ops.files.amount_rounding import Rounding
from app.ops.files.columns import FileOptions, make_plan
from app.ops.files.file_times import TimeRules
from app.ops.files.opening import open_source
from app.ops.files.rows_to_records import Converter
from app.ops.files.suffixes import SUFFIXES
from app.ops.files.transaction_file import TransactionPass, open_raw, raw_key
from app.ops.files.transaction_file import open_reading as open_with
from app.ops.producing.following import following
from app.ops.producing.schedule import spread
from app.ops.producing.wait_for_workers import WaitForWorkers
from app.settings import Settings
from app.topics import Topics
from app.wire.input_records import RecordRules, parse_transaction
from app.wire.label_records import parse_label

NOW_MS = 1_760_000_000_000
UTC_ZONE = ZoneInfo("UTC")
RULES = RecordRules("EUR", 2, 0)

HANDBOOK = """\
TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD,TX_FRAUD_SCENARIO
0,2018-04-01 00:00:31,596,3156,57.16,0,0
1,2018-04-01 00:02:10,4961,3412,81.51,0,0
2,2018-04-01 00:07:56,2,1365,146.00,1,1
"""
HANDBOOK_MAP = {
    "transaction_id": "TRANSACTION_ID",
    "card_id": "CUSTOMER_ID",
    "terminal_id": "TERMINAL_ID",
    "amount": "TX_AMOUNT",
    "event_time": "TX_DATETIME",
}
GOOD = {
    "transaction_id": "t1",
    "card_id": "c1",
    "amount": 12.5,
    "event_time": "2024-05-01T12:00:00Z",
}


def file(tmp_path: Path, content: str | bytes, name: str = "t.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(tmp_path: Path, *records: dict) -> Path:
    return file(tmp_path, "".join(json.dumps(record) + "\n" for record in records))


def open_reading(
    path: Path, *, raw: bool = False, **options: Any
) -> AbstractContextManager[TransactionPass]:
    """As the commands open it, every option by its name."""
    if raw:
        return open_raw(path, **options)
    times = {
        name: options.pop(name)
        for name in ("zone", "ambiguous", "pattern", "unit")
        if name in options
    }
    how = {
        each.name: options.pop(each.name) for each in fields(FileOptions) if each.name in options
    }
    return open_with(path, FileOptions(**how, times=TimeRules(**times)), **options)


def read(path: Path, **options: object) -> list[tuple[bytes | None, bytes]]:
    with open_reading(path, **options) as reading:  # type: ignore[arg-type]
        return list(reading.pairs())


def values(path: Path, **options: object) -> list[dict]:
    return [json.loads(value) for _key, value in read(path, **options)]


def fault(path: Path, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), path.name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_our_own_files_come_back_as_they_were_without_labels(tmp_path, suffix):
    made = simulate(
        SimulationConfig(cards=40, terminals=60, count=300, without_terminal=0.2), now_ms=NOW_MS
    )
    path = tmp_path / f"t{suffix}"
    write_deliveries(path, deliver(made))
    with open_reading(path) as reading:
        pairs = list(reading.pairs())
        assert reading.position() == reading.size
    assert pairs == list(made.pairs())
    assert reading.left_out == ["is_fraud", "fraud_kind"]


def test_the_handbooks_file_is_read_by_naming_its_columns(tmp_path):
    path = file(tmp_path, gzip.compress(HANDBOOK.encode()), "t.csv.gz")
    pairs = read(path, mapping=HANDBOOK_MAP, zone=UTC_ZONE)
    assert pairs[0] == (
        b"596",
        b'{"transaction_id":"0","event_time":"2018-04-01T00:00:31Z","card_id":"596",'
        b'"terminal_id":"3156","amount":57.16}',
    )
    assert pairs[2][1].endswith(b'"amount":146.00}')  # the very digits
    for key, value in pairs:
        parse_transaction(value, key, NOW_MS, RULES)


ROUNDING = Rounding("EUR", 2)


@pytest.mark.parametrize(
    ("digits", "amount", "rounded"),
    [
        (2, "85.64999999999999", "85.65"),
        (2, "0.125", "0.12"),  # half to even, by the text's own decimals
        (2, "0.135", "0.14"),
        (2, "0.1250000000000000000000000000001", "0.13"),
        (2, "9" * 40 + ".999", "1" + "0" * 40 + ".00"),
        (2, "-0.015", "-0.02"),
        (2, "12.500", None),  # a whole number of cents
        (2, "12.5", None),
        (2, "12", None),
        (0, "12.5", "12"),
        (0, "13.5", "14"),
        (0, "13.0", None),
        (3, "1.0005", "1.000"),
    ],
)
def test_amounts_are_rounded_half_to_even(digits, amount, rounded):
    assert Rounding("EUR", digits).apply(amount) == rounded


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_amounts_are_rounded_where_that_is_asked_for_and_counted(tmp_path, suffix):
    amounts = [85.64999999999999, 12.5, 30.240000000000002]
    rows = [{**GOOD, "transaction_id": f"t{at}", "amount": made} for at, made in enumerate(amounts)]
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        jsonl(tmp_path, *rows)
    assert [record["amount"] for record in values(path)] == amounts
    with open_reading(path, rounding=ROUNDING) as reading:
        pairs = list(reading.pairs())
        assert reading.rounded == 2
    found = [parse_transaction(value, key, NOW_MS, RULES).minor for key, value in pairs]
    assert found == [8565, 1250, 3024]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_of_a_foreign_currency_the_converted_amount_is_rounded(tmp_path, name):
    row = {**GOOD, "amount": "1.0004", "currency": "BHD", "converted_amount": "2.4549999"}
    if name == "t.csv":
        path = file(tmp_path, ",".join(row) + "\n" + ",".join(row.values()) + "\n", name)
    else:
        path = jsonl(tmp_path, row)
    with open_reading(path, rounding=ROUNDING) as reading:
        ((key, value),) = reading.pairs()
        assert reading.rounded == 1
    assert float(json.loads(value)["amount"]) == 1.0004
    assert parse_transaction(value, key, NOW_MS, RULES).minor == 245


def test_a_malformed_record_does_not_count_as_rounded(tmp_path):
    bad = {**GOOD, "amount": 1.005, "event_time": "yesterday"}
    path = jsonl(tmp_path, bad, {**GOOD, "amount": 1.005, "converted_amount": None})
    with open_reading(path, rounding=ROUNDING, skip_bad=True) as reading:
        assert [json.loads(value)["amount"] for _key, value in reading.pairs()] == [1.0]
        assert (reading.bad, reading.rounded) == (1, 1)


def test_refunds_are_sent_and_counted_where_they_are_stored(tmp_path):
    path = jsonl(tmp_path, GOOD, {**GOOD, "amount": -5.00})
    with open_reading(path, rules=replace(RULES, refunds=True)) as reading:
        assert len(list(reading.pairs())) == 2
        assert (reading.bad, reading.refunds) == (0, 1)
    with open_reading(path, rules=RULES, skip_bad=True) as reading:
        assert len(list(reading.pairs())) == 1
        assert (reading.bad, reading.refunds) == (1, 0)


def test_times_without_zone_take_the_one_that_is_assumed_or_are_refused(tmp_path):
    path = file(tmp_path, HANDBOOK, "t.csv")
    paris = values(path, mapping=HANDBOOK_MAP, zone=ZoneInfo("Europe/Paris"))
    assert paris[0]["event_time"] == "2018-04-01T00:00:31+02:00"
    assert fault(path, mapping=HANDBOOK_MAP) == (
        "t.csv, line 2, column TX_DATETIME: '2018-04-01 00:00:31' has no time zone: "
        "add --assume-zone UTC, or the zone of the file"
    )


def test_a_zone_is_only_assumed_where_there_is_none(tmp_path):
    path = jsonl(tmp_path, {**GOOD, "event_time": "2024-05-01T12:00:00+05:00"})
    assert values(path, zone=UTC_ZONE)[0]["event_time"] == "2024-05-01T12:00:00+05:00"


def test_columns_that_do_not_exist_are_named_with_those_that_do(tmp_path):
    path = file(tmp_path, "a,b,c\n1,2,3\n", "t.csv")
    assert fault(path) == (
        "t.csv has no column for transaction_id, card_id, amount, event_time: give "
        "--map transaction_id=COLUMN,card_id=COLUMN,amount=COLUMN,event_time=COLUMN; its columns are a, b, c"
    )
    assert fault(path, mapping={"card_id": "CARD"}) == (
        "--map card_id=CARD: t.csv has no column CARD; its columns are a, b, c"
    )
    assert fault(path, drop=["d"]) == "--drop d: t.csv has no column d; its columns are a, b, c"
    assert "has no field card; did you mean card_id?" in fault(path, mapping={"card": "a"})
    assert "one column for two fields" in fault(path, mapping={"card_id": "a", "amount": "a"})


def test_columns_of_json_lines_are_those_of_any_of_the_first_records(tmp_path):
    path = jsonl(tmp_path, GOOD, {**GOOD, "shop": "s9"})
    assert "its columns are transaction_id, card_id, amount, event_time, shop" in fault(
        path, mapping={"terminal_id": "terminal"}
    )
    first, second = values(path, mapping={"terminal_id": "shop"})
    assert first == GOOD
    assert second == {**GOOD, "terminal_id": "s9"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_further_columns_are_passed_on_unless_dropped(tmp_path, suffix):
    record = {**GOOD, "amount": "12.50", "note": "hello", "shop": "x", "is_fraud": "1"}
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([record]), path)
    elif suffix == ".jsonl":
        jsonl(tmp_path, record)
    else:
        file(tmp_path, ",".join(record) + "\n" + ",".join(record.values()) + "\n", "t.csv")
    assert values(path)[0].keys() == {*GOOD, "note", "shop"}
    assert values(path, drop=["shop"])[0].keys() == {*GOOD, "note"}
    assert values(path, only_known=True)[0].keys() == GOOD.keys()
    # two columns change places
    swapped = values(path, mapping={"card_id": "transaction_id", "transaction_id": "card_id"})[0]
    assert (swapped["card_id"], swapped["transaction_id"]) == ("t1", "c1")
    # a column whose field comes from another one does not come along
    assert values(path, mapping={"card_id": "shop"})[0]["card_id"] == "x"


def test_labels_are_left_out_of_records_that_come_late_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("app.ops.files.json_lines.PEEKED_RECORDS", 1)
    path = jsonl(tmp_path, GOOD, {**GOOD, "is_fraud": 1, "new": 2})
    assert values(path)[1] == {**GOOD, "new": 2}
    assert values(path, only_known=True)[1] == GOOD


def test_json_lines_that_need_no_change_keep_their_bytes(tmp_path):
    lines = [
        b'{ "card_id" : "c1","transaction_id":"t1", "amount": 1.50, "event_time":1700000000000}',
        b'{"amount":"12345678901234567.89","card_id":"\xc3\xa9","transaction_id":"t","event_time":"2024-05-01T12:00:00+02:00","x":{"y":[1,2.50]}}',
    ]
    pairs = read(file(tmp_path, b"\r\n\n".join(lines) + b"\n"))
    assert [value for _, value in pairs] == lines
    assert [key for key, _ in pairs] == [b"c1", "é".encode()]
    # with another id, everything else keeps its digits
    changed = read(file(tmp_path, lines[1]), run="r2")[0][1]
    assert changed == lines[1].replace(b'"transaction_id":"t"', b'"transaction_id":"r2-t"')


def test_what_only_looks_wrong_is_put_right(tmp_path):
    record = {"transaction_id": 7, "card_id": 8, "amount": 1e2, "event_time": "1700000000000"}
    assert values(jsonl(tmp_path, record))[0] == {
        "transaction_id": "7", "card_id": "8", "amount": 100.0, "event_time": 1_700_000_000_000,
    }  # fmt: skip
    spaced = {**GOOD, "event_time": "2024-05-01 12:00:00+00:00"}
    assert values(jsonl(tmp_path, spaced))[0]["event_time"] == "2024-05-01T12:00:00+00:00"


def test_parquet_values_of_every_kind(tmp_path):
    moment = datetime(2024, 5, 1, 12, 0, 0, 123_000, tzinfo=UTC)
    rows = [
        {"transaction_id": 1, "card_id": 2, "terminal_id": None, "amount": Decimal("10.10"),
         "event_time": moment, "extra": 2.5, "flag": True},
        {"transaction_id": 2, "card_id": 2, "terminal_id": 3, "amount": Decimal("0.00"),
         "event_time": moment, "extra": None, "flag": False},
    ]  # fmt: skip
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    pairs = read(path)
    assert pairs[0] == (
        b"2",
        b'{"transaction_id":"1","card_id":"2","amount":10.10,'
        b'"event_time":"2024-05-01T12:00:00.123Z","extra":2.5,"flag":true}',
    )
    assert json.loads(pairs[1][1])["terminal_id"] == "3"
    naive = [{**row, "event_time": moment.replace(tzinfo=None), "amount": 57.1} for row in rows]
    pq.write_table(pa.Table.from_pylist(naive), path)
    assert "t.parquet, row 1, column event_time: '2024-05-01T12:00:00.123' has no" in fault(path)
    value = values(path, zone=UTC_ZONE)[0]
    assert (value["amount"], value["event_time"]) == (57.1, "2024-05-01T12:00:00.123Z")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"amount": "12,50"}, "column amount: '12,50' is not an amount such as 57.10"),
        ({"amount": "NaN"}, "column amount: 'NaN' is not an amount such as 57.10"),
        ({"amount": True}, "column amount: True is neither text nor number"),
        ({"amount": None}, "column amount: is null"),
        ({"card_id": ""}, "column card_id: is empty"),
        ({"card_id": ["x"]}, "column card_id: an object or array is neither text nor number"),
        ({"event_time": "noon"}, "'noon' is not ISO 8601 such as 2026-11-20T10:00:00Z"),
        ({"amount": "1_000"}, "column amount: '1_000' is not an amount such as 57.10"),
        (
            {"amount": "\u0661\u0662"},
            "column amount: '\u0661\u0662' is not an amount such as 57.10",
        ),
        ({"card_id": 1001.5}, "column card_id: 1001.5 is not a whole number: store ids as text"),
        ({"card_id": 1e16}, "column card_id: 1e+16 is above 2^53"),
    ],
)
def test_a_malformed_field_is_named_with_its_line(tmp_path, change, text):
    path = jsonl(tmp_path, GOOD, {**GOOD, **change})
    message = fault(path)
    assert message.startswith("t.jsonl, line 2, ")
    assert text in message
    assert message.endswith("(--skip-bad skips such lines)")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"what?", "t.jsonl, line 2, not JSON: "),
        (b"[1]", "t.jsonl, line 2, a JSON value, but not an object"),
        (b'{"card_id": "\xff"}', "t.jsonl, line 2, not UTF-8 at byte 14"),
        (b'{"card_id": "c", "amount": 1}', "t.jsonl, line 2, column transaction_id: is missing"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, text):
    path = file(tmp_path, json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    assert fault(path).startswith(text)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"t2,c2,1", "line 3, 3 columns where the header has 4"),
        (b"t2,c2,x,2024-05-01T12:00:00Z", "line 3, column amount: 'x' is not an amount"),
        (b"t2,,1,2024-05-01T12:00:00Z", "line 3, column card_id: is empty"),
        (b"t2,c\xff,1,2024-05-01T12:00:00Z", "line 3, not UTF-8 text"),
        (b"t2,c2,1,later", "line 3, column event_time: time 'later' is not ISO 8601"),
    ],
)
def test_a_malformed_csv_line_is_named_and_the_next_one_read(tmp_path, line, text):
    content = (
        b"transaction_id,card_id,amount,event_time\nt1,c1,1,2024-05-01T12:00:00Z\n"
        + line
        + b"\nt3,c3,1.50,2024-05-01T12:00:00Z\n"
    )
    path = file(tmp_path, content, "t.csv")
    assert text in fault(path)
    with open_reading(path, skip_bad=True) as reading:
        assert [key for key, _ in reading.pairs()] == [b"c1", b"c3"]
    assert reading.bad == 1
    assert text in str(reading.first_bad)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_of_other_delimiters_quotes_and_marks(tmp_path, delimiter):
    header = ["transaction_id", "card_id", "amount", "event_time", "note"]
    row = ["t1", "c1", "1.50", "2024-05-01T12:00:00Z", f'"a{delimiter}""b"""']
    text = "\ufeff" + "\r\n".join(delimiter.join(part) for part in (header, row)) + "\r\n\r\n"
    (value,) = values(file(tmp_path, text, "t.csv"))
    assert value["note"] == f'a{delimiter}"b"'
    assert value["transaction_id"] == "t1"


def test_skip_and_limit_count_records_of_the_file(tmp_path):
    good = [{**GOOD, "transaction_id": f"t{number}"} for number in range(5)]
    path = jsonl(tmp_path, good[0], {"bad": 1}, *good[1:])
    with open_reading(path, skip=2, limit=2) as reading:
        assert [json.loads(value)["transaction_id"] for _, value in reading.pairs()] == ["t1", "t2"]
    assert read(path, skip=99) == []
    assert len(read(path, limit=0)) == 0


def test_records_too_large_for_kafka_are_named(tmp_path):
    path = jsonl(tmp_path, GOOD, {**GOOD, "note": "x" * 70_000})
    assert "line 2, 70,107 bytes, more than" in fault(path, rules=replace(RULES, max_bytes=65_536))
    assert len(read(path, rules=replace(RULES, max_bytes=65_536), skip_bad=True)) == 1


def test_raw_lines_keep_their_bytes_whatever_they_are(tmp_path):
    made = simulate(SimulationConfig(cards=20, terminals=30, count=100), now_ms=NOW_MS)
    deliveries = deliver(made, Disorder(broken=0.3))
    path = tmp_path / "t.jsonl"
    write_deliveries(path, deliveries, labels=False)
    assert read(path, raw=True) == list(deliveries.pairs())
    write_deliveries(path, deliveries, labels=True)
    assert "is a label, and --raw would send it" in fault(path, raw=True)
    assert "--raw is for JSON lines" in fault(file(tmp_path, "a\n1\n", "t.csv"), raw=True)


def test_a_quote_that_is_never_closed_takes_no_other_row_with_it(tmp_path):
    rows = ["transaction_id,card_id,amount,event_time,note"]
    rows += [
        f"{n},c{n},1.00,2024-05-01T12:00:0{n}Z,{note}"
        for n, note in enumerate(("a", '"b', "c", "d"))
    ]
    path = file(tmp_path, "\n".join(rows), "t.csv")
    assert "t.csv, line 3, not CSV: a quote is not closed" in fault(path)
    with open_reading(path, skip_bad=True) as reading:
        assert [key for key, _value in reading.pairs()] == [b"c0", b"c2", b"c3"]
        assert reading.bad == 1


def test_a_header_in_another_encoding(tmp_path):
    path = file(tmp_path, b"card_id,\xe4mount\n", "t.csv")
    assert fault(path) == "t.csv, line 1, not UTF-8 text"


@pytest.mark.parametrize("amount", ["1e9999999999999", "1e999999999", "1e-999999999"])
def test_an_amount_that_would_fill_the_memory(tmp_path, amount):
    rows = f"transaction_id,card_id,amount,event_time\n1,c,{amount},2024-05-01T12:00:00Z\n"
    assert "is not an amount such as 57.10" in fault(file(tmp_path, rows, "t.csv"))


def test_json_that_is_nested_too_deep(tmp_path):
    deep = '{"x":' + "[" * 100_000 + "]" * 100_000 + "}\n"
    path = file(
        tmp_path,
        deep + '{"card_id":"c","transaction_id":"1","amount":1,"event_time":1700000000000}\n',
    )
    assert "nested too deep" in fault(path)
    assert len(read(path, skip_bad=True)) == 1


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_any_bytes_have_a_raw_key_or_none(line):
    key = raw_key(line)
    assert key is None or key


@settings(max_examples=50)
@given(
    amount=st.decimals(min_value=0, max_value=10**9, places=2),
    moment=st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001
    names=st.tuples(*[st.text(min_size=1, max_size=9)] * 2),
)
def test_a_row_of_text_becomes_the_transaction_that_it_says(amount, moment, names):
    row = {
        "transaction_id": names[0],
        "card_id": names[1],
        "amount": str(amount),
        "event_time": str(moment),
    }
    converter = Converter(make_plan("f", row, FileOptions(times=TimeRules(UTC_ZONE))))
    key, value, event_ms = converter.table_row(row)
    record = json.loads(value)
    assert (record["transaction_id"], key) == (names[0], names[1].encode())
    assert round(Decimal(repr(record["amount"])), 2) == amount
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    micros = (moment.replace(tzinfo=UTC) - epoch) // (datetime.resolution)
    assert event_ms == micros // 1000
    assert datetime.fromisoformat(record["event_time"]) == moment.replace(tzinfo=UTC)


def test_a_schedule_follows_event_time():
    records = [(b"k", b"v", 1_000 * at) for at in (100, 160, 130, 90, 220)]
    assert [due for due, _, _ in spread(records, 60)] == [0, 1, 0.5, 0, 2]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["is_fraud", "verdict", "amount_was"])
def test_verdicts_are_taken_out_of_the_records_that_they_label(tmp_path, suffix, column):
    words = ["1", "0", "true", "genuine"]
    rows = [
        {**GOOD, "transaction_id": f"t{at}", column: word, "note": "n"}
        for at, word in enumerate(words)
    ]
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        path.write_text(
            "\n".join(",".join(map(str, row)) for row in [rows[0], *map(dict.values, rows)])
        )
    else:
        jsonl(tmp_path, *rows)
    with open_reading(path, label=column, run="r", skip=1) as reading:
        found = list(reading.labelled())
        assert reading.left_out == []
    assert [fraud for *_, fraud in found] == [False, True, False]
    for at, (key, value, event_ms, _fraud) in enumerate(found, 1):
        assert json.loads(value).keys() == {*GOOD, "note"}
        assert (json.loads(value)["transaction_id"], key) == (f"r-t{at}", b"c1")
        assert event_ms == 1_714_564_800_000


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_record_without_a_verdict_is_malformed(tmp_path, name):
    rows = [{**GOOD, "is_fraud": "0"}, {**GOOD, "is_fraud": ""}]
    if name == "t.csv":
        path = file(
            tmp_path,
            "\n".join(",".join(map(str, row)) for row in [rows[0], *map(dict.values, rows)]),
            name,
        )
    else:
        path = jsonl(tmp_path, *rows)
    with open_reading(path, label="is_fraud", skip_bad=True) as reading:
        assert len(list(reading.labelled())) == reading.bad == 1
        assert "column is_fraud: " in str(reading.first_bad)
        assert "is empty" in str(reading.first_bad)


def test_the_column_of_verdicts_must_be_there_and_be_no_field(tmp_path):
    path = jsonl(tmp_path, GOOD)
    assert fault(path, label="fraud").startswith(
        "--with-labels fraud: t.jsonl has no column fraud; its"
    )
    assert fault(path, label="amount") == "--with-labels amount: this column is the record's amount"


def test_reading_ends_before_the_first_record_of_a_time(tmp_path):
    days = ["01", "02", "04", "03"]
    path = jsonl(tmp_path, *({**GOOD, "event_time": f"2024-05-{day}T00:00:00Z"} for day in days))
    end_ms = 1_714_780_800_000
    assert len(read(path, until_ms=end_ms)) == 2
    assert len(read(path, until_ms=end_ms + 1)) == 4


def labelled(*transactions: tuple[int, bool], terminal: str | None = "s1") -> list[tuple]:
    place = {"terminal_id": terminal} if terminal else {}
    return [
        (
            b"c1",
            json.dumps({**GOOD, **place, "transaction_id": f"t{at}", "event_time": at}).encode(),
            at,
            fraud,
        )
        for at, fraud in transactions
    ]


def stream(*transactions: tuple[int, bool], **options: int) -> list[str]:
    items = following(labelled(*transactions), **{"after_ms": 10, "now_ms": NOW_MS, **options})
    return [
        ("label " if label else "") + json.loads(value)["transaction_id"]
        for label, _key, value, _newest in items
    ]


def test_a_label_stands_where_event_time_has_come_as_far_as_its_moment():
    assert stream((1, True), (5, False), (11, False), (14, True), (15, False), (40, False)) == [
        "t1", "t5", "label t1", "t11", "t14", "label t5", "t15", "label t11", "label t14", "label t15", "t40",
        "label t40",
    ]  # fmt: skip


def test_labels_of_a_file_out_of_order_go_by_their_own_times():
    assert stream((20, True), (9, False), (21, True), (1, True), (30, True)) == [
        "t20", "t9", "label t9", "t21", "t1", "label t1", "label t20", "t30", "label t21", "label t30",
    ]  # fmt: skip


def test_a_label_says_of_which_transaction_and_none_is_of_the_future():
    items = following(labelled((5, True), (95, False)), after_ms=10, now_ms=100)
    found = [(key, json.loads(value), newest) for label, key, value, newest in items if label]
    both = {"card_id": "c1", "terminal_id": "s1"}
    assert found == [
        (b"t5", {"transaction_id": "t5", "is_fraud": True, "labelled_at": 15, "event_time": 5, **both}, 95),
        (b"t95", {"transaction_id": "t95", "is_fraud": False, "labelled_at": 100, "event_time": 95, **both}, 95),
    ]  # fmt: skip
    (_, (_, _, value, _)) = following(labelled((5, True), terminal=None), after_ms=1, now_ms=NOW_MS)
    assert "terminal_id" not in json.loads(value)


def test_the_stream_accepts_labels_made_of_a_file(tmp_path):
    path = file(tmp_path, HANDBOOK, "t.csv")
    with open_reading(path, mapping=HANDBOOK_MAP, zone=UTC_ZONE, label="TX_FRAUD") as reading:
        items = list(following(reading.labelled(), after_ms=86_400_000, now_ms=NOW_MS))
    sent = {}
    for is_label, key, value, _newest in items:
        if is_label:
            label = parse_label(value, 0, NOW_MS, 0)
            assert label.whole
            transaction = sent[label.transaction_id]
            assert key == label.transaction_id.encode()
            assert (
                label.card_id,
                label.terminal_id,
                label.event_time_ms,
                label.labelled_at_ms,
            ) == (
                transaction.card_id,
                transaction.terminal_id,
                transaction.event_time_ms,
                transaction.event_time_ms + 86_400_000,
            )
            assert label.is_fraud == (label.transaction_id == "2")
        else:
            transaction = parse_transaction(value, key, NOW_MS, RULES)
            sent[transaction.transaction_id] = transaction
    assert len(items) == 6


def test_files_that_cannot_be_read(tmp_path):
    assert fault(tmp_path / "no.csv") == "cannot read no.csv: No such file or directory"
    assert "must end in .csv" in fault(tmp_path / "t.txt")
    assert "line 1 is blank: it must name the columns" in fault(file(tmp_path, "\na,b\n", "t.csv"))
    assert "names a column twice: a, a" in fault(file(tmp_path, "a,a\n", "t.csv"))
    assert "is not a Parquet file that can be read" in fault(file(tmp_path, "x", "t.parquet"))
    assert "cannot be read: Not a gzipped file" in fault(file(tmp_path, HANDBOOK, "t.csv.gz"))
    assert read(file(tmp_path, "", "t.jsonl")) == []


def test_a_cut_gzip_file_gives_what_it_has_and_says_where_it_ends(tmp_path):
    lines = "".join(
        json.dumps({**GOOD, "transaction_id": f"{n * n}"}) + "\n" for n in range(20_000)
    )
    packed = gzip.compress(lines.encode())
    path = file(tmp_path, packed[: len(packed) // 2], "t.jsonl.gz")
    with open_source(path) as source, pytest.raises(UsageError, match="beyond line [0-9]+: Comp"):
        for _ in count():
            next(source)
    assert 2_000 < source.line < 18_000


def test_pairs_may_follow_each_other_on_the_command_line():
    expected = (Path("f.csv"), {"card_id": "A", "amount": "B=C", "terminal_id": "D"})
    assert file_and_mapping(("f.csv", "amount=B=C", "terminal_id=D"), ("card_id=A",)) == expected
    assert file_and_mapping(("amount=B=C", "terminal_id=D", "f.csv"), ("card_id=A",)) == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a.csv", "b.csv"], "give exactly one FILE; given: a.csv, b.csv"),
        (["a.csv", "--map", "card_id"], "--map card_id: write FIELD=COLUMN"),
        (["a.csv", "--map", "card_id=A", "card_id=B"], "--map names card_id twice: A and B"),
        (["a.csv", "--rate", "5", "--speed", "5"], "--rate or --speed, not both"),
        (["a.csv", "--run", "a b"], "--run 'a b' must be"),
        (["a.csv", "--assume-zone", "Mars"], "--assume-zone 'Mars' is not a time zone"),
        (["a.jsonl", "--raw", "--round-amounts"], "cannot be used with --round-amounts"),
        (["a.csv", "--labels", "--round-amounts"], "cannot be used with --round-amounts"),
        (["a.jsonl", "--raw", "--run", "x", "card_id=A"], "cannot be used with --run, --map"),
        (["a.csv", "--labels", "--with-labels", "x"], "cannot be used with --with-labels"),
        (["a.jsonl", "--raw", "--until", "2018-09-05"], "cannot be used with --until"),
        (["a.csv", "--label-after", "1d"], "--label-after needs --with-labels COLUMN"),
        (
            ["a.csv", "--with-labels", "x", "--label-after", "soon"],
            "--label-after: 'soon' is not a",
        ),
        (["a.csv", "--until", "later"], "--until later: write a date or a time, such as"),
        (["a.csv"], "cannot read a.csv: No such file"),
    ],
)
def test_mistakes_on_the_command_line_get_one_line(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(["produce", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_without_kafka_there_is_one_line_within_seconds(tmp_path, capfd, monkeypatch):
    path = jsonl(tmp_path, GOOD)
    monkeypatch.setenv("FRAUDSTREAM_BROKER", "127.0.0.1:1")
    monkeypatch.setenv("FRAUDSTREAM_CASSANDRA", "127.0.0.1:1")
    assert run_command(["produce", str(path)]) == 3
    error = capfd.readouterr().err
    assert error.startswith("fraudstream: no Kafka at 127.0.0.1:1: ")
    assert error.count("\n") == 1


class _Log:
    """What workers have before them, one look after the other."""

    topics = Topics(Settings(_env_file=None))  # type: ignore[call-arg]

    def __init__(self, *behind: tuple[int, int]) -> None:
        self.behind = list(behind)
        self.looks = 0

    async def ends(self, _topic: object) -> list[int]:
        return [100, 100]

    async def done(self, topic: object) -> list[int]:
        transactions, labels = self.behind[min(self.looks, len(self.behind) - 1)]
        if topic is self.topics.labels:
            self.looks += 1
            return [100 - labels, 100]
        return [100, 100 - transactions]


async def test_a_pace_waits_for_the_topic_that_is_further_behind(monkeypatch):
    monkeypatch.setattr("app.ops.producing.wait_for_workers._LOOK_SECONDS", 0)
    log = _Log((50, 9), (5, 11), (10, 10), (0, 0))
    await WaitForWorkers(log, 10)()  # type: ignore[arg-type]
    assert log.looks == 3


async def test_a_pace_ends_when_no_worker_does_anything(monkeypatch):
    monkeypatch.setattr("app.ops.producing.wait_for_workers._LOOK_SECONDS", 0)
    clock = count(0, 50)
    with pytest.raises(UnavailableError, match="11 records behind .* start `fraudstream worker`"):
        await WaitForWorkers(_Log((0, 12), (0, 11)), 10, lambda: next(clock))()  # type: ignore[arg-type]
