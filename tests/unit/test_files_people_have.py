"""Files that people really have, through the commands: what is sent, what is refused and in which words.

Kafka is replaced by a producer that keeps what it is given; `tests/integration/test_produce.py` has the real one.
"""

import bz2
import gzip
import json
import lzma
import pickle
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.cli.command_errors import run
from app.errors import UsageError
from app.ops.files.transaction_file import open_reading
from app.ops.produce import ProduceReport

HEAD = "transaction_id,card_id,amount,event_time"
T = "2024-01-20T10:00:00Z"
T_MS = 1_705_744_800_000
ROW = {"transaction_id": "1", "card_id": "c", "amount": 5, "event_time": T}


class Sent:
    """What the command has sent, and what it said."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.pairs: list[tuple[bytes | None, bytes]] = []
        self._folder = tmp_path
        self._capsys = capsys
        self.code = -1
        self.out = self.err = ""

    async def take(self, records: Iterable[tuple[bytes, bytes]], **options: Any) -> ProduceReport:
        before = len(self.pairs)
        for pair in records:
            self.pairs.append(pair)
            if options.get("on_progress"):
                options["on_progress"](len(self.pairs) - before)
        size = sum(len(value) for _, value in self.pairs[before:])
        return ProduceReport(
            options.get("topic") or "transactions", len(self.pairs) - before, size, 1.0
        )

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(value) for _key, value in self.pairs]

    def path(self, content: str | bytes | pa.Table | list[dict[str, Any]], name: str) -> Path:
        path = self._folder / name
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
            return path
        if isinstance(content, list):
            content = "".join(json.dumps(each) + "\n" for each in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def __call__(self, content: Any, *options: str, name: str = "f.csv") -> list[dict[str, Any]]:
        """Run `produce`; gives the records."""
        path = self.path(content, name)
        self.pairs.clear()
        self.code = run(["produce", str(path), *options])
        captured = self._capsys.readouterr()
        self.out, self.err = (
            text.replace(str(path), name) for text in (captured.out, captured.err)
        )
        assert self.code in {0, 2}
        assert self.err.count("\n") == (self.code == 2)
        assert "Traceback" not in self.err
        return self.records

    def refused(self, content: Any, *options: str, name: str = "f.csv") -> str:
        self(content, *options, name=name)
        assert self.code == 2, self.records
        return self.err.removeprefix("fraudstream: ").rstrip("\n")


@pytest.fixture
def sent(tmp_path, capsys, monkeypatch) -> Sent:
    found = Sent(tmp_path, capsys)
    monkeypatch.setattr("app.ops.produce.produce", found.take)
    return found


def table(**columns: Any) -> pa.Table:
    """One row of a good Parquet file, with other columns."""
    rows = {name: [value] for name, value in ROW.items()} | {"amount": ["5.00"]}
    return pa.table({**rows, **columns})


def lines(*rows: str, head: str = HEAD) -> str:
    return "\n".join((head, *rows)) + "\n"


# ---------------------------------------------------------------------- files of labels


def test_labels_that_are_not_utf_8(sent):  # 1
    text = "transaction_id,is_fraud\nKäse,1\n".encode("latin-1")
    assert sent.refused(text, "--labels") == "f.csv, line 2, not UTF-8 text"


def test_times_of_labels_in_parquet(sent):  # 2, 3
    def labels(moment: Any) -> pa.Table:
        return pa.table({"transaction_id": ["a"], "is_fraud": [1], "labelled_at": moment})

    dates = labels(pa.array([date(2024, 1, 20)]))
    assert "row 1, column labelled_at: '2024-01-20' has no time zone" in sent.refused(
        dates, "--labels", name="f.parquet"
    )
    (label,) = sent(dates, "--labels", "--assume-zone", "UTC", name="f.parquet")
    assert label["labelled_at"] == "2024-01-20T00:00:00Z"
    (label,) = sent(labels([float("nan")]), "--labels", name="f.parquet")
    assert label["labelled_at"] > T_MS  # now: it was missing
    (label,) = sent(labels([float(T_MS)]), "--labels", name="f.parquet")
    assert label["labelled_at"] == T_MS


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (
            f"transaction_id,is_fraud,labelled_at\na,1,{'9' * 23}\n",
            ["--labels"],
            "column labelled_at: time 999",
        ),
        (lines(f"1,c,5,{'9' * 23}"), [], "column event_time: time 999"),
        (
            lines(f"1,c,5,{T},{'9' * 23}", head=HEAD + ",schema_version"),
            [],
            "column schema_version: '999",
        ),
    ],
)
def test_numbers_out_of_range_are_named_with_column_and_line(sent, text, options, words):  # 4
    error = sent.refused(text, *options)
    assert error.startswith("f.csv, line 2, " + words)
    assert "out of range" in error or "too large" in error


def test_labels_use_the_words_of_the_topic(sent):  # 12, 28
    words = ["yes", "No", "Y", "F", " 1 ", "fraud", "genuine", "1.0"]
    text = "transaction_id,is_fraud\n" + "".join(f"{at},{word}\n" for at, word in enumerate(words))
    found = [label["is_fraud"] for label in sent(text, "--labels")]
    assert found == [True, False, True, False, True, True, False, True]
    assert "'maybe' is not fraud or genuine" in sent.refused(
        "transaction_id,is_fraud\n1,maybe\n", "--labels"
    )


def test_times_of_labels_in_seconds_are_refused_as_those_of_events(sent):  # 13
    text = "transaction_id,is_fraud,labelled_at\na,1,1705744800\n"
    assert "looks like seconds: give --time-unit s" in sent.refused(text, "--labels")
    (label,) = sent(text, "--labels", "--time-unit", "s")
    assert label["labelled_at"] == T_MS


def test_bad_labels_can_be_left_out(sent):  # 25
    text = f"transaction_id,is_fraud\na,1\nb,what\n{'x' * 100_000},1\nd,0\n"
    found = sent(text, "--labels", "--skip-bad")
    assert [label["transaction_id"] for label in found] == ["a", "d"]
    assert "2 malformed left out, the first: f.csv, line 3, column is_fraud" in sent.out


def test_labels_that_the_stream_would_refuse_are_refused(sent):
    text = (
        "transaction_id,is_fraud,labelled_at\na,1,2999-01-01T00:00:00Z\nb,1,2001-01-01T00:00:00Z\n"
    )
    assert "line 2, labelled_at is" in sent.refused(text, "--labels")
    assert len(sent(text, "--labels", "--skip-bad")) == 1


# ---------------------------------------------------------------------- ids


def test_floats_are_ids_when_they_are_whole_and_exact(sent):  # 5, 6
    def card(value: float) -> pa.Table:
        return table(card_id=pa.array([value], pa.float64()))

    assert sent(card(1001.0), name="f.parquet")[0]["card_id"] == "1001"
    assert sent(card(2.0**53), name="f.parquet")[0]["card_id"] == "9007199254740992"
    assert "column card_id: is empty" in sent.refused(card(float("nan")), name="f.parquet")
    for beyond in (1e16, 12345678901234567890.0, float("inf")):
        assert "is above 2^53" in sent.refused(card(beyond), name="f.parquet")
    assert "1.5 is not a whole number" in sent.refused(card(1.5), name="f.parquet")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pa.array([2**62]), str(2**62)),
        (pa.array([Decimal("1001.00")]), "1001"),
        (pa.array([Decimal("12345678901234567890123")]), "12345678901234567890123"),
        (pa.array([b"c1"]), "c1"),
        (pa.array(["c1"]).dictionary_encode(), "c1"),
    ],
)
def test_ids_of_other_types_of_parquet(sent, value, text):
    assert sent(table(card_id=value, terminal_id=value), name="f.parquet")[0]["card_id"] == text
    assert sent.records[0]["terminal_id"] == text
    assert sent.pairs[0][0] == text.encode()


def test_numbers_are_ids_in_every_field_of_json(sent):  # 10
    row = {**ROW, "transaction_id": 7, "card_id": 12345678901234567890123, "terminal_id": 42.0}
    (record,) = sent([row], name="f.jsonl")
    ids = [record[name] for name in ("transaction_id", "card_id", "terminal_id")]
    assert ids == ["7", "12345678901234567890123", "42"]


def test_digits_of_json_are_those_that_came(sent):  # 7
    line = (
        '{"transaction_id":"1","card_id":"c","amount":5,"event_time":"%s",'
        '"a":{"b":[0.1234567890123456789,18446744073709551616]},"big":12345678901234567890123}'
    )
    sent(line % T + "\n", name="f.jsonl")
    assert sent.pairs[0][1] == (line % T).encode()
    sent(line % T + "\n", "--run", "r", name="f.jsonl")
    assert sent.pairs[0][1] == (line % T).replace('"1"', '"r-1"').encode()
    renamed = line.replace("card_id", "pan") % T
    sent(renamed + "\n", "--map", "card_id=pan", name="f.jsonl")
    assert b"0.1234567890123456789,18446744073709551616" in sent.pairs[0][1]


def test_ids_that_the_stream_refuses_are_refused(sent):  # 21
    row = {**ROW, "card_id": "x" * 100_000}
    assert "line 1, card_id must be" in sent.refused([row], name="f.jsonl")
    assert "1 to 256 bytes" in sent.err
    assert "transaction_id must be" in sent.refused(
        [{**ROW, "transaction_id": "a\0b"}], name="f.jsonl"
    )
    assert len(sent([row, ROW], "--skip-bad", name="f.jsonl")) == 1


def test_ids_that_are_probably_none_are_counted_in_a_warning(sent):  # 22
    cards = ["NULL", "  ", "4.53202E+15", "1001.0", "4532020000000000", "nan", "c1"]
    text = lines(*(f"{at},{card},5.00,{T}" for at, card in enumerate(cards)))
    assert len(sent(text)) == len(cards)
    assert (
        "Warning: in 5 records, card_id is probably not an id; the first: 'NULL' in line 2"
        in sent.out
    )
    sent(text, "--json")
    assert len(json.loads(sent.out)["warnings"]) == 1


@pytest.mark.parametrize(
    "card", ["c\u00a0", "c\u200b1", "\ufeffc", "'c1'", '" ""c1"""', '"=""0012"""']
)
def test_ids_with_blanks_quotes_and_formulas_are_counted_in_a_warning(sent, card):
    assert len(sent(lines(f"1,{card},5.00,{T}"))) == 1
    assert "Warning: in 1 records, card_id is probably not an id; the first: " in sent.out


