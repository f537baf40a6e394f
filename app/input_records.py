"""A record of `transactions`, one JSON object (see README, "Send your own"): decoded, checked, made a transaction.

What is wrong with it first decides: `DeadRecordError` has the reason. See app/records.py for what goes on from here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import orjson

from app.domain.field_names import under_our_names, without
from app.domain.json_shape import (
    MAX_DEPTH,
    MAX_VALUES,
    refuse_deep,
    refuse_many,
    refuse_repeated_keys,
)
from app.domain.transaction import DeadRecordError, Transaction
from app.named_fields import parse_field_names
from app.settings import Settings
from app.unreadable import Unreadable

#: Versions of the input record that this release reads.
SCHEMA_VERSIONS = (1,)
#: Fields of the input record; everything else is unknown to us, kept and passed on.
INPUT_FIELDS = frozenset({
    "transaction_id", "card_id", "terminal_id", "amount", "currency", "event_time",
    "schema_version", "converted_amount",
})  # fmt: skip
#: Fields that we add to a prediction. An input field of the same name is passed on as `input_<name>`.
OUTPUT_FIELDS = frozenset({
    "amount_minor", "event_time_ms", "features", "score", "is_fraud", "threshold", "model_version",
    "model_hash", "feature_schema", "reasons", "anomaly_score", "flags", "source_topic",
    "source_partition", "source_offset", "received_at", "scored_at", "scored_by",
})  # fmt: skip
MAX_ID_BYTES = 256
#: Largest value of a source record, where no other limit is given.
MAX_RECORD_BYTES = 1 << 20
#: Larger amounts are mistakes (a thousand million euros); running totals stay within 64 bits.
MAX_MINOR_UNITS = 10**11
#: 1973 in milliseconds: an integer below it was meant as seconds.
_EARLIEST_MS = 10**11
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SPACED_QUOTE = re.compile(rb'"[ \t\n\r]')
_DECIMAL = re.compile(r"(-?)(\d{1,18})(?:\.(\d{1,18}))?", re.ASCII)


class SourceRecord(Protocol):
    """What is needed of a Kafka record (aiokafka's ConsumerRecord fits)."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> Any: ...  # noqa: D102
    @property
    def value(self) -> Any: ...  # noqa: D102
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class RecordRules:
    """What decides whether an input is valid.

    Attributes:
        currency: ISO 4217 code of the deployment.
        minor_unit_digits: digits after its decimal point.
        max_future_skew_ms: how far past the broker's timestamp an event time may lie.
        max_bytes: largest value. The topic's own limit is one for compressed batches: what a producer
            has compressed may be many times as large, and would fit no batch of ours.
        names: our name of a field by the producers', for each schema version; 0 for any other version.
        versions: schema versions that are known.
    """

    currency: str
    minor_unit_digits: int
    max_future_skew_ms: int
    max_bytes: int = MAX_RECORD_BYTES
    names: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    versions: tuple[int, ...] = SCHEMA_VERSIONS

    @classmethod
    def of(cls, settings: Settings) -> "RecordRules":
        """The rules of a deployment."""
        names = parse_field_names(settings.field_names)
        return cls(
            settings.currency,
            settings.minor_unit_digits,
            settings.max_future_skew,
            settings.max_message_bytes,
            names if any(names.values()) else {},
            tuple(sorted({*SCHEMA_VERSIONS, *names} - {0})),
        )


def parse_transaction(
    value: bytes | None, key: bytes | None, broker_time_ms: int, rules: RecordRules
) -> Transaction:
    """Check one input record.

    Args:
        value: the record's bytes.
        key: its Kafka key: the card as UTF-8.
        broker_time_ms: when the broker appended it, epoch milliseconds.
        rules: the deployment's rules.

    Raises:
        DeadRecordError: it cannot become a valid transaction; `reason` is a stable code.
    """
    if value is not None and len(value) > rules.max_bytes:
        raise too_large("record", value, rules.max_bytes)
    fields, body = load_object(value)
    if rules.names:
        renamed = under_our_names(fields, rules.names)
        if renamed is not None:
            fields, body = renamed, orjson.dumps(renamed)
    version = fields.get("schema_version", 1)
    if version not in rules.versions or isinstance(version, (bool, float)):
        # before all else: what its fields are called is not known
        known = ", ".join(map(str, rules.versions))
        msg = f"schema_version {version!r} is not one of {known}"
        raise DeadRecordError("unknown_schema_version", msg, _card_of(fields, key))
    card_id = identifier(fields, "card_id")
    if not key:
        raise DeadRecordError("missing_key", "the Kafka key is empty; it must be the card_id")
    if key != card_id.encode():
        raise DeadRecordError("key_mismatch", f"the Kafka key is not the card_id {card_id!r}")
    try:
        transaction_id = identifier(fields, "transaction_id")
        terminal_id = None
        if fields.get("terminal_id") is not None:
            terminal_id = identifier(fields, "terminal_id")
        minor = _minor_units(fields, rules)
        event_time_ms = parse_moment_ms(fields.get("event_time"))
        if event_time_ms > broker_time_ms + rules.max_future_skew_ms:
            late_by = (event_time_ms - broker_time_ms) / 1000
            msg = f"event_time is {late_by:.0f} s after the broker received the record"
            raise DeadRecordError("in_the_future", msg)
    except DeadRecordError as dead:
        dead.card_id = card_id
        raise
    if not OUTPUT_FIELDS.isdisjoint(fields):
        body = orjson.dumps(without(fields, OUTPUT_FIELDS))
    if len(body) > rules.max_bytes:  # numbers may be written longer than they came
        msg = f"with its fields renamed the record has {len(body)} bytes"
        raise DeadRecordError("too_large", msg, card_id)
    return Transaction(transaction_id, card_id, terminal_id, minor, event_time_ms, body)


def too_large(what: str, value: bytes, limit: int) -> DeadRecordError:
    """Why a value of so many bytes is refused."""
    if isinstance(value, Unreadable):
        return DeadRecordError(value.reason, value.message)
    return DeadRecordError("too_large", f"the {what} has {len(value)} bytes, the limit is {limit}")


def load_object(value: bytes | None) -> tuple[dict[str, Any], bytes]:
    """The fields of a JSON object, and its bytes; `DeadRecordError` where it is none."""
    if isinstance(value, Unreadable):
        raise DeadRecordError(value.reason, value.message)
    if not value:
        raise DeadRecordError("empty_value", "the record has no value")
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        try:
            value.decode()
        except UnicodeDecodeError as bad:
            msg = f"not UTF-8 at byte {bad.start}"
            raise DeadRecordError("invalid_utf8", msg) from None
        raise DeadRecordError("invalid_json", f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        msg = f"a JSON object was expected, not {type(fields).__name__}"
        raise DeadRecordError("not_an_object", msg)
    body = value.strip()
    nested = body.count(b"[") + body.count(b"{")
    if nested + body.count(b",") > MAX_VALUES:
        refuse_many(fields)
    if nested > MAX_DEPTH:
        refuse_deep(fields)
    # In the plain case every key shows as `":` once; any other count may hide a repeated key, and so may
    # a key with white space before its colon.
    if body.count(b'":') != len(fields) or _SPACED_QUOTE.search(body):
        refuse_repeated_keys(body)
    return fields, body


def _card_of(fields: dict[str, Any], key: bytes | None) -> str | None:
    """The card that a record names by field and key, if it does."""
    try:
        card_id = identifier(fields, "card_id")
    except DeadRecordError:
        return None
    return card_id if key == card_id.encode() else None


def identifier(fields: dict[str, Any], name: str) -> str:
    """The id in a field; `DeadRecordError` where it cannot be one."""
    text = fields.get(name)
    if text is None:
        raise DeadRecordError(f"missing_{name}", f"{name} is missing")
    if not isinstance(text, str) or not text or "\0" in text or len(text) > MAX_ID_BYTES:
        msg = f"{name} must be a string of 1 to {MAX_ID_BYTES} bytes without null characters"
        raise DeadRecordError(f"invalid_{name}", msg)
    if not text.isascii() and len(text.encode()) > MAX_ID_BYTES:
        msg = f"{name} is longer than {MAX_ID_BYTES} bytes"
        raise DeadRecordError(f"invalid_{name}", msg)
    return text


def _minor_units(fields: dict[str, Any], rules: RecordRules) -> int:
    name = "amount"
    currency = fields.get("currency")
    if currency is not None and currency != rules.currency:
        if not isinstance(currency, str) or not _is_currency(currency):
            msg = f"currency {currency!r} is not an ISO 4217 code"
            raise DeadRecordError("unknown_currency", msg)
        name = "converted_amount"
        if fields.get(name) is None:
            msg = f"currency {currency} needs converted_amount in {rules.currency}"
            raise DeadRecordError("foreign_currency", msg)
    minor = parse_minor_units(fields.get(name), rules.minor_unit_digits)
    if minor < 0:
        raise DeadRecordError("negative_amount", f"{name} is negative")
    if minor > MAX_MINOR_UNITS:
        raise DeadRecordError("amount_too_large", f"{name} is over {MAX_MINOR_UNITS} minor units")
    return minor


def parse_minor_units(amount: Any, digits: int) -> int:
    """Exact minor units of an amount in major units.

    A JSON number must be the double nearest to a whole number of minor units: that is the case for every
    amount written with at most `digits` decimals, and no rounding decides.

    Raises:
        DeadRecordError: not a number, or with more decimals than the currency has.
    """
    unit = 10**digits
    if type(amount) is float:
        if not abs(amount) < 1e13:
            raise DeadRecordError("amount_too_large", f"amount {amount!r} is out of range")
        minor = round(amount * unit)
        if minor / unit == amount:
            return minor
    elif type(amount) is int:
        return amount * unit
    elif type(amount) is str and (match := _DECIMAL.fullmatch(amount)):
        sign, whole, fraction = match[1], match[2], (match[3] or "").rstrip("0")
        if len(fraction) <= digits:
            minor = int(whole) * unit + int(fraction.ljust(digits, "0") or "0")
            return -minor if sign else minor
    else:
        msg = f"amount {str(amount)[:40]!r} is neither a number nor a decimal string"
        raise DeadRecordError("missing_amount" if amount is None else "invalid_amount", msg)
    msg = f"amount {amount} has more than {digits} decimals"
    raise DeadRecordError("amount_precision", msg)


def _is_currency(code: str) -> bool:
    from iso4217 import Currency

    try:
        Currency(code)
    except ValueError:
        return False
    return True


def parse_moment_ms(value: Any, name: str = "event_time") -> int:
    """Epoch milliseconds of ISO 8601 text with a zone, or of an integer that is that already.

    Raises:
        DeadRecordError: it is neither, or lies before 1973; the text says `name`.
    """
    if type(value) is str:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            msg = f"{name} {value[:40]!r} is not ISO 8601"
            raise DeadRecordError(f"invalid_{name}", msg) from None
        if moment.tzinfo is None:
            msg = f"{name} {value!r} has no time zone; write Z or an offset"
            raise DeadRecordError("no_time_zone", msg)
        moment_ms = (moment - _EPOCH) // _MILLISECOND
    elif type(value) is int:
        moment_ms = value
        if 0 < value < _EARLIEST_MS:
            msg = f"{name} {value} looks like seconds; write milliseconds"
            raise DeadRecordError("epoch_in_seconds", msg)
    elif value is None:
        raise DeadRecordError(f"missing_{name}", f"{name} is missing")
    else:
        msg = f"{name} must be ISO 8601 text or epoch milliseconds as an integer"
        raise DeadRecordError(f"invalid_{name}", msg)
    if moment_ms < _EARLIEST_MS:
        raise DeadRecordError(f"{name}_too_old", f"{name} is before 1973")
    return moment_ms
