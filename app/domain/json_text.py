"""JSON objects as text: read into fields, and written anew without touching what need not change.

What parses JSON makes a double of every number beyond 64 bits or with a decimal point. The input is to come back as
it was, so values are carried as the text that they came as.
"""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

import msgspec
import orjson

from app.domain.json_limits import (
    MAX_DEPTH,
    MAX_VALUES,
    refuse_deep,
    refuse_many,
    refuse_repeated_keys,
)
from app.domain.transaction import DeadRecordError
from app.wire.unreadable import Unreadable

Fields = dict[str, Any]

_spaced_quote = re.compile(rb'"[ \t\n\r]').search
#: A number that a double may not hold: 16 digits, or a large exponent.
_LONG_NUMBER = re.compile(rb"\d[\d.]{15}|[eE][+-]?\d{3}")
_SENSIBLE = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
#: The whole numbers that orjson reads and writes.
_INTEGERS = range(-(1 << 63), 1 << 64)
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ALL_DIGITS = Context(prec=100)
_encode = msgspec.json.Encoder().encode


def too_large(what: str, value: bytes, limit: int) -> DeadRecordError:
    """Why a value of so many bytes is refused."""
    if isinstance(value, Unreadable):
        return DeadRecordError(value.reason, value.message)
    return DeadRecordError("too_large", f"the {what} has {len(value)} bytes, the limit is {limit}")


def load_object(
    value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
) -> tuple[Fields, bytes]:
    """The fields of a JSON object, and its bytes.

    Args:
        value: the text.
        headers: of its record; they may tell why it is no JSON.

    Raises:
        DeadRecordError: it is none.
    """
    if isinstance(value, Unreadable):
        raise DeadRecordError(value.reason, value.message)
    if not value:
        raise DeadRecordError("empty_value", "the record has no value")
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        refuse_framed(value, headers)
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
    if body.count(b'":') != len(fields) or _spaced_quote(body):
        refuse_repeated_keys(body)
    return fields, body


def refuse_framed(value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
    """Name what is no JSON because it was written for a schema registry.

    Raises:
        DeadRecordError: it was.
    """
    by_header = any(name == "__value_schema_id" and given for name, given in headers)
    if by_header or (value[0] == 0 and len(value) > 5):
        which = "its header" if by_header else f"schema id {int.from_bytes(value[1:5], 'big')}"
        msg = (
            f"the value is in Confluent's wire format ({which}), not JSON: set FRAUDSTREAM_INPUT_FORMAT to avro, "
            "protobuf or json-schema, and FRAUDSTREAM_SCHEMA_REGISTRY"
        )
        raise DeadRecordError("framed_record", msg)


def raw_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object, each value as the text that it came as."""
    return _raw_object(body)


def write_object(fields: Mapping[str, Any]) -> bytes:
    """A JSON object of fields; values from `raw_fields` are written as they came."""
    return _encode(fields)


def exact_number(body: bytes, name: str, number: float) -> Decimal:
    """A number of a JSON object with all digits that came, where those are not absurdly many."""
    text = number_text(body, name)
    return Decimal(text if _SENSIBLE.fullmatch(text) else repr(number))


def values(body: bytes) -> Fields:
    """The values of a JSON object. One with a number that may not fit a double stays text, which orjson writes."""
    return {
        name: orjson.Fragment(bytes(raw)) if _LONG_NUMBER.search(raw) else orjson.loads(bytes(raw))
        for name, raw in raw_fields(body).items()
    }


def number_text(body: bytes, name: str) -> str:
    """The digits of a number of a JSON object as they came."""
    return bytes(raw_fields(body)[name]).decode()


def canonical(raw: bytes) -> bytes:
    """The same bytes for every text of one JSON value: whatever its white space, order of keys and digits.

    Numbers that differ in any digit stay different.
    """
    exact = _LONG_NUMBER.search(raw)
    value = json.loads(raw, parse_float=_fraction, parse_int=_whole) if exact else orjson.loads(raw)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _whole(text: str) -> int | list[str]:
    number = int(text)
    return number if number in _INTEGERS else ["a number of these digits", text]


def _fraction(text: str) -> float | list[str]:
    number = float(text)
    if not _SENSIBLE.fullmatch(text):
        return ["a number as it came", text]
    return number if Decimal(repr(number)) == Decimal(text) else _beyond(text)


def _beyond(text: str) -> list[str]:
    return ["a number of these digits", str(Decimal(text).normalize(_ALL_DIGITS))]