@pytest.mark.parametrize("number", ["9" * 5_000, "1e400", "-1E-999999", '{"a":%s}' % ("9" * 5_000)])
@pytest.mark.parametrize(
    "field", ["transaction_id", "card_id", "amount", "event_time", "x", "is_fraud"]
)
def test_numbers_that_no_double_holds_have_a_line(sent, field, number):
    bad = json.dumps({**ROW, "is_fraud": 1, field: "@"}).replace('"@"', number)
    text = bad + "\n" + json.dumps({**ROW, "is_fraud": 1}) + "\n"
    for options in ((), ("--labels",)):
        sent(text, *options, "--skip-bad", name="f.jsonl")
        assert sent.code == 0
    with open_reading(sent.path(text, "f.jsonl"), label="is_fraud", skip_bad=True) as reading:
        assert list(reading.labelled())
        assert (reading.first_bad or "line 1").count("line 1") == 1


# ---------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("1705744800000", "ms"),
        ("1705744800000123", "us"),
        ("1705744800000123456", "ns"),
        ("1705744800.123456789", "s"),
    ],
)
def test_epoch_numbers_of_other_units(sent, text, unit):  # 8, 14
    file = lines(f"1,c,5.00,{text}")
    found = sent(file)[0]["event_time"]
    assert found // 1000 == T_MS // 1000
    assert sent(file, "--time-unit", unit)[0]["event_time"] == found
    line = json.dumps({**ROW, "event_time": "?"}).replace('"?"', text) + "\n"
    assert sent(line, name="f.jsonl")[0]["event_time"] == found
    assert sent(line.replace(text, f'"{text}"'), name="f.jsonl")[0]["event_time"] == found


