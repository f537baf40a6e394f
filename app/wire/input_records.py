"""A record of `transactions`, one JSON object (see README, "Send your own"): decoded, checked, made a transaction.

What is wrong with it first decides: `DeadRecordError` has the reason. app/wire/output_records.py has what is sent on.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from app.domain.amounts import MAX_MINOR_UNITS, is_currency, parse_minor_units
from app.domain.debezium import is_envelope, is_wrapped
from app.domain.event_times import TimeUnit, parse_moment_ms
from app.domain.features.own_features import OwnField
from app.domain.ids import MAX_ID_BYTES, identifier, optional_identifier
from app.domain.json_text import (
    Fields,
    exact_number,
    load_object,
    raw_fields,
    too_large,
    write_object,
)
from app.domain.privacy import AS_IT_CAME, Privacy
from app.domain.transaction import DeadRecordError, Transaction
from app.field_names import NAMED_FIELDS, parse_field_names, under_our_names, without
from app.pseudonyms import is_pseudonym
from app.setting_lists import parse_dropped, parse_private
from app.settings import Settings
from app.wire.own_features_file import own_of
from app.wire.prediction_fields import OUTPUT_FIELDS

__all__ = ["MAX_ID_BYTES", "RecordRules", "SourceRecord", "parse_transaction"]

#: Versions of the input record that this release reads.
SCHEMA_VERSIONS = (1,)
#: Largest value of a source record, where no other limit is given.
MAX_RECORD_BYTES = 1 << 20
#: An amount of more digits than a double is sure to hold, or so small that it may become zero.
_long_amount = re.compile(rb'amount"\s*:\s*-?(?:[\d.]{16}|[\d.]+[eE]-\d{3})').search
_IDS = ("transaction_id", "card_id", "terminal_id")


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
        time_unit: what event times that are numbers count.
        decode: makes fields and a JSON object of a value and its headers.
        dropped: names of fields that are left out.
        reserved: these, and the names of our own fields.
        refunds: whether negative amounts are valid.
        privacy: what becomes of unknown fields and of refused records.
        pseudonyms: whether a card's id must be one.
        own: the deployment's own fields.
    """

    currency: str
    minor_unit_digits: int
    max_future_skew_ms: int
    max_bytes: int = MAX_RECORD_BYTES
    names: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    versions: tuple[int, ...] = SCHEMA_VERSIONS
    time_unit: TimeUnit = "auto"
    decode: Callable[..., tuple[Fields, bytes]] = load_object
    dropped: frozenset[str] = frozenset()
    refunds: bool = False
    privacy: Privacy = AS_IT_CAME
    pseudonyms: bool = False
    own: tuple[OwnField, ...] = ()
    reserved: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Join both kinds of names that an input's field cannot keep: one look for all of them."""
        object.__setattr__(self, "reserved", OUTPUT_FIELDS | self.dropped)

    @classmethod
    def of(
        cls, settings: Settings, decode: Callable[..., tuple[Fields, bytes]] = load_object
    ) -> "RecordRules":
        """The rules of a deployment; see `app.wire.decoding.record_rules` for what decodes."""
        names = parse_field_names(settings.field_names)
        return cls(
            settings.currency,
            settings.minor_unit_digits,
            settings.max_future_skew,
            settings.max_message_bytes,
            names if any(names.values()) else {},
            tuple(sorted({*SCHEMA_VERSIONS, *names} - {0})),
            settings.event_time_unit,
            decode,
            parse_dropped(settings.drop_fields),
            refunds=settings.refunds == "store",
            privacy=privacy_of(settings),
            pseudonyms=settings.card_ids == "pseudonyms",
            own=own_of(settings).fields,
        )


def privacy_of(settings: Settings) -> Privacy:
    """What the settings say of unknown fields and refused records."""
    key = settings.privacy_key
    return Privacy(
        settings.mask_card_numbers,
        parse_private(settings.private_fields),
        key.get_secret_value().encode() if key else b"",
        frozenset(NAMED_FIELDS),
        parse_dropped(settings.drop_fields),
        settings.dead_letter_values == "keep",
    )


def parse_transaction(
    value: bytes | None,
    key: bytes | None,
    broker_time_ms: int,
    rules: RecordRules,
    headers: Sequence[tuple[str, bytes]] = (),
) -> Transaction:
    """Check one input record.

    Args:
        value: the record's bytes.
        key: its Kafka key: the card as UTF-8.
        broker_time_ms: when the broker appended it, epoch milliseconds.
        rules: the deployment's rules.
        headers: its headers, which may name the value's schema.

    Raises:
        NotReadableYetError: its schema has to be fetched first.
        DeadRecordError: it cannot become a valid transaction; `reason` is a stable code.
    """
    if value is not None and len(value) > rules.max_bytes:
        raise too_large("record", value, rules.max_bytes)
    fields, body = rules.decode(value, headers)
    if rules.names:
        renamed = under_our_names(fields, rules.names)
        if renamed is not None:
            fields, body = renamed, _renamed(body, fields, rules)
    version = fields.get("schema_version", 1)
    if version not in rules.versions or isinstance(version, (bool, float)):
        raise _unknown_version(version, rules, _card_of(fields, body, key, rules))
    card_id = _own_card(fields, body, key, rules)
    try:
        transaction_id = identifier(fields, "transaction_id", body)
        terminal_id = optional_identifier(fields, "terminal_id", body)
        minor = _minor_units(fields, body, rules)
        when = fields.get("event_time")
        if type(when) is float:
            when = exact_number(body, "event_time", when)
        event_time_ms = parse_moment_ms(when, "event_time", rules.time_unit)
        if event_time_ms > broker_time_ms + rules.max_future_skew_ms:
            late_by = (event_time_ms - broker_time_ms) / 1000
            msg = f"event_time is {late_by:.0f} s after the broker received the record"
            raise DeadRecordError("in_the_future", msg)
    except DeadRecordError as dead:
        dead.card_id = card_id
        raise
    if not rules.reserved.isdisjoint(fields):
        body = _without_reserved(body, rules)
    if (
        card_id is not fields["card_id"]
        or transaction_id is not fields["transaction_id"]
        or terminal_id is not fields.get("terminal_id")
    ):
        body = _with_ids(body, (transaction_id, card_id, terminal_id))
    body = rules.privacy.of_body(body, fields)
    if len(body) > rules.max_bytes:
        msg = f"with its fields renamed the record has {len(body)} bytes"
        raise DeadRecordError("too_large", msg, card_id)
    own = _own_values(body, rules, card_id) if rules.own else ()
    return Transaction(transaction_id, card_id, terminal_id, minor, event_time_ms, body, own)


