"""Numbers, ids and times of inputs: they come back as they were, or are refused with a hint."""

import random
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cassandra.prediction_rows import RowPacker, row_dict
from app.domain.event_times import TimeUnit, parse_moment_ms
from app.domain.json_text import canonical
from app.domain.transaction import DeadRecordError, Transaction
from app.errors import SettingsError
from app.ops.verification.output_fields import extra_of, hash_extra
from app.settings import load_settings
from app.wire.dead_letters import headers_of
from app.wire.input_records import RecordRules, parse_transaction
from app.wire.output_records import origin_of, prediction_message
from tests.builders import T0, tx_bytes
from tests.prediction_builder import prediction
from tests.unit.test_stored_predictions import unpack

RULES = RecordRules("EUR", 2, 300_000)
#: Where a double is not enough: long integers, long decimals, large and small exponents, all of them nested too.
NUMBERS = [
    b"12345678901234567890123", b"18446744073709551616", b"-9223372036854775809", b"0.1234567890123456789",
    b"1.50", b"1E5", b"1e-400", b"100000000000000000000000.0", b"0.30000000000000004", b"-0.0", b"9007199254740993",
]  # fmt: skip


def record(**raw: bytes) -> bytes:
    """A valid record with fields of these very bytes."""
    fields = b",".join(b'"%s":%s' % (name.encode(), text) for name, text in raw.items())
    base = orjson.loads(tx_bytes())
    kept = {name: value for name, value in base.items() if name not in raw}
    return orjson.dumps(kept)[:-1] + b"," + fields + b"}"


def parse(value: bytes, key: bytes = b"c1", **rules: Any) -> Transaction:
    changed = RecordRules.of(load_settings(rules)) if rules else RULES
    return parse_transaction(value, key, T0, changed)


def extra_text(body: bytes) -> str:
    """`extra` of the row that a record's prediction leads to."""
    added = {name: value for name, value in prediction().items() if name not in orjson.loads(body)}
    row, *_ = RowPacker("EUR", 2).pack(prediction_message(body, added))
    text: str = unpack(row)["extra"]
    return text


class TestNumbers:
    @pytest.mark.parametrize("number", NUMBERS)
    @pytest.mark.parametrize("form", [b"%s", b"[%s]", b'{"deep":[{"deeper":%s}]}'])
    @pytest.mark.parametrize("others", [{}, {"card_id": b"42"}, {"score": b"1"}])
    def test_they_come_back_as_they_were(
        self, number: bytes, form: bytes, others: dict[str, bytes]
    ) -> None:
        """Whether the object is passed on whole, or written anew for an id or a name of ours."""
        key = others.get("card_id", b"c1")
        body = parse(record(big=form % number, **others), key).body
        assert b'"big":' + form % number in body
        assert b'"big":' + form % number in extra_text(body).encode()

    @pytest.mark.parametrize("number", NUMBERS)
    def test_renamed_fields_keep_them(self, number: bytes) -> None:
        value = record(big=number).replace(b'"card_id"', b'"pan"')
        assert b'"big":' + number in parse(value, field_names="card_id=pan").body

    @pytest.mark.parametrize("number", NUMBERS)
    def test_pages_and_commands_show_them(self, number: bytes) -> None:
        text = extra_text(parse(record(big=number, list=b"[%s]" % number)).body)
        shown = row_dict({"extra": text}, 2)["extra"]
        again = orjson.dumps(shown)
        assert canonical(again) == canonical(text.encode())

    def test_verify_tells_two_numbers_apart_that_are_one_double(self) -> None:
        value = b'{"a":12345678901234567890123}'
        expected = extra_of(value, orjson.loads(value), "EUR")
        assert expected == hash_extra(1, {"a": b"12345678901234567890123"})
        assert expected != hash_extra(1, {"a": b"1.2345678901234568e+22"})

    @pytest.mark.parametrize(
        ("one", "other"),
        [(b"[1, 2.50]", b"[1,2.5]"), (b'{"a":1,"b":1e3}', b'{"b":1000.0,"a":1}'), (b'"\\u0041"', b'"A"')],
    )  # fmt: skip
    def test_verify_takes_rows_that_earlier_releases_wrote(self, one: bytes, other: bytes) -> None:
        assert canonical(one) == canonical(other)

    @given(st.decimals(allow_nan=False, allow_infinity=False, places=25))
    def test_canonical_numbers(self, number: Decimal) -> None:
        text = f"{number:f}".encode()
        assert canonical(text) == canonical(text + b"0")
        assert canonical(text) != canonical(text + b"1")

    def test_an_amount_is_exact_though_its_double_is_not(self) -> None:
        assert parse(record(amount=b"12.500000000000000000000")).minor == 1250
        for amount in (b"12.500000000000000000001", b"12.5" + b"0" * 35 + b"1", b"1e-400"):
            with pytest.raises(DeadRecordError, match="decimals"):
                parse(record(amount=amount))

    def test_a_null_amount_is_named(self) -> None:
        with pytest.raises(DeadRecordError, match="amount is null") as caught:
            parse(record(amount=b"null"))
        assert caught.value.reason == "missing_amount"

    def test_thousands_of_unknown_fields_come_through(self) -> None:
        fields = {f"field_{number}": b"%d.5" % number for number in range(5_000)}
        body = parse(record(**fields)).body
        assert len(orjson.loads(body)) == 5_005
        assert len(orjson.loads(extra_text(body))) == 5_000

    @pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udc00\\ud800"', b'{"\\ud800":1}'])
    @pytest.mark.parametrize("name", ["note", "card_id", "transaction_id", "event_time"])
    def test_half_a_surrogate_pair_is_not_json(self, name: str, text: bytes) -> None:
        with pytest.raises(DeadRecordError, match="surrogate") as caught:
            parse(record(**{name: text}))
        assert caught.value.reason == "invalid_json"

    @pytest.mark.parametrize("name", ["card_id", "transaction_id", "terminal_id"])
    def test_an_id_with_a_null_character_is_refused(self, name: str) -> None:
        with pytest.raises(DeadRecordError, match="null characters") as caught:
            parse(record(**{name: b'"a\\u0000b"'}))
        assert caught.value.reason == f"invalid_{name}"