def test_whole_seconds_need_an_option(sent):
    file = lines("1,c,5.00,1705744800")
    assert "looks like seconds: give --time-unit s" in sent.refused(file)
    assert "--skip-bad" not in sent.err
    assert sent(file, "--time-unit", "s")[0]["event_time"] == T_MS


def test_times_of_numbers_do_not_depend_on_the_unit_of_the_topic(sent, monkeypatch):
    monkeypatch.setenv("FRAUDSTREAM_EVENT_TIME_UNIT", "s")
    assert sent(lines("1,c,5.00,1705744800"))[0]["event_time"] == "2024-01-20T10:00:00.000Z"
    assert len(sent(lines(f"1,c,5.00,{T_MS}"), "--time-unit", "ms")) == 1
    (label,) = sent("transaction_id,is_fraud,labelled_at\na,1,1705744800\n", "--labels")
    assert label["labelled_at"] == "2024-01-20T10:00:00.000Z"


def test_whole_numbers_written_as_floats_are_epoch_milliseconds(sent):  # 14
    for text in (f"{T_MS}.0", "1.7057448E12"):
        assert sent(lines(f"1,c,5.00,{text}"))[0]["event_time"] == T_MS
    floats = table(event_time=pa.array([float(T_MS)]))
    assert sent(floats, name="f.parquet")[0]["event_time"] == T_MS


