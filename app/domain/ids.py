"""Ids of cards, transactions and terminals: text, or whole numbers, which become their digits."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from app.domain.json_text import number_text
from app.domain.transaction import DeadRecordError

MAX_ID_BYTES = 256
_WHOLE = re.compile(r"-?\d+", re.ASCII)


def identifier(fields: Mapping[str, Any], name: str, body: bytes) -> str:
    """The id in a field.

    Args:
        fields: of a record.
        name: of the id.
        body: the record as JSON, which has all digits of a number.

    Raises:
        DeadRecordError: it cannot be one.
    """
    text = fields.get(name)
    if type(text) is not str:
        text = _digits(text, name, body)
    if not text or "\0" in text or len(text) > MAX_ID_BYTES:
        raise _invalid(name)
    if not text.isascii() and len(text.encode()) > MAX_ID_BYTES:
        msg = f"{name} is longer than {MAX_ID_BYTES} bytes"
        raise DeadRecordError(f"invalid_{name}", msg)
    return text


def optional_identifier(fields: Mapping[str, Any], name: str, body: bytes) -> str | None:
    """The id in a field, None where it is missing or null; see `identifier`."""
    return None if fields.get(name) is None else identifier(fields, name, body)


def _digits(value: Any, name: str, body: bytes) -> str:
    if value is None:
        raise DeadRecordError(f"missing_{name}", f"{name} is missing")
    if type(value) is int:
        return str(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return f"{value.to_integral_value():f}"  # 42.00 is the card 42
    if type(value) is float:  # a whole number beyond 64 bits is read as one, too
        text = number_text(body, name)
        if _WHOLE.fullmatch(text):
            return text
        msg = f"{name} {text[:40]} is a number with decimals or an exponent; write text or a whole number"
        raise DeadRecordError(f"invalid_{name}", msg)
    raise _invalid(name)


def _invalid(name: str) -> DeadRecordError:
    msg = f"{name} must be text of 1 to {MAX_ID_BYTES} bytes without null characters, or a whole number"
    return DeadRecordError(f"invalid_{name}", msg)
