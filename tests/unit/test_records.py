"""Records on the wire: what is valid, why not, exact amounts, and what is written."""

import json
import re
import struct
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.amounts import MAX_MINOR_UNITS, parse_minor_units
from app.domain.refusal_reasons import (
    CHANGE_REASONS,
    LABEL_REASONS,
    LOG_REASONS,
    REASONS,
    UNREADABLE_REASONS,
)
from app.domain.transaction import DeadRecordError, Transaction, hash_id
from app.wire.dead_letters import dead_letter
from app.wire.enriched_records import EnrichedItem, decode_enriched, encode_item, enriched_message
from app.wire.input_records import (
    RecordRules,
    parse_transaction,
)
from app.wire.label_records import parse_label
from app.wire.output_records import (
    duplicate_message,
    origin_of,
    prediction_message,
    source_position,
)
from app.wire.prediction_fields import OUTPUT_FIELDS
from app.wire.unreadable import Unreadable
from tests.builders import T0, tx
from tests.malformed import CORPUS, MAX_BYTES, Malformed, spoilt

RULES = RecordRules("EUR", 2, 300_000, max_bytes=MAX_BYTES)
#: Reasons of other input formats: tests/unit/test_decoding.py
WITH_OTHER_SETTINGS = {
    "invalid_field",
    "undecodable",
    "unknown_schema",
    "unsupported_schema",
    "not_an_insert",
}
ROOT = Path(__file__).parents[2]


def parse(record: Any = None, key: bytes | None = b"c1", **fields: Any) -> Transaction:
    value = record if isinstance(record, bytes) or record is None else orjson.dumps(record)
    if record is None:
        value = orjson.dumps(tx(**fields))
    return parse_transaction(value, key, T0, RULES)


def dead(
    value: bytes | None, key: bytes | None = b"c1", broker_time_ms: int = T0
) -> DeadRecordError:
    with pytest.raises(DeadRecordError) as caught:
        parse_transaction(value, key, broker_time_ms, RULES)
    return caught.value


@pytest.mark.parametrize("bad", CORPUS, ids=str)
def test_every_malformed_input_has_its_reason(bad: Malformed) -> None:
    error = dead(bad.value, bad.key, bad.broker_time_ms)
    assert (error.reason, error.card_id) == (bad.reason, bad.card_id)
    assert error.message


def test_the_corpus_has_every_reason_and_the_docs_tell_each() -> None:
    """A reason that no input leads to is not known to be stable; `moved` is the handler's own."""
    given: set[str] = set()
    for path in (ROOT / "app").rglob("*.py"):
        given |= set(re.findall(r'DeadRecordError\(\s*"(\w+)"', path.read_text()))
    assert given <= REASONS.keys() | LABEL_REASONS.keys() | CHANGE_REASONS.keys()
    untold = {"moved", "too_many_values", "not_a_pseudonym", *WITH_OTHER_SETTINGS}
    assert {bad.reason for bad in CORPUS} == REASONS.keys() - untold
    assert len(CORPUS) >= 100
    page = (ROOT / "docs" / "dead-letters.md").read_text()
    table, _, labels = page.partition("## Reason codes")[2].partition("### Reason codes of labels")
    labels, _, changes = labels.partition("### Reason codes of changes")
    changes, _, unreadable = changes.partition("### Reason codes of unreadable batches")
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE) == list(REASONS.items())
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", labels, re.MULTILINE)
    assert listed == list(LABEL_REASONS.items())
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", changes, re.MULTILINE)
    assert listed == list(CHANGE_REASONS.items())
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", unreadable, re.MULTILINE)
    assert listed == [*UNREADABLE_REASONS.items(), *LOG_REASONS.items()]


SMALL = b'{"a":1}'


@pytest.mark.parametrize(
    "inner",
    [
        b"[" + b",".join([SMALL] * 5_000) + b"]",  # each is a value and has one
        b"[" + b",".join([b"[]"] * 10_000) + b"]",
        b"[" + b",".join([b"1"] * 10_000) + b"]",
        b"{" + b",".join(b'"k%d" :0' % number for number in range(10_000)) + b"}",
        b'1,"x":{' + b",".join([b'"a":' + SMALL] * 5_001) + b"}",  # parsers keep the last one
    ],
    ids=["objects", "arrays", "numbers", "fields", "repeated"],
)
def test_more_values_than_can_be_looked_at_are_refused(inner: bytes) -> None:
    rules = RecordRules("EUR", 2, 300_000)
    with pytest.raises(DeadRecordError) as caught:
        parse_transaction(spoilt()[:-1] + b',"x":' + inner + b"}", b"c1", T0, rules)
    assert caught.value.reason == "too_many_values"


