"""JSON record -> packed row -> columns, decoded by the driver's own types: no server."""

import random
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson
import pytest
from cassandra.cqltypes import lookup_casstype

from app.cassandra.label_rows import LABELS, pack_labels
from app.cassandra.migration_files import load_migrations
from app.cassandra.packed_rows import PackedTable
from app.cassandra.prediction_columns import month_of
from app.cassandra.prediction_rows import PREDICTIONS, RowPacker, row_dict
from app.cassandra.schema_shape import shape_of
from app.errors import StateError
from app.settings import load_settings
from app.wire.label_records import LabelRecord
from tests.builders import T0
from tests.prediction_builder import expected_row, prediction, prediction_bytes, random_prediction

_TYPES = {
    "text": "UTF8Type",
    "timestamp": "TimestampType",
    "decimal": "DecimalType",
    "bigint": "LongType",
    "double": "DoubleType",
    "boolean": "BooleanType",
    "int": "Int32Type",
    "frozen<map<text, double>>": "FrozenType(MapType(UTF8Type, DoubleType))",
    "frozen<list<text>>": "FrozenType(ListType(UTF8Type))",
    "frozen<set<text>>": "FrozenType(SetType(UTF8Type))",
}


@cache
def column_types(name: str) -> dict[str, Any]:
    """The driver's types of the columns that migrations give a table."""
    settings = load_settings()
    tables = shape_of(s for m in load_migrations() for s in m.statements(settings)).tables
    spelled = {kind.replace(" ", ""): marshal for kind, marshal in _TYPES.items()}
    marshal = "org.apache.cassandra.db.marshal."
    return {
        column: lookup_casstype(marshal + spelled[kind])
        for column, kind in tables[name].columns.items()
    }


def unpack(row: bytes, table: PackedTable = PREDICTIONS) -> dict[str, Any]:
    """Columns of a packed row; UNSET reads as None, as from the server."""
    types, at, columns = column_types(table.name), 0, {}
    assert set(types) == set(table.columns)
    for name in table.columns:
        size = int.from_bytes(row[at : at + 4], "big", signed=True)
        assert size != -1, "null would write a tombstone"
        cell = row[at + 4 : at + 4 + max(0, size)]
        at += 4 + max(0, size)
        columns[name] = None if size == -2 else types[name].from_binary(cell, 5)
    assert at == len(row)
    return columns


def packed(made: dict[str, Any], packer: RowPacker | None = None) -> dict[str, Any]:
    row, *_ = (packer or RowPacker("EUR", 2)).pack(orjson.dumps(made))
    return row_dict(unpack(row), 2)