BERLIN = ("--assume-zone", "Europe/Berlin")


def test_local_times_that_occur_twice_or_never(sent):  # 9
    twice, never, plain = (
        lines(f"1,c,5.00,{time}")
        for time in ("2023-10-29 02:10:00", "2023-03-26 02:30:00", "2023-03-26 03:30:00")
    )
    assert "occurs twice in Europe/Berlin" in sent.refused(twice, *BERLIN)
    assert "does not exist in Europe/Berlin" in sent.refused(never, *BERLIN)
    assert sent(plain, *BERLIN)[0]["event_time"] == "2023-03-26T03:30:00+02:00"
    for policy, first, second in (
        ("earlier", "2023-10-29T00:10:00Z", "2023-03-26T00:30:00Z"),
        ("later", "2023-10-29T01:10:00Z", "2023-03-26T01:30:00Z"),
    ):
        for text, expected in ((twice, first), (never, second)):
            moment = sent(text, *BERLIN, "--ambiguous", policy)[0]["event_time"]
            assert datetime.fromisoformat(moment) == datetime.fromisoformat(expected)
            assert "1 local times at clock changes resolved" in sent.out
    both = twice + "2" + never.splitlines()[1][1:] + "\n" + "3" + plain.splitlines()[1][1:] + "\n"
    assert len(sent(both, *BERLIN, "--skip-bad")) == 1
    assert "2 malformed left out" in sent.out


def test_local_times_of_parquet_go_by_the_same_rule(sent):
    naive = table(event_time=pa.array([datetime(2023, 10, 29, 2, 10)]))  # noqa: DTZ001
    assert "occurs twice" in sent.refused(naive, *BERLIN, name="f.parquet")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("2024-01-20T11:00:00+01:00[Europe/Berlin]", []),
        ("2024-01-20T10:00:00Z[UTC]", []),
        ("2024-01-20T10:00:00z", []),
        ("2024-01-20 10:00:00 UTC", []),
        ("2024-01-20T15:30:00+0530", []),
        ("2024-01-20T10:00:00.123456789Z", []),
        ("20/01/2024 10:00", ["--time-format", "%d/%m/%Y %H:%M", "--assume-zone", "UTC"]),
        ("20/01/2024 11:00 +0100", ["--time-format", "%d/%m/%Y %H:%M %z"]),
        ("20240120100000", ["--time-format", "%Y%m%d%H%M%S", "--assume-zone", "UTC"]),
    ],
)
@pytest.mark.parametrize("name", ["f.csv", "f.jsonl"])
def test_times_as_others_write_them(sent, text, options, name):  # 15
    content = lines(f"1,c,5.00,{text}") if name == "f.csv" else [{**ROW, "event_time": text}]
    moment = datetime.fromisoformat(sent(content, *options, name=name)[0]["event_time"])
    assert moment.replace(microsecond=0) == datetime(2024, 1, 20, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "20/01/2024 10:00",
            "is not ISO 8601 such as 2026-11-20T10:00:00Z; --time-format gives",
        ),
        ("20240120", "looks like a date: give --time-format %Y%m%d"),
        ("20240120100000", "looks like a date: give --time-format %Y%m%d%H%M%S"),
        ("2999-01-01T00:00:00Z", "s after the broker received"),
        ("1960-01-01T00:00:00Z", "before 1973"),
        ("-5", "is before 1973"),
    ],
)
def test_times_that_are_refused(sent, text, words):
    assert words in sent.refused(lines(f"1,c,5.00,{text}"))