class TestAnswers:
    """Label columns of public data sets are no part of a transaction: what learns from rows must not see them."""

    @pytest.mark.parametrize(
        "name",
        ["isFraud", "isFlaggedFraud", "Class", "Is Fraud?", "TX_FRAUD", "TX_FRAUD_SCENARIO", "is_fraud", "fraud_bool"],
    )  # fmt: skip
    def test_they_are_left_out(self, name: str) -> None:
        value = record(**{name: b"1", "kept": b"1.50"})
        body = parse(value, log_level="info").body
        fields = orjson.loads(body)
        assert {name, f"input_{name}"}.isdisjoint(fields)
        assert b'"kept":1.50' in body

    def test_unless_they_are_asked_for(self) -> None:
        body = parse(record(Class=b"1", is_fraud=b"true"), drop_fields="").body
        assert (orjson.loads(body)["Class"], orjson.loads(body)["input_is_fraud"]) == (1, True)

    def test_a_field_that_is_needed_cannot_be_left_out(self) -> None:
        with pytest.raises(SettingsError, match="card_id"):
            load_settings({"drop_fields": "note,card_id"})


class TestIds:
    @pytest.mark.parametrize("digits", [b"42", b"0", b"-7", b"12345678901234567890123", b"1" * 256])
    def test_whole_numbers_become_their_digits(self, digits: bytes) -> None:
        """And are text from there on: on `predictions`, and in the row."""
        found = parse(record(card_id=digits, transaction_id=digits, terminal_id=digits), digits)
        text = digits.decode()
        assert (found.card_id, found.transaction_id, found.terminal_id) == (text, text, text)
        fields = orjson.loads(found.body)
        assert [fields[name] for name in ("card_id", "transaction_id", "terminal_id")] == [text] * 3

    @pytest.mark.parametrize("number", [b"42.0", b"1e3", b"1.5", b"true", b"false", b"[]", b"{}"])
    @pytest.mark.parametrize("name", ["card_id", "transaction_id", "terminal_id"])
    def test_other_numbers_are_refused(self, name: str, number: bytes) -> None:
        with pytest.raises(DeadRecordError, match="whole number") as caught:
            parse(record(**{name: number}))
        assert caught.value.reason == f"invalid_{name}"


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "after_ms"),
        [
            (b"1700000000000", 0),
            (b"1700000000000000", 0),
            (b"1699999999999999", -1),
            (b"1700000000000000000", 0),
            (b"1700000000.123456789", 123),
            (b"1700000000.000000000", 0),
            (b"1700000000.122999999", 122),  # the nearest double is closer to .123
            (b"1.7E12", 0),
            (b"1.7e9", 0),
            (b"1700000000000.0", 0),
            (b"1700000000000.999", 0),
            (b'"1700000000123"', 123),
            (b'"1700000000.5"', 500),
            (b'"2023-11-14T22:13:20z"', 0),
            (b'"2023-11-14t22:13:20Z"', 0),
            (b'"2023-11-14 22:13:20 UTC"', 0),
            (b'"2023-11-14 22:13:20.5 GMT"', 500),
            (b'"2023-11-14T22:13:20UTC"', 0),
            (b'"2023-11-15T03:43:20+0530"', 0),
            (b'"2023-11-14T23:13:20+01"', 0),
            (b'"2023-11-14T23:13:20+01:00[Europe/Berlin]"', 0),
            (b'"2023-11-14T22:13:20.123456789Z[UTC]"', 123),
            (b'"2023-11-14T22:13:20Z[Etc/GMT+0]"', 0),
            (b'"2023-11-14 22:13:20.123 +0000 UTC"', 123),
        ],
    )  # fmt: skip
    def test_what_can_only_mean_one_time(self, text: bytes, after_ms: int) -> None:
        assert parse(record(event_time=text)).event_time_ms == T0 + after_ms

    @pytest.mark.parametrize(
        ("unit", "text"),
        [("s", b"1700000000"), ("s", b'"1700000000"'), ("s", b"1.7e9"), ("ms", b"1700000000000"),
         ("us", b"1700000000000000"), ("ns", b"1700000000000000000")],
    )  # fmt: skip
    def test_a_setting_tells_the_unit(self, unit: str, text: bytes) -> None:
        assert parse(record(event_time=text), event_time_unit=unit).event_time_ms == T0

    @pytest.mark.parametrize(
        ("value", "unit", "reason", "hint"),
        [
            (1_700_000_000, "auto", "epoch_in_seconds", "FRAUDSTREAM_EVENT_TIME_UNIT=s"),
            (1_700_000_000, "ms", "epoch_in_seconds", "FRAUDSTREAM_EVENT_TIME_UNIT=s"),
            (20_231_114, "auto", "epoch_in_seconds", "too small for epoch milliseconds"),
            (T0, "s", "invalid_event_time", "in seconds it is after the year 9999"),
            (T0, "us", "event_time_too_old", "before 1973"),
            (10**21, "auto", "invalid_event_time", "out of range"),
            (Decimal("1e300"), "auto", "invalid_event_time", "out of range"),
            (Decimal("-1e300"), "auto", "event_time_too_old", "before 1973"),
            (Decimal("Infinity"), "auto", "invalid_event_time", "must be ISO 8601"),
            (True, "auto", "invalid_event_time", "must be ISO 8601"),
            ("2023-11-14T22:13:20[Europe/Berlin]", "auto", "no_time_zone", "beside the zone's name"),
            ("2023-11-14T22:13:20", "auto", "no_time_zone", "write Z or an offset"),
            ("14/11/2023 22:13", "auto", "invalid_event_time", "such as 2026-11-20T10:00:00Z"),
        ],
    )  # fmt: skip
    def test_what_is_refused_says_what_to_write(
        self, value: Any, unit: TimeUnit, reason: str, hint: str
    ) -> None:
        with pytest.raises(DeadRecordError, match=hint) as caught:
            parse_moment_ms(value, unit=unit)
        assert caught.value.reason == reason

    def test_no_number_has_two_meanings(self) -> None:
        """Between 1973 and 5138, each unit has numbers of its own."""
        rng = random.Random(3)
        for _ in range(2_000):
            moment_ms = rng.randrange(10**11, 10**14)
            for per_ms in (1, 1_000, 1_000_000):
                assert parse_moment_ms(moment_ms * per_ms) == moment_ms
            seconds = Decimal(moment_ms).scaleb(-3)
            assert parse_moment_ms(seconds) == parse_moment_ms(f"{seconds:.6f}") == moment_ms

    @given(st.one_of(st.text(max_size=40), st.decimals(), st.integers(), st.floats(), st.binary()))
    def test_nothing_breaks_it(self, value: Any) -> None:
        for unit in ("auto", "s", "ns"):
            try:
                assert 10**11 <= parse_moment_ms(value, unit=unit) < 10**15
            except DeadRecordError as error:
                assert error.message

    def test_absurd_numbers_in_json_break_nothing(self) -> None:
        for number in (
            b"1e-99999999999999999999",
            b"1." + b"9" * 5_000,
            b"0." + b"0" * 5_000 + b"1",
        ):
            value = record(event_time=number, x=number)
            with pytest.raises(DeadRecordError):
                parse(value)
            assert canonical(number)


def test_headers_without_a_value_are_none() -> None:
    record = SimpleNamespace(headers=[("origin", None), ("reason", b"x"), ("reason", None)])
    assert headers_of(record) == {"reason": b"x"}
    assert origin_of(record.headers) is None
    assert origin_of([("origin", None), ("origin", b"t/1/2")]) == b"t/1/2"