def expected(made: dict[str, Any]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(made["event_time_ms"] // 1000, UTC)
    iso = f"{moment:%Y-%m-%dT%H:%M:%S}.{made['event_time_ms'] % 1000:03d}Z"
    return expected_row(made, f"{moment:%Y-%m}", iso)


def test_a_plain_record() -> None:
    made = prediction(7)
    assert packed(made) == expected(made) == {
        "transaction_id": "tx-7", "card_id": "c1", "terminal_id": "t1", "month": "2023-11",
        "event_time": "2023-11-14T22:13:20.000Z", "event_time_ms": T0, "amount": "10.00",
        "amount_minor": 1000, "currency": "EUR", "schema_version": 1, "score": 0.25, "is_fraud": False,
        "features": {"amount": 10.0, "is_night": 0.0, "seconds_since_last": 3600.0}, "threshold": 0.5,
        "rules": [], "action": "approve",
        "model_version": "default-1", "model_hash": "ab" * 32, "feature_schema": "v1-1h",
        "reasons": [], "anomaly_score": None, "flags": [], "source_topic": "transactions",
        "source_partition": 3, "source_offset": 42, "received_at": T0 + 5, "scored_at": T0 + 9,
        "extra": {},
    }  # fmt: skip


def test_random_records_keep_every_value() -> None:
    rng, packer = random.Random(1), RowPacker("EUR", 2)
    for number in range(500):
        made = random_prediction(rng, number)
        shown = packed(made, packer)
        assert shown == expected(made)
        orjson.dumps(shown)  # JSON can carry it


def test_the_map_is_sorted_so_that_one_element_can_be_selected() -> None:
    made = prediction(features={"zz": 1.0, "a": 2.0, "é": 3.0, "B": 4.0})
    row, *_ = RowPacker("EUR", 2).pack(orjson.dumps(made))
    assert list(unpack(row)["features"]) == ["B", "a", "zz", "é"]


def test_features_of_another_name_under_the_same_schema() -> None:
    packer = RowPacker("EUR", 2)
    for features in (
        {"a": 1.0, "b": 2.0},
        {"a": 1.0, "c": 3.0},
        {"a": None, "b": 2.0},
        {},
        {"x": 1},
    ):
        assert packed(prediction(features=features), packer)["features"] == {
            name: value for name, value in features.items() if value is not None
        }


@pytest.mark.parametrize(("digits", "text"), [(0, "1000"), (2, "10.00"), (3, "1.000")])
def test_amount_has_the_digits_of_the_currency(digits: int, text: str) -> None:
    row, *_ = RowPacker("XXX", digits).pack(prediction_bytes())
    assert row_dict(unpack(row), digits)["amount"] == text


def test_an_amount_in_a_foreign_currency_is_kept_beside() -> None:
    shown = packed(prediction(currency="JPY", amount=1630, converted_amount="10.00"))
    assert (shown["amount"], shown["currency"]) == ("10.00", "EUR")
    assert shown["extra"] == {"amount": 1630, "currency": "JPY", "converted_amount": "10.00"}


@pytest.mark.parametrize(
    ("at", "month"),
    [
        ("2026-11-30T23:59:59.999+00:00", "2026-11"),
        ("2026-12-01T00:00:00.000+00:00", "2026-12"),
        ("2028-02-29T12:00:00.000+00:00", "2028-02"),
        ("1973-01-01T00:00:00.000+00:00", "1973-01"),
    ],
)
def test_the_month_is_that_of_utc(at: str, month: str) -> None:
    event_ms = round(datetime.fromisoformat(at).timestamp() * 1000)
    assert month_of(event_ms) == month
    assert packed(prediction(at=event_ms - T0))["month"] == month


@pytest.mark.parametrize(
    "broken",
    [
        b"", b"[]", b"{}", b"null", b"\xff", prediction_bytes()[:-3],
        prediction_bytes(is_fraud=None), prediction_bytes(score=None), prediction_bytes(score="0.5"),
        prediction_bytes(card_id=7), prediction_bytes(event_time_ms=1.5), prediction_bytes(features=[1]),
        prediction_bytes(amount_minor=2**63), prediction_bytes(features={"a": "1"}),
        prediction_bytes(event_time_ms=2**62), prediction_bytes(reasons=[1]),
        prediction_bytes(is_fraud="Zq8-value"), prediction_bytes(event_time_ms="Zq8-value"),
        prediction_bytes(score="Zq8-value"), prediction_bytes(features={"f": "Zq8-value"}),
    ],
)  # fmt: skip
def test_what_is_no_prediction_is_refused_in_one_line(broken: bytes) -> None:
    with pytest.raises(StateError, match="this prediction cannot be stored") as caught:
        RowPacker("EUR", 2).pack(broken)
    assert "\n" not in str(caught.value)
    assert "Zq8" not in str(caught.value), "values do not belong in a log"


def test_pack_many_gives_when_the_broker_had_them() -> None:
    packed_rows = RowPacker("EUR", 2).pack_many([prediction_bytes(n, at=n) for n in range(3)])
    assert packed_rows.received_at == [T0 + 5, T0 + 6, T0 + 7]
    assert len(packed_rows.rows) == 3


def test_predictions_of_another_deployment_are_not_packed() -> None:
    made = [prediction_bytes(n, at=n, scored_by=f"d{n % 2}") for n in range(4)]
    nobodys = prediction(9, at=9)
    del nobodys["scored_by"]
    made.append(orjson.dumps(nobodys))
    assert RowPacker("EUR", 2, "d1").pack_many(made).event_time_ms == [T0 + 1, T0 + 3, T0 + 9]
    assert len(RowPacker("EUR", 2).pack_many(made).rows) == 5


def test_a_packed_row_knows_its_source_and_its_partition_key() -> None:
    row, *_ = RowPacker("EUR", 2).pack(prediction_bytes(5, card="ç"))
    assert PREDICTIONS.place(row) == "transactions/3/42"
    assert PREDICTIONS.routing_key(row) == b"\x00\x02\xc3\xa7\x00" + b"\x00\x072023-11\x00"


def test_the_sink_learns_when_each_transaction_happened_and_came() -> None:
    made = [prediction_bytes(number) for number in range(3)]
    packed_rows = RowPacker("EUR", 2).pack_many(made)
    records = [orjson.loads(value) for value in made]
    assert packed_rows.received_at == [record["received_at"] for record in records]
    assert packed_rows.event_time_ms == [record["event_time_ms"] for record in records]


def test_labels_in_any_alphabet_with_and_without_a_terminal() -> None:
    labels = [
        LabelRecord(7, T0 + 5, "tx-ü", True, T0 + 1, "card-ç", "t1", T0, b""),
        LabelRecord(1 << 40, T0 + 6, "", False, T0 - 1, "c", None, -1, b""),
    ]
    rows = list(pack_labels("labels", 3, labels))
    found = [unpack(row, LABELS) for row in rows]
    for label, columns in zip(labels, found, strict=True):
        moments = {name: columns.pop(name) for name in ("labelled_at", "event_time", "received_at")}
        milliseconds = {
            name: round(moment.replace(tzinfo=UTC).timestamp() * 1000)
            for name, moment in moments.items()
        }
        assert milliseconds == {
            "labelled_at": label.labelled_at_ms,
            "event_time": label.event_time_ms,
            "received_at": label.received_at,
        }
        assert columns == {
            "transaction_id": label.transaction_id, "card_id": label.card_id, "source_topic": "labels",
            "terminal_id": label.terminal_id, "source_partition": 3, "source_offset": label.offset,
            "is_fraud": label.is_fraud,
        }  # fmt: skip
    assert LABELS.place(rows[0]) == "labels/3/7"
    # a key of one column is hashed as it is
    assert LABELS.routing_key(rows[0]) == "tx-ü".encode()


def test_a_statement_names_its_columns_and_how_long_rows_live() -> None:
    assert LABELS.insert("ks", 60).startswith("INSERT INTO ks.labels (transaction_id, card_id, ")
    assert LABELS.insert("ks", 60).endswith("VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL 60")
    assert "TTL" not in PREDICTIONS.insert("ks", 60)
