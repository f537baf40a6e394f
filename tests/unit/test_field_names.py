"""Input records of several versions and with other names, side by side."""

from typing import Any

import orjson
import pytest

from app.domain.transaction import DeadRecordError, Transaction
from app.errors import SettingsError
from app.field_names import NAMED_FIELDS, parse_field_names
from app.settings import load_settings
from app.wire.input_records import RecordRules, parse_transaction
from app.wire.prediction_fields import INPUT_FIELDS
from tests.builders import T0, tx

NAMES = "card_id=cardNumber, 2:amount=value,2:transaction_id=id,3:"


def rules(names: str = NAMES) -> RecordRules:
    return RecordRules.of(load_settings({"field_names": names}))


def parse(record: dict[str, Any], names: str = NAMES) -> Transaction:
    return parse_transaction(orjson.dumps(record), b"c1", T0, rules(names))


def renamed(*, without: str = "", **fields: Any) -> dict[str, Any]:
    return {**{k: v for k, v in tx().items() if k not in without.split()}, **fields}


def test_every_field_but_the_version_can_be_named() -> None:
    assert {*NAMED_FIELDS, "schema_version"} == INPUT_FIELDS


@pytest.mark.parametrize(
    "record",
    [
        tx(),
        tx(schema_version=1),
        renamed(without="card_id", cardNumber="c1"),
        renamed(without="card_id", cardNumber="c1", schema_version=1),
        renamed(without="card_id amount", cardNumber="c1", value=10, schema_version=2),
        renamed(without="amount transaction_id", value="10.00", id="tx-1", schema_version=2),
        tx(schema_version=2),
        tx(schema_version=3),
        renamed(without="card_id", cardNumber="c1", schema_version=3),
    ],
)
def test_versions_and_names_mix(record: dict[str, Any]) -> None:
    found = parse({**record, "note": [1, {"x": None}]})
    assert (found.transaction_id, found.card_id, found.minor) == ("tx-1", "c1", 1_000)
    passed_on = orjson.loads(found.body)
    assert passed_on["note"] == [1, {"x": None}]
    assert {"transaction_id", "card_id", "amount", "event_time"} <= passed_on.keys()
    assert passed_on.get("schema_version") == record.get("schema_version")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (tx(schema_version=4), "unknown_schema_version"),
        (tx(schema_version=True), "unknown_schema_version"),
        (tx(schema_version="2"), "unknown_schema_version"),
        (tx(schema_version=[2]), "unknown_schema_version"),
        (renamed(without="amount", value=10, schema_version=1), "missing_amount"),
        (renamed(without="amount", value=10, schema_version=3), "missing_amount"),
        (renamed(without="card_id", card_number="c1"), "missing_card_id"),
        (renamed(card_id="c1", cardNumber="c2"), "key_mismatch"),
    ],
)
def test_a_name_holds_for_its_version_alone(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(DeadRecordError) as caught:
        parse(record)
    assert caught.value.reason == reason


def test_an_unknown_version_still_tells_its_card() -> None:
    with pytest.raises(DeadRecordError) as caught:
        parse(renamed(without="card_id", cardNumber="c1", schema_version=9))
    assert (caught.value.reason, caught.value.card_id) == ("unknown_schema_version", "c1")
    for fields in ({"card": "c1"}, {"cardNumber": "c2"}, {"cardNumber": 1}):
        with pytest.raises(DeadRecordError) as caught:
            parse(renamed(without="card_id", schema_version=9, **fields))
        assert (caught.value.reason, caught.value.card_id) == ("unknown_schema_version", None)


def test_where_both_names_are_the_producers_counts_and_neither_is_lost() -> None:
    body = orjson.loads(parse(renamed(card_id="x", cardNumber="c1", input_card_id="y")).body)
    assert body["card_id"] == "c1"
    assert (body["input_input_card_id"], body["input_card_id"]) == ("x", "y")


def test_without_names_the_bytes_are_passed_on_as_they_came() -> None:
    raw = orjson.dumps(tx(schema_version=2, cardNumber=1.50))
    assert parse_transaction(raw, b"c1", T0, rules("2:")).body == raw
    assert rules("").names == rules("2:").names == {}
    assert (rules("").versions, rules("2:").versions) == ((1,), (1, 2))


def test_what_is_said_of_a_version_goes_before_what_is_said_of_all() -> None:
    assert parse_field_names("amount=value,card_id=c,2:amount=sum") == {
        0: {"value": "amount", "c": "card_id"},
        2: {"sum": "amount", "c": "card_id"},
    }


@pytest.mark.parametrize(
    "text",
    ["amount", "amount=", "=x", "total=value", "0:amount=x", "x:amount=y", "amount=card_id", "amount=a=b",
     "amount=a,card_id=a", "amount=a,amount=b", "amount=schema_version", "2:amount=a,2:amount=b"],
)  # fmt: skip
def test_what_is_no_field_name(text: str) -> None:
    with pytest.raises(SettingsError, match="FRAUDSTREAM_FIELD_NAMES: '.*'"):
        load_settings({"field_names": text})