# ---------------------------------------------------------------------- amounts


@pytest.mark.parametrize(
    "amount", ["1_000", "\u0661\u0662", "1,234.56", "$12.50", "(12.50)", "1e400", "0x10", "NaN"]
)
def test_amounts_that_are_refused(sent, amount):  # 24
    assert "is not an amount such as 57.10" in sent.refused(lines(f'1,c,"{amount}",{T}'))
    assert "is not an amount such as 57.10" in sent.refused(
        [{**ROW, "amount": amount}], name="f.jsonl"
    )


def test_amounts_that_the_stream_refuses_are_refused(sent):  # 20
    for amount in ("12.505", "0.30000000000000004"):
        assert "has more than 2 decimals (--round-amounts rounds amounts)" in sent.refused(
            lines(f"1,c,{amount},{T}")
        )
        assert len(sent(lines(f"1,c,{amount},{T}"), "--round-amounts")) == 1
    single = table(amount=pa.array([57.1], pa.float32()))
    assert "has more than 2 decimals" in sent.refused(single, name="f.parquet")
    assert sent(single, "--round-amounts", name="f.parquet")[0]["amount"] == 57.1
    assert len(sent(lines(f"1,c,12.505,{T}", f"2,c,12.50,{T}"), "--skip-bad")) == 1


def test_an_amount_that_is_null(sent):  # 26
    assert "line 1, column amount: is null" in sent.refused(
        [{**ROW, "amount": None}], name="f.jsonl"
    )


# ---------------------------------------------------------------------- label columns


@pytest.mark.parametrize("name", ["f.csv", "f.jsonl", "f.parquet"])
@pytest.mark.parametrize(
    "column",
    ["isFraud", "Class", "Is Fraud?", "is_fraud", "TX_FRAUD", "isFlaggedFraud", "FRAUD_BOOL"],
)
def test_answers_are_not_sent_unless_asked(sent, name, column):  # 11
    row = {**{key: str(value) for key, value in ROW.items()}, column: "1", "note": "n"}
    content: Any = [row]
    if name == "f.csv":
        content = lines(",".join(row.values()), head=",".join(row))
    elif name == "f.parquet":
        content = pa.table({key: [value] for key, value in row.items()})
    assert sent(content, name=name)[0].keys() == {*ROW, "note"}
    assert f"Label columns, not sent: {column} (--keep COLUMN sends one)" in sent.out
    assert column in sent(content, "--keep", column, name=name)[0]
    assert "Label columns" not in sent.out


# ---------------------------------------------------------------------- the shape of files


