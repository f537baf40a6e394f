"""Ids of transactions, cards and terminals as text, whatever type a file gives them."""

import math
from decimal import Decimal
from typing import Any

from app.ops.files.json_lines import JsonNumber

ID_FIELDS = ("transaction_id", "card_id", "terminal_id")
#: Up to here every whole number has a double of its own; beyond it, several share one.
_MOST_EXACT = 2**53


def is_missing(value: Any) -> bool:
    """Whether a field has no value: None, no text, or NaN, which stands for it in tables of floats."""
    return value is None or value == "" or (type(value) is float and math.isnan(value))


def id_text(value: Any) -> str | None:
    """An id as text; None where there is none.

    Whole floats become integers: tools write 1001.0 for 1001 as soon as a column has a gap.

    Raises:
        ValueError: no id can be made of the value; the text is for people.
    """
    if type(value) is str:
        return value or None
    if is_missing(value):
        return None
    if isinstance(value, JsonNumber):
        if value.lstrip("-").isdigit():
            return str(value)
        value = float(value)
    if isinstance(value, bytes):
        return _utf8(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        msg = f"{str(value)[:40]!r} is neither text nor number"
        raise ValueError(msg)  # noqa: TRY004 -- a fault of the file, told with its line
    if isinstance(value, float) and abs(value) > _MOST_EXACT:
        msg = (
            f"{value!r} is above 2^53, where floating-point numbers lose digits: store ids as text"
        )
        raise ValueError(msg)
    if value != int(value):
        msg = f"{value} is not a whole number: store ids as text"
        raise ValueError(msg)
    return str(int(value))


def _utf8(value: bytes) -> str | None:
    try:
        return value.decode() or None
    except UnicodeDecodeError:
        msg = "not UTF-8 text"
        raise ValueError(msg) from None
