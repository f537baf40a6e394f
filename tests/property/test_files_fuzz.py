"""Whatever bytes a file holds, the commands answer with one line and a code, never with a traceback."""

import gzip
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cli.command_errors import run
from app.ops.produce import ProduceReport

pytestmark = pytest.mark.property

HEAD = "transaction_id,card_id,amount,event_time"
GOOD = "1,c,5.00,2024-01-20T10:00:00Z"
#: Text that has broken readers before.
PIECES = st.sampled_from([
    HEAD, GOOD, "\n", "\r", "\r\n", ",", ";", '"', "sep=;", "sep=,", "\0", "\ufeff", "\x1c", "\u2028", "é",
    "\U0001f4b3",
    "1e999", "-0", "NaN", "Infinity", "9" * 30, "0.1", "1_0", "\u0661", "NULL", "true", "x" * 300, "2024-13-45",
    "9999-12-31T23:59:59+23:59", "0001-01-01", "2024-01-20 10:00", "24:00", "[UTC]", "Z", "isFraud", "step", "{", "}",
    "[", "]", ":", '{"card_id":', '{"amount":null}', json.dumps({"a": {"b": [1]}}), "\\", "\\ud800", "User", "Time",
])  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=40).map("".join)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
FIELDS = (
    "transaction_id",
    "card_id",
    "terminal_id",
    "amount",
    "event_time",
    "is_fraud",
    "labelled_at",
    "x",
)


def encoded(text: str, encoding: str) -> bytes:
    return text.encode(encoding, "ignore")


#: Files with a good beginning: what follows is reached.
STARTED = st.sampled_from(
    [HEAD + ",x\n" + GOOD + ",\n", "", "transaction_id,is_fraud,labelled_at\n"]
)
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.builds(encoded, TEXTS, ENCODINGS),
    st.builds(lambda start, text: (start + text).encode("utf-8", "ignore"), STARTED, TEXTS),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), JSON, max_size=8)
RECORDS = st.lists(OBJECTS.map(lambda each: json.dumps(each).encode()), max_size=4).map(b"\n".join)
OPTIONS = st.lists(
    st.sampled_from([
        ("--skip-bad",), ("--labels",), ("--with-labels", "is_fraud"), ("--round-amounts",), ("--only-known",),
        ("--assume-zone", "Europe/Berlin"), ("--ambiguous", "later"), ("--time-unit", "ns"), ("--skip", "1"),
        ("--time-format", "%d/%m/%Y"), ("--recipe", "paysim"), ("--recipe", "creditcard"), ("--run", "r"),
        ("--map", "card_id=x"), ("--raw",),
    ]),
    max_size=4,
    unique=True,
).map(lambda given: [word for words in given for word in words])  # fmt: skip
COLUMN = st.one_of(
    st.lists(st.floats(), min_size=3, max_size=3).map(
        lambda values: pa.array(values, pa.float64())
    ),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3).map(pa.array),
    st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=3).map(
        lambda v: pa.array(v, pa.uint64())
    ),
    st.lists(st.binary(max_size=4), min_size=3, max_size=3).map(pa.array),
    st.lists(st.text(max_size=4) | st.none(), min_size=3, max_size=3).map(
        lambda v: pa.array(v, pa.string())
    ),
    st.lists(st.integers(-(2**62), 2**62), min_size=3, max_size=3).map(
        lambda v: pa.array(v, pa.timestamp("ns"))
    ),
    st.lists(st.integers(-(2**52), 2**52), min_size=3, max_size=3).map(
        lambda v: pa.array(v, pa.timestamp("s", "UTC"))
    ),
    st.lists(st.integers(-(10**6), 10**8), min_size=3, max_size=3).map(
        lambda v: pa.array(v, pa.date32())
    ),
    st.lists(st.decimals(-(10**6), 10**6, places=4), min_size=3, max_size=3).map(pa.array),
    st.lists(st.booleans() | st.none(), min_size=3, max_size=3).map(
        lambda v: pa.array(v, pa.bool_())
    ),
    st.just(pa.array([None, None, None])),
    st.just(pa.array([{"a": 1, "b": [b"\xff"]}] * 3)),
    st.lists(st.integers(0, 10**17), min_size=3, max_size=3).map(
        lambda v: pa.array(v, pa.duration("us"))
    ),
)
TABLES = st.dictionaries(st.sampled_from(FIELDS), COLUMN, min_size=1, max_size=8)


@pytest.fixture
def told(monkeypatch, tmp_path, capsys):
    """Run `produce` and `train` on a file."""

    async def take(records: Iterable[Any], **_options: Any) -> ProduceReport:
        return ProduceReport("t", len(list(records)), 0, 1.0)

    async def take_both(
        items: Iterable[Any], **_options: Any
    ) -> tuple[ProduceReport, ProduceReport]:
        return (ProduceReport("t", len(list(items)), 0, 1.0),) * 2

    monkeypatch.setattr("app.ops.produce.produce", take)
    monkeypatch.setattr("app.ops.produce.produce_with_labels", take_both)

    def tell(content: bytes, suffix: str, options: list[str]) -> None:
        path = tmp_path / f"f{suffix}"
        path.write_bytes(content)
        commands = [["produce", str(path), *options]]
        if not {"--labels", "--with-labels", "--raw", "--skip", "--run", "--only-known"} & set(
            options
        ):
            commands.append(["train", "--from-file", str(path), "--label", "is_fraud", *options])
        for command in commands:
            code = run(command)
            error = capsys.readouterr().err
            assert code in {0, 2}
            lines = error.splitlines() if command[0] == "produce" else error.splitlines()[-1:]
            assert len(lines) == (code == 2), error
            assert all(line.startswith("fraudstream: ") for line in lines)

    return tell


def prove(examples: int):
    return settings(
        max_examples=examples,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@prove(400)
@given(CONTENTS, st.sampled_from([".csv", ".jsonl", ".parquet", ".csv.gz", ".jsonl.gz"]), OPTIONS)
def test_any_bytes(told, content, suffix, options):
    told(content, suffix, options)


@prove(150)
@given(CONTENTS, st.sampled_from([".csv.gz", ".jsonl.gz"]), OPTIONS, st.integers(0, 30))
def test_gzip_that_is_cut(told, content, suffix, options, cut):
    packed = gzip.compress(content)
    told(packed[: len(packed) - cut], suffix, options)


@prove(200)
@given(RECORDS, OPTIONS)
def test_any_json(told, content, options):
    told(content, ".jsonl", options)


@prove(150)
@given(TABLES, OPTIONS)
def test_any_columns_of_parquet(told, columns, options):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    told(sink.getvalue().to_pybytes(), ".parquet", options)


@prove(60)
@given(st.integers(0, 2_000), st.integers(0, 255))
def test_parquet_that_is_damaged(told, at, byte):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: ["1", "2"] for name in HEAD.split(",")}), sink)
    content = bytearray(sink.getvalue().to_pybytes())
    content[at % len(content)] = byte
    told(bytes(content), ".parquet", ["--skip-bad"])
    told(bytes(content[: at % len(content)]), ".parquet", [])