def test_many_values_are_fine_and_so_is_text_that_looks_like_them() -> None:
    rules = RecordRules("EUR", 2, 300_000)
    fields = {f"field-{number}": number for number in range(5_000)}
    many = orjson.dumps({**tx(), **fields, "text": '{"a":[1,2]},' * 20_000})
    assert parse_transaction(many, b"c1", T0, rules).body == many


@pytest.mark.parametrize("size", [0, 40, 6_000])
def test_what_stands_in_for_a_batch_has_the_reason_of_its_finder(size: int) -> None:
    error = dead(Unreadable.of(bytes(size), "unreadable_batch", "it is cut off"))
    assert (error.reason, error.message) == ("unreadable_batch", "it is cut off")
    with pytest.raises(DeadRecordError, match="it is cut off"):
        parse_label(Unreadable.of(bytes(size), "unreadable_batch", "it is cut off"), 0, T0, 0)


def test_a_body_that_grows_beyond_the_limit_is_dead() -> None:
    """A field of a name that we need is passed on under a longer one."""
    value = spoilt(score=1)[:-1] + b',"x":"'
    value += b"x" * (RULES.max_bytes - len(value) - 2) + b'"}'
    assert len(value) == RULES.max_bytes
    error = dead(value)
    assert (error.reason, error.card_id) == ("too_large", "c1")
    assert parse(value.replace(b'"score"', b'"scope"')).minor == 1_000


class TestValid:
    def test_fields_come_through(self) -> None:
        found = parse(terminal="t9", at=-5, amount="12.30", note="x")
        assert (found.transaction_id, found.card_id, found.terminal_id) == ("tx-1", "c1", "t9")
        assert (found.minor, found.event_time_ms) == (1_230, T0 - 5)
        assert orjson.loads(found.body)["note"] == "x"

    def test_a_terminal_is_optional(self) -> None:
        assert parse(terminal=None).terminal_id is None
        assert parse(terminal_id=None).terminal_id is None

    def test_the_body_is_the_input_without_white_space_around(self) -> None:
        text = (
            b'{ "event_time": %d , "card_id":"c1",\n"transaction_id":"t","amount":1, "z": [1.50] }'
            % T0
        )
        assert parse(b" \r\n\t" + text + b"\n ").body == text

    @pytest.mark.parametrize("skew", [0, 299_999, 300_000])
    def test_the_future_begins_after_the_skew(self, skew: int) -> None:
        assert parse(at=skew).event_time_ms == T0 + skew

    @pytest.mark.parametrize(
        ("text", "after_t0_ms"),
        [
            ("2023-11-14T22:13:20Z", 0),
            ("2023-11-14T22:13:20+00:00", 0),
            ("2023-11-14T23:13:20+01:00", 0),
            ("2023-11-14 12:13:20-10:00", 0),
            ("2023-11-14T22:13:20.001Z", 1),
            ("2023-11-14T22:13:20.001999Z", 1),
            ("2023-11-14T22:13:19.999999Z", -1),
            ("20231114T221320Z", 0),
        ],
    )
    def test_event_times_as_text(self, text: str, after_t0_ms: int) -> None:
        assert parse(event_time=text).event_time_ms == T0 + after_t0_ms

    def test_ids_are_bounded_in_bytes(self) -> None:
        assert parse(transaction_id="é" * 128).transaction_id == "é" * 128
        assert len(parse(transaction_id="x" * 256).transaction_id) == 256

    def test_a_foreign_currency_brings_its_converted_amount(self) -> None:
        assert parse(amount=5, currency="USD", converted_amount="4.50").minor == 450
        assert parse(amount=5, currency="EUR", converted_amount="4.50").minor == 500

    def test_hashes_of_ids_are_eight_bytes_and_differ(self) -> None:
        assert len({hash_id(f"t{number}") for number in range(1_000)}) == 1_000
        assert len(hash_id("t")) == 8


