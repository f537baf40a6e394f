"""The way from a record's bytes to its fields, chosen once at the start."""

import base64
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import orjson

from app.domain.debezium import path_to_record
from app.domain.json_limits import MAX_DEPTH, MAX_VALUES, refuse_deep, refuse_many
from app.domain.json_text import Fields, load_object, raw_fields
from app.domain.transaction import DeadRecordError
from app.wire.decoding.framing import frame_of
from app.wire.decoding.schemas import Schemas
from app.wire.unreadable import Unreadable

Headers = Sequence[tuple[str, bytes]]
Decode = Callable[[bytes | None, Headers], tuple[Fields, bytes]]


def decoder(schemas: Schemas | None, *, debezium: bool, framed_json: bool = False) -> Decode:
    """What reads the records of a deployment.

    Args:
        schemas: of framed records; None where records are JSON.
        debezium: take records out of their envelope.
        framed_json: framed records hold JSON, and no schema is needed to read them.
    """
    if schemas is None and not framed_json:
        return read_json_envelope if debezium else load_object

    def decode(value: bytes | None, headers: Headers = ()) -> tuple[Fields, bytes]:
        frame = None
        if value and not isinstance(value, Unreadable):
            frame = frame_of(value, headers)
        if frame is None or framed_json:
            plain = value if frame is None else frame.data
            return read_json_envelope(plain, headers) if debezium else load_object(plain, headers)
        assert schemas is not None
        fields = schemas.get(frame.schema).read(frame.data)
        if debezium:
            for name in path_to_record(fields):
                fields = fields[name]
        return fields, _as_json(fields)

    return decode


def read_json_envelope(value: bytes | None, headers: Headers = ()) -> tuple[Fields, bytes]:
    """As `load_object`, of the row in a Debezium envelope; a record without one is read as it is."""
    fields, body = load_object(value, headers)
    for name in path_to_record(fields):
        fields, body = fields[name], bytes(raw_fields(body)[name])
    return fields, body


def _as_json(fields: Fields) -> bytes:
    try:
        body = orjson.dumps(fields, default=_plain)
    except TypeError as error:  # orjson's own limits
        if "Recursion" in str(error):
            raise DeadRecordError("too_deep", "the record is nested too deep for JSON") from None
        raise DeadRecordError("undecodable", f"the record has no JSON form: {error}") from None
    nested = body.count(b"[") + body.count(b"{")
    if nested + body.count(b",") > MAX_VALUES:
        refuse_many(orjson.loads(body))
    if nested > MAX_DEPTH:
        refuse_deep(orjson.loads(body))
    return body


def _plain(value: Any) -> Any:
    """What orjson does not write by itself."""
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(f"{value:f}")  # all its digits
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    raise TypeError(type(value).__name__)