def _own_values(body: bytes, rules: RecordRules, card_id: str) -> tuple[Any, ...]:
    """The deployment's own fields, from what is passed on: without what is masked, hashed or left out."""
    fields = orjson.loads(body)
    try:
        return tuple([each.value(fields) for each in rules.own])
    except DeadRecordError as dead:
        dead.card_id = card_id
        raise


def _own_card(fields: Fields, body: bytes, key: bytes | None, rules: RecordRules) -> str:
    """The card that a record is of."""
    if "card_id" not in fields:
        raise _without_card(fields)
    card_id = identifier(fields, "card_id", body)
    if key != card_id.encode():
        raise _wrong_key(key, card_id)
    if rules.pseudonyms and not is_pseudonym(card_id):
        msg = "card_id is not a pseudonym: see docs/private-data.md"
        raise DeadRecordError("not_a_pseudonym", msg)  # it names no card: nothing is kept under it
    return card_id


def _unknown_version(version: Any, rules: RecordRules, card_id: str | None) -> DeadRecordError:
    """Before all else: what its fields are called is not known."""
    known = ", ".join(map(str, rules.versions))
    msg = f"schema_version {version!r} is not one of {known}"
    return DeadRecordError("unknown_schema_version", msg, card_id)


def _without_card(fields: Fields) -> DeadRecordError:
    if is_envelope(fields):
        msg = "the record is a Debezium change event: set FRAUDSTREAM_INPUT_ENVELOPE=debezium"
        return DeadRecordError("debezium_envelope", msg)
    if is_wrapped(fields):
        msg = (
            "card_id is missing: the record is under `payload`, as Kafka Connect sends it with a schema; set the "
            "connector's schemas.enable=false, or FRAUDSTREAM_INPUT_ENVELOPE=debezium"
        )
        return DeadRecordError("missing_card_id", msg)
    return DeadRecordError("missing_card_id", "card_id is missing")


def _wrong_key(key: bytes | None, card_id: str) -> DeadRecordError:
    if not key:
        return DeadRecordError("missing_key", "the Kafka key is empty; it must be the card_id")
    more = ""
    if key[0] in b'\0{"':
        more = "; it must be plain text: configure the producer's key serializer for strings"
    return DeadRecordError("key_mismatch", f"the Kafka key is not the card_id {card_id!r}{more}")


def _renamed(body: bytes, fields: Fields, rules: RecordRules) -> bytes:
    """The object under our names, its values as they came."""
    raw: Fields = dict(raw_fields(body))
    if "schema_version" in fields:
        raw["schema_version"] = fields["schema_version"]
    renamed = under_our_names(raw, rules.names)
    assert renamed is not None
    return write_object(renamed)


def _without_reserved(body: bytes, rules: RecordRules) -> bytes:
    """The object without fields that are left out, and with those of our names under others."""
    raw = {name: value for name, value in raw_fields(body).items() if name not in rules.dropped}
    return write_object(without(raw, OUTPUT_FIELDS))


def _with_ids(body: bytes, ids: tuple[str | None, ...]) -> bytes:
    """The object with ids that are text, where they came as numbers."""
    text = dict(zip(_IDS, ids, strict=True))
    return write_object({name: text.get(name, raw) for name, raw in raw_fields(body).items()})


def _card_of(fields: Fields, body: bytes, key: bytes | None, rules: RecordRules) -> str | None:
    """The card that a record names by field and key, if it does."""
    try:
        return _own_card(fields, body, key, rules)
    except DeadRecordError:
        return None


def _minor_units(fields: Fields, body: bytes, rules: RecordRules) -> int:
    name = "amount"
    currency = fields.get("currency")
    if currency is not None and currency != rules.currency:
        if not isinstance(currency, str) or not is_currency(currency):
            msg = f"currency {currency!r} is not an ISO 4217 code"
            raise DeadRecordError("unknown_currency", msg)
        name = "converted_amount"
        if fields.get(name) is None:
            msg = f"currency {currency} needs converted_amount in {rules.currency}"
            raise DeadRecordError("foreign_currency", msg)
    amount = fields.get(name)
    if amount is None and name not in fields:
        raise DeadRecordError("missing_amount", f"{name} is missing")
    if type(amount) is float and _long_amount(body):
        amount = exact_number(body, name, amount)  # the double may have lost what is too precise
    minor = parse_minor_units(amount, rules.minor_unit_digits)
    if minor < 0 and not rules.refunds:
        raise DeadRecordError("negative_amount", f"{name} is negative")
    if abs(minor) > MAX_MINOR_UNITS:
        raise DeadRecordError("amount_too_large", f"{name} is over {MAX_MINOR_UNITS} minor units")
    return minor