class TestMinorUnits:
    @pytest.mark.parametrize(
        ("literal", "digits", "minor"),
        [
            ("0", 2, 0),
            ("-0.0", 2, 0),
            ("0.1", 2, 10),
            ("0.3", 2, 30),
            ("19.99", 2, 1_999),
            ("1.10", 2, 110),
            ("1e3", 2, 100_000),
            ("1.5e1", 2, 1_500),
            ("4.35", 2, 435),
            ("1.15", 2, 115),
            ("999999999.99", 2, 99_999_999_999),
            ("7", 0, 7),
            ("7.0", 0, 7),
            ("1.234", 3, 1_234),
            ("0.001", 3, 1),
            ("2.675", 3, 2_675),
            ("1e-3", 3, 1),
        ],
    )
    def test_a_number_and_its_text_are_the_same(
        self, literal: str, digits: int, minor: int
    ) -> None:
        assert parse_minor_units(orjson.loads(literal), digits) == minor
        if "e" not in literal:
            assert parse_minor_units(literal, digits) == minor

    @pytest.mark.parametrize(
        ("amount", "digits"), [(0.5, 0), (1.2345, 3), ("0.5", 0), ("1.2345", 3), (1e-3, 2)]
    )
    def test_more_decimals_than_the_currency_has_are_refused(
        self, amount: Any, digits: int
    ) -> None:
        with pytest.raises(DeadRecordError, match="decimals"):
            parse_minor_units(amount, digits)

    @given(st.integers(0, MAX_MINOR_UNITS), st.integers(0, 3))
    def test_every_amount_is_exact(self, minor: int, digits: int) -> None:
        exact = Decimal(minor).scaleb(-digits)
        text = f"{exact:.{digits}f}"
        assert parse_minor_units(text, digits) == minor
        assert parse_minor_units(json.loads(text), digits) == minor
        assert parse_minor_units(orjson.loads(text), digits) == minor

    @given(st.integers(0, 10**9), st.integers(1, 9), st.integers(0, 2))
    def test_no_rounding_decides(self, minor: int, rest: int, digits: int) -> None:
        text = f"{Decimal(minor * 10 + rest).scaleb(-digits - 1):f}"
        for amount in (text, float(text)):
            with pytest.raises(DeadRecordError):
                parse_minor_units(amount, digits)


@given(st.binary(max_size=200), st.integers(0, 10**13))
def test_no_bytes_break_it(value: bytes, now_ms: int) -> None:
    try:
        parse_transaction(value, b"c1", now_ms, RULES)
    except DeadRecordError as error:
        assert error.reason


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [*tx(), "currency", "schema_version", "converted_amount", "x", *OUTPUT_FIELDS]
        ),
        json_values,
        max_size=6,
    )
)
def test_no_fields_break_it(fields: dict[str, Any]) -> None:
    """What is not dead can be spliced, parsed again, and has nothing of ours in it."""
    value = json.dumps({**tx(), **fields}).encode()
    key = fields.get("card_id", "c1")
    try:
        found = parse_transaction(value, str(key).encode("utf-8", "replace"), T0, RULES)
    except DeadRecordError:
        return
    spliced = orjson.loads(prediction_message(found.body, {"score": 0.5}))
    assert spliced.pop("score") == 0.5
    assert OUTPUT_FIELDS.isdisjoint(spliced)
    assert len(spliced) == len({**tx(), **fields})


def test_fields_named_like_ours_are_passed_on_under_another_name() -> None:
    body = orjson.loads(parse(score=9, flags=["x"], source_offset=1).body)
    assert (body["input_score"], body["input_flags"], body["input_source_offset"]) == (9, ["x"], 1)
    assert OUTPUT_FIELDS.isdisjoint(body)