def test_files_of_excel(sent):  # 18
    row = f"1;c;5.00;{T}"
    semicolons = lines(row, head=HEAD.replace(",", ";"))
    assert sent("sep=;\r\n" + semicolons) == sent(semicolons)
    assert len(sent.records) == 1
    tabs = semicolons.replace(";", "\t")
    for encoding in ("utf-16", "utf-8-sig"):
        assert len(sent(tabs.encode(encoding))) == 1
        assert len(sent(gzip.compress(tabs.encode(encoding)), name="f.csv.gz")) == 1
    assert "UTF-16 needs a byte order mark" in sent.refused(tabs.encode("utf-16-le"))
    assert "UTF-32" in sent.refused(tabs.encode("utf-32"))
    quoted = '"transaction\nid","card\r\nid",amount,event_time\n' + row.replace(";", ",") + "\n"
    assert len(sent(quoted, "--map", "transaction_id=transaction id,card_id=card id")) == 1
    assert "an Excel workbook or a ZIP archive" in sent.refused(b"PK\x03\x04rest")


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook of the old format"),
        (bz2.compress(b"x"), "compressed with bzip2"),
        (lzma.compress(b"x"), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd\x04", "compressed with zstd"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"Obj\x01\x04", "Avro"),
        (b"ORC\n\x06\x12", "ORC"),
        (b"ARROW1\0\0", "Arrow"),
        (b"SQLite format 3\0", "an SQLite database"),
        (pickle.dumps(ROW), "a Python pickle"),
        (b"%PDF-1.7", "a PDF document"),
        (b"<!doctype html><html>", "a web page, not data"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("name", ["f.csv", "f.jsonl"])
def test_files_of_other_formats_are_named(sent, begin, words, name):
    assert f"{name} is {words}" in sent.refused(begin + b"\nrest", name=name)


def test_json_that_is_no_json_lines(sent):
    pretty = json.dumps([ROW], indent=1)
    for text in (pretty, json.dumps([ROW])):
        assert "is one JSON array: write one object per line" in sent.refused(text, name="f.jsonl")
        assert "looks like JSON" in sent.refused(text, name="f.csv")
    assert "write one object per line" in sent.refused(json.dumps(ROW, indent=1), name="f.jsonl")


def test_columns_whose_names_differ_in_case_only_are_suggested(sent):
    text = lines(f"1,c,5.00,{T}", head="TransactionID,card id,AMOUNT,event_time")
    wanted = "--map transaction_id=TransactionID,card_id='card id',amount=AMOUNT;"
    assert wanted in sent.refused(text)


def test_names_of_columns_may_be_in_brackets(sent):
    text = lines(f"1,c,5.00,{T}", head="[transaction_id],card_id,amount,event_time")
    assert len(sent(text, "--map", "transaction_id=[transaction_id]", "--limit", "9" * 30)) == 1


def test_a_word_too_long_for_a_file(sent):
    assert run(["produce", "a=" + "x" * 5_000]) == 2


def test_lines_of_blanks_are_blank(sent):
    assert len(sent(lines(f"1,c,5.00,{T}", "  \t", f"2,c,5.00,{T}", "\x1a"))) == 2


def test_json_lines_of_powershell(sent):
    text = json.dumps(ROW) + "\r\n"
    for encoding in ("utf-16", "utf-8-sig"):
        assert len(sent(text.encode(encoding), name="f.jsonl")) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.csv", ""),
        ("f.csv", HEAD + "\n"),
        ("f.csv", "\ufeff"),
        ("f.csv.gz", gzip.compress(b"", mtime=0)),
        ("f.csv.gz", ""),
        ("f.jsonl", ""),
        ("f.jsonl", "\n"),
        ("f.parquet", ""),
        ("f.parquet", table().slice(0, 0)),
    ],
)
def test_files_without_records_are_all_the_same(sent, name, content):  # 19
    assert sent(content, name=name) == []
    assert sent.code == 0
    assert "0 records" in sent.out
    labels = content if isinstance(content, pa.Table) else content[:0]
    sent(labels, "--labels", "--map", "is_fraud=amount", name=name)
    assert sent.code == 0 or "gz" in name
    assert run(["train", "--from-file", str(sent.path(content, name)), "--label", "card_id"]) == 2


@pytest.mark.parametrize("at", [2, 1_000, 1_499])
def test_a_quote_that_is_never_closed_costs_its_own_line(sent, at):  # 27
    rows = [f"{n},c{n},1.00,{T},note" for n in range(1_500)]
    rows[at] = rows[at].replace("note", '"note')
    text = lines(*rows, head=HEAD + ",note")
    assert f"line {at + 2}, not CSV: a quote is not closed" in sent.refused(text)
    assert len(sent(text, "--skip-bad")) == 1_499
    assert "1 malformed left out" in sent.out


def test_a_quote_that_ends_many_rows_later_costs_its_own_line(sent):
    rows = [f"{n},c{n},1.00,{T},note" for n in range(100)]
    rows[10] = rows[10].replace("note", '"5 inch')
    rows[60] = rows[60].replace("note", '5"')
    assert len(sent(lines(*rows, head=HEAD + ",note"), "--skip-bad")) == 99
    assert "line 12, not CSV: a quote is not closed" in sent.out


def test_text_of_several_lines_is_one_field(sent):
    note = '"first, of\nthree, lines\r\nsaid ""he"""'
    for row, head in (
        (f"1,c,5.00,{T},{note}", HEAD + ",note"),
        (f"{note},1,c,5.00,{T}", "note," + HEAD),
    ):
        (record,) = sent(lines(row, head=head))
        assert record["note"] == 'first, of\nthree, lines\r\nsaid "he"'


