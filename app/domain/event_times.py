"""Points in time as producers write them, as epoch milliseconds.

One set of rules for topics and files; docs/inputs.md, "Numbers, ids and times", is the user's view of it.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any, Literal

from app.domain.transaction import DeadRecordError

#: Unit of times that are numbers; `auto` goes by their size.
TimeUnit = Literal["auto", "s", "ms", "us", "ns"]

#: 1973 in milliseconds. The spans from 1973 to 5138 in seconds, milliseconds, ... do not overlap.
_FROM_MS, _BEFORE_MS = 10**11, 10**14
#: The end of the year 9999, the last one of ISO 8601.
LAST_MS = 253_402_300_799_999
#: Unit -> the smallest number that is read as such, and how many are a millisecond.
_UNITS = {
    "ns": (Decimal(10**17), Decimal(1_000_000)),
    "us": (Decimal(10**14), Decimal(1_000)),
    "ms": (Decimal(_FROM_MS), Decimal(1)),
    "s": (Decimal("-Infinity"), Decimal("0.001")),
}
_FLOOR = Context(prec=60, rounding=ROUND_FLOOR)
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_SETTING = "FRAUDSTREAM_EVENT_TIME_UNIT"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_NUMBER = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
#: Java's ZonedDateTime ends with the zone's name in brackets.
_BRACKETS = re.compile(r"(.+)\[[\w/+.:-]+\]", re.ASCII)
#: Go's Time.String ends with the zone's short name behind its offset.
_ABBREVIATED = re.compile(r"(.+[+-]\d\d:?\d\d) [A-Z]{3,5}", re.ASCII)
_SPACED = re.compile(r"(.+[\d.]) ([+-]\d\d:?\d\d)", re.ASCII)
_UTC = re.compile(r"(.+[\d.]) ?(?:z|Z|UTC|GMT)", re.ASCII)


def parse_moment_ms(value: Any, name: str = "event_time", unit: TimeUnit = "auto") -> int:
    """Epoch milliseconds of a time; what is finer is cut off.

    Args:
        value: ISO 8601 text with a zone, a number (or its text), or a datetime with a zone. A number that was
            written with a decimal point or an exponent comes as a Decimal, so that none of its digits is lost.
        name: the field's, for the reason code and the message.
        unit: what numbers count.

    Raises:
        DeadRecordError: it is none of these, lies before 1973, or could mean two things.
    """
    kind = type(value)
    if kind is int:
        if unit == "auto" and _FROM_MS <= value < _BEFORE_MS:
            return int(value)
        return _of_whole(value, name, unit)
    if kind is str:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return _of_other_text(value, name, unit)
        if moment.tzinfo is None:
            return _of_other_text(value, name, unit)
        return _since_epoch(moment, name)
    return _of_value(value, name, unit)


def _of_value(value: Any, name: str, unit: TimeUnit) -> int:
    if value is None:
        raise DeadRecordError(f"missing_{name}", f"{name} is missing")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _without_zone(value.isoformat(), name)
        return _since_epoch(value, name)
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_finite():
        return _of_decimal(value, name, unit)
    msg = f"{name} must be ISO 8601 text with a time zone, or a number such as epoch milliseconds"
    raise DeadRecordError(f"invalid_{name}", msg)


def _since_epoch(moment: datetime, name: str) -> int:
    moment_ms = (moment - _EPOCH) // _MILLISECOND
    if moment_ms < _FROM_MS:
        raise DeadRecordError(f"{name}_too_old", f"{name} is before 1973")
    return moment_ms


def _of_whole(value: int, name: str, unit: TimeUnit) -> int:
    """Of a whole number. Seconds are not taken without the setting: they are the usual mistake."""
    if unit in ("auto", "ms") and 0 < value < _FROM_MS:
        msg = f"{name} {value} is too small for epoch milliseconds: check its unit"
        if value >= _FROM_MS // 1000:
            msg = (
                f"{name} {value} looks like seconds; write milliseconds, or set {_SETTING}=s "
                "if all times are in seconds"
            )
        raise DeadRecordError("epoch_in_seconds", msg)
    return _of_decimal(Decimal(value), name, unit)


def _of_decimal(value: Decimal, name: str, unit: TimeUnit) -> int:
    counted: str = unit
    if unit == "auto":
        counted = next(each for each, (least, _) in _UNITS.items() if value >= least)
    moment_ms = _FLOOR.divide(value, _UNITS[counted][1])
    if moment_ms < _FROM_MS:
        raise DeadRecordError(f"{name}_too_old", f"{name} is before 1973")
    if moment_ms > LAST_MS:
        msg = f"{name} {value:g} is out of range: in {_NAMES[counted]} it is after the year 9999; see {_SETTING}"
        raise DeadRecordError(f"invalid_{name}", msg)
    return int(moment_ms)


def _of_other_text(text: str, name: str, unit: TimeUnit) -> int:
    """Of text that `datetime.fromisoformat` does not take, or that has no zone for it."""
    if _NUMBER.fullmatch(text):
        if text.lstrip("-").isdigit():
            return _of_whole(int(text), name, unit)
        return _of_decimal(Decimal(text), name, unit)
    plain = text
    if match := _BRACKETS.fullmatch(plain):
        plain = match[1]
    if match := _ABBREVIATED.fullmatch(plain):
        plain = match[1]
    elif match := _UTC.fullmatch(plain):
        plain = match[1] + "Z"
    if match := _SPACED.fullmatch(plain):
        plain = match[1] + match[2]
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError:
        msg = f"{name} {text[:40]!r} is not ISO 8601 such as 2026-11-20T10:00:00Z"
        raise DeadRecordError(f"invalid_{name}", msg) from None
    if moment.tzinfo is None:
        raise _without_zone(text, name)
    return _since_epoch(moment, name)


def _without_zone(text: str, name: str) -> DeadRecordError:
    more = ""
    if "[" in text:  # twice a year a zone's name alone is ambiguous
        more = " beside the zone's name"
    msg = f"{name} {text[:40]!r} has no time zone; write Z or an offset{more}"
    return DeadRecordError("no_time_zone", msg)