class TestEnriched:
    def item(self, offset: int) -> EnrichedItem:
        return EnrichedItem(
            offset,
            T0,
            f"tx-{offset}",
            "c1",
            None if offset % 2 else "t1",
            5,
            T0,
            b"{}",
            [1.0],
            ["late"],
        )

    @pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 255, 256, 65_535, 65_536, 70_000])
    def test_any_number_of_items_survives(self, count: int) -> None:
        items = [self.item(offset) for offset in range(min(count, 100))]
        encoded = [encode_item(item) for item in items] * (count // max(len(items), 1) + 1)
        batch = decode_enriched(enriched_message("transactions", 3, encoded[:count]))
        assert (batch.topic, batch.partition, len(batch.items)) == ("transactions", 3, count)
        assert batch.items[: len(items)] == items[:count]

    @pytest.mark.parametrize("topic", ["", "t" * 31, "t" * 32, "t" * 249, "t" * 256])
    @pytest.mark.parametrize("partition", [0, 127, 128, 1_023])
    def test_any_source_survives(self, topic: str, partition: int) -> None:
        batch = decode_enriched(enriched_message(topic, partition, [encode_item(self.item(1))]))
        assert (batch.topic, batch.partition) == (topic, partition)

    def test_it_is_plain_msgpack(self) -> None:
        item = encode_item(self.item(7))
        parts = msgspec.msgpack.decode(enriched_message("t", 0, [item], "v1-1h"))
        assert parts[:3] == [2, "t", 0]
        assert parts[3][0][0] == 7
        assert parts[4:] == ["v1-1h"]

    def test_messages_of_before_name_no_features(self) -> None:
        raw = msgspec.msgpack.encode((1, "t", 0, [self.item(7)]))
        assert decode_enriched(raw).schema == ""
        assert decode_enriched(raw).items == [self.item(7)]

    def test_floats_keep_their_bits(self) -> None:
        values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
        item = EnrichedItem(1, 1, "t", "c", None, 1, 1, b"{}", values, [])
        (again,) = decode_enriched(enriched_message("t", 0, [encode_item(item)])).items
        assert struct.pack("5d", *again.features) == struct.pack("5d", *values)

    @pytest.mark.parametrize(
        "raw", [b"", b"\x94", b"junk", msgspec.msgpack.encode([3, "t", 0, []])]
    )
    def test_anything_else_is_refused(self, raw: bytes) -> None:
        with pytest.raises(msgspec.DecodeError):
            decode_enriched(raw)


class TestOutputs:
    def record(self, **fields: Any) -> Any:
        return SimpleNamespace(
            **{"offset": 9, "timestamp": T0, "key": b"c1", "value": b"raw", "headers": [], **fields}
        )

    def test_a_dead_letter_carries_the_bytes_and_why(self) -> None:
        error = DeadRecordError("negative_amount", "amount is negative")
        key, value, headers = dead_letter("transactions", 3, self.record(), error)
        assert (key, value) == (b"transactions/3/9", b"raw")
        assert dict(headers) == {
            "topic": b"transactions", "partition": b"3", "offset": b"9", "key": b"c1",
            "reason": b"negative_amount", "message": b"amount is negative",
        }  # fmt: skip

    def test_a_dead_letter_without_key_and_value(self) -> None:
        record = self.record(key=None, value=None)
        _, value, headers = dead_letter("t", 0, record, DeadRecordError("empty_value", "m"))
        assert value is None
        assert "key" not in dict(headers)

    def test_a_heavy_dead_letter_is_cut(self) -> None:
        big = bytes(range(256)) * 40
        record = self.record(value=big, key=b"k" * 9_000)
        error = DeadRecordError("too_large", "é\ud800" * 9_000)
        _, value, headers = dead_letter("t", 0, record, error, max_bytes=1_000)
        parts = dict(headers)
        assert value == big[:1_000]
        assert parts["size"] == str(len(big)).encode()
        assert parts["sha256"] == sha256(big).hexdigest().encode()
        assert sum(len(name) + len(raw) for name, raw in headers) < 16_384

    def test_a_prediction_is_the_input_with_ours_behind(self) -> None:
        value = prediction_message(b'{"a":1}', {"score": 0.25, "flags": []})
        assert value == b'{"a":1,"score":0.25,"flags":[]}'

    def test_a_duplicate_says_where_it_stands(self) -> None:
        record = SimpleNamespace(offset=2, timestamp=T0 + 5)
        fields = orjson.loads(duplicate_message("t", 1, record, parse(), "EUR"))
        assert fields == {
            "transaction_id": "tx-1", "card_id": "c1", "terminal_id": "t1", "amount_minor": 1000,
            "currency": "EUR", "event_time_ms": T0,
            "source_topic": "t", "source_partition": 1, "source_offset": 2, "received_at": T0 + 5,
        }  # fmt: skip

    def test_the_origin_of_a_forwarded_record(self) -> None:
        assert origin_of([("x", b"1"), ("origin", source_position("t", 1, 2))]) == b"t/1/2"
        assert origin_of([]) is None