def test_a_column_without_a_name_is_left_out(sent):
    (record,) = sent(lines(f"0,1,c,5.00,{T},,", head="," + HEAD + ",,"))
    assert record.keys() == ROW.keys()


def test_there_is_no_hint_to_leave_lines_out_where_all_are_bad(sent):  # 16
    bad = [f"{n},c,$5.00,{T}" for n in range(30)]
    assert "--skip-bad" not in sent.refused(lines(*bad))
    assert "--skip-bad" in sent.refused(lines(*bad[:5], f"1,c,5.00,{T}"))
    assert "no record of f.csv could be sent: all 30 are malformed" in sent.refused(
        lines(*bad), "--skip-bad"
    )


@pytest.mark.parametrize(
    "given",
    [
        ["--map", "card_id=PAN,amount=VALUE, in EUR"],
        ["--map", "card_id=PAN", "--map", "amount=VALUE, in EUR"],
        ["--map", "card_id=PAN", "amount=VALUE, in EUR"],
    ],
)
@pytest.mark.parametrize("command", ["produce", "train"])
def test_one_syntax_of_map_for_all_commands(sent, monkeypatch, capsys, given, command):  # 17, 23
    text = f'transaction_id,PAN,"VALUE, in EUR",event_time,is_fraud\n1,c,5.00,{T},0\n'
    if command == "produce":
        assert sent(text, *given)[0]["card_id"] == "c"
        return
    path = sent.path(text, "f.csv")
    assert run(["train", "--from-file", str(path), *given]) == 2
    error = capsys.readouterr().err
    assert "is_fraud" in error or "fraud" in error
    assert "--map" not in error
    assert "no column" not in error


def test_raw_lines_say_nothing_of_fraud_either(sent):
    assert "isFraud: is a label" in sent.refused([{**ROW, "isFraud": 1}], "--raw", name="f.jsonl")
    assert len(sent([{**ROW, "isFraud": 1}], "--raw", "--keep", "isFraud", name="f.jsonl")) == 1


@pytest.mark.parametrize("letter", ["\n", "\u2028", "\x1b", "\x1c", "\x85"])
def test_names_of_columns_make_no_second_line_and_steer_no_terminal(sent, letter):
    error = sent.refused([{f"a{letter}b": 1}], name="f.jsonl")
    assert letter not in error
    sent([{**ROW, f"is_{letter}fraud": 1}], name="f.jsonl")
    assert len(sent.out.splitlines()) == 2  # the sentence, and what is not sent


def test_a_file_that_an_option_took_is_missed(capsys):
    for given, words in (
        (["--with-labels", "f.csv"], "f.csv was read as the column of --with-labels"),
        ([], "which FILE?"),
    ):
        assert run(["produce", *given]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_labels_beside_transactions_need_no_name_where_it_is_clear(tmp_path):
    def labels(head: str, label: str = "") -> list[bool]:
        path = tmp_path / "f.csv"
        path.write_text(lines(f"1,c,5.00,{T},Yes", head=f"{HEAD},{head}"))
        with open_reading(path, label=label) as reading:
            assert reading.answers == []
            return [fraud for *_, fraud in reading.labelled()]

    assert labels("Is Fraud?") == labels("TX_FRAUD") == labels("mine", "mine") == [True]
    with pytest.raises(UsageError, match=r"--with-labels: which column of .* is the label"):
        labels("mine")


def test_names_of_files_in_upper_case(sent):
    text = lines(f"1,c,5.00,{T}")
    assert (
        len(sent(text, name="F.CSV"))
        == len(sent(gzip.compress(text.encode()), name="F.CSV.GZ"))
        == 1
    )


@pytest.mark.parametrize("options", [(), ("--run", "r"), ("--map", "terminal_id=shop")])
@pytest.mark.parametrize("key", ['"amount"', '"amount" ', '"amount"\t', '"\\u0061mount"'])
def test_keys_that_stand_twice_are_refused_also_where_a_record_is_written_anew(sent, options, key):
    line = json.dumps({**ROW, "shop": "s"})[:-1] + f", {key}: 7}}\n"
    assert "occurs twice" in sent.refused(line, *options, name="f.jsonl")
