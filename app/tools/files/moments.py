"""Times as files have them: ISO 8601 with and without a zone, a format of their own, epoch numbers of any unit."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from app.errors import UsageError

#: Units of epoch numbers, in milliseconds.
UNITS = {
    "s": Decimal(1_000),
    "ms": Decimal(1),
    "us": Decimal("0.001"),
    "ns": Decimal("0.000001"),
}
#: What to do with a local time that a change of clocks makes ambiguous or skips, as ECMAScript's Temporal has it.
POLICIES = ("refuse", "earlier", "later")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- compared with times that name no zone
_MILLISECOND = timedelta(milliseconds=1)
#: March 1973 and November 5138: epoch milliseconds outside are of another unit.
_LEAST_MS, _MOST_MS = 10**11, 10**14
_NUMBER = re.compile(r"[+-]?\d{1,25}(\.\d{0,25})?([eE][+-]?\d{1,2})?", re.ASCII)
_DATES = (
    (re.compile(r"(19|20)\d{6}", re.ASCII), "%Y%m%d"),
    (re.compile(r"(19|20)\d{12}", re.ASCII), "%Y%m%d%H%M%S"),
)
#: Java's ZonedDateTime: the zone's name behind its offset.
_ZONE_NAME = re.compile(r"(.*(?:[zZ]|[+-][\d:]+))\[[\w/+-]+\]", re.ASCII)
_UTC_NAME = re.compile(r"(.*\d) ?(?:z|UTC|GMT)", re.ASCII)


class MomentError(ValueError):
    """No time can be read; the text says why.

    Attributes:
        general: the other rows surely have the same fault.
    """

    def __init__(self, fault: str, *, general: bool = False) -> None:
        super().__init__(fault)
        self.general = general


@dataclass(frozen=True)
class TimeRules:
    """How the times of a file are read.

    Attributes:
        zone: of times that name none; None refuses them.
        ambiguous: what becomes of local times that occur twice or never, one of `POLICIES`.
        pattern: of `datetime.strptime`; None: ISO 8601 or epoch numbers.
        unit: of epoch numbers, one of `UNITS`; None: milliseconds, and what looks like another unit is refused.
    """

    zone: ZoneInfo | None = None
    ambiguous: str = "refuse"
    pattern: str | None = None
    unit: str | None = None


def check_pattern(pattern: str) -> None:
    """Refuse what `datetime.strptime` does not understand.

    Raises:
        UsageError: it does not.
    """
    try:
        text = _EPOCH.strftime(pattern)
        datetime.strptime(text, pattern)  # noqa: DTZ007
    except ValueError as error:
        msg = f"--time-format {pattern}: {error}; write such as '%d/%m/%Y %H:%M'"
        raise UsageError(msg) from None


class Moments:
    """Reads times by rules.

    Attributes:
        resolved: local times so far that occur twice or never and were decided by `TimeRules.ambiguous`.
    """

    def __init__(self, rules: TimeRules) -> None:
        self.resolved = 0
        self._rules = rules
        zone = rules.zone
        self._local: Callable[[datetime, str], tuple[str, int]] = self._in_zone
        if zone is not None and zone.key in {"UTC", "Etc/UTC"}:
            self._local = _in_utc

    def read(self, value: Any) -> tuple[str | int, int]:
        """A time as an input record carries it, and as epoch milliseconds.

        Raises:
            MomentError: it is none, or the rules do not say which.
        """
        text = value if type(value) is str else _text(value)
        pattern = self._rules.pattern
        if pattern is None and _NUMBER.fullmatch(text):
            epoch_ms = self._epoch(text)
            return epoch_ms, epoch_ms
        try:
            moment, same = _parsed(text.strip(), pattern)
            if moment.tzinfo is None:
                return self._local(moment, text)
            epoch_ms = (moment - _EPOCH) // _MILLISECOND
        except (ValueError, OverflowError) as error:
            if isinstance(error, MomentError):
                raise
            iso = "is no ISO 8601 time such as 2024-05-01T12:00:00Z; --time-format gives another format"
            what = f"does not match --time-format {pattern}" if pattern else iso
            raise MomentError(f"{text[:40]!r} {what}") from error
        return (text if same and text[10:11] == "T" else moment.isoformat()), epoch_ms

    def _epoch(self, text: str) -> int:
        unit = self._rules.unit
        exact = Decimal(text) * UNITS[unit or "ms"]
        whole = exact.to_integral_value("ROUND_FLOOR")
        if _LEAST_MS <= whole < _MOST_MS and (unit or whole == exact):
            for pattern, written in _DATES if unit is None else ():
                if pattern.fullmatch(text):
                    fault = f"{text} looks like a date: give --time-format {written}"
                    raise MomentError(fault, general=True)
            return int(whole)
        raise MomentError(_of_no_unit(text, exact, unit), general=True)

    def _in_zone(self, moment: datetime, _text: str) -> tuple[str, int]:
        zone = self._rules.zone
        if zone is None:
            fault = f"{_text[:40]!r} has no time zone: add --assume-zone UTC, or the zone it is in"
            raise MomentError(fault, general=True)
        first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
        found = first
        before, after = first.utcoffset(), second.utcoffset()
        assert before is not None
        assert after is not None
        if before != after:
            what = "occurs twice" if before > after else "does not exist"
            policy = self._rules.ambiguous
            if policy == "refuse":
                fault = (
                    f"{_text[:40]!r} {what} in {zone.key}, where the clocks change: "
                    "give --ambiguous earlier or later"
                )
                raise MomentError(fault)
            self.resolved += 1
            # a larger offset from UTC is an earlier moment
            offset = (max if policy == "earlier" else min)(before, after)
            found = first if offset == before else second
        epoch_ms = (found.replace(tzinfo=None) - (found.utcoffset() or timedelta())) - _LOCAL_EPOCH
        return found.isoformat(), epoch_ms // _MILLISECOND


def _in_utc(moment: datetime, text: str) -> tuple[str, int]:
    usual = text[10:11] in {"T", " "} and text[4:5] == "-" and text.isascii()
    iso = f"{text[:10]}T{text[11:]}" if usual else moment.isoformat()
    return iso + "Z", (moment - _LOCAL_EPOCH) // _MILLISECOND


def _parsed(text: str, pattern: str | None) -> tuple[datetime, bool]:
    """The time in a text, and whether other readers of ISO 8601 understand the text as well."""
    if pattern is not None:
        return datetime.strptime(text, pattern), False  # noqa: DTZ007 -- a zone is assumed by rule
    try:
        return datetime.fromisoformat(text), True
    except ValueError:
        if named := _ZONE_NAME.fullmatch(text):
            text = named[1]
        if named := _UTC_NAME.fullmatch(text):
            text = named[1] + "Z"
        return datetime.fromisoformat(text), False


def _of_no_unit(text: str, exact: Decimal, unit: str | None) -> str:
    """What is wrong with a number that is no time in its unit."""
    if exact < 0:
        return f"{text} is before 1970"
    if unit is not None:
        return f"{text} is no time of this century in {unit}: check --time-unit"
    date = next((written for pattern, written in _DATES if pattern.fullmatch(text)), None)
    if date:
        return f"{text} looks like a date: give --time-format {date}"
    for other, word in (("s", "seconds"), ("us", "microseconds"), ("ns", "nanoseconds")):
        if _LEAST_MS <= exact * UNITS[other] < _MOST_MS:
            return f"{text} looks like {word}: give --time-unit {other}"
    least = "too small" if exact < _LEAST_MS else "too large or too precise"
    return f"{text[:40]} is {least} for epoch milliseconds: give --time-unit"


def _text(value: Any) -> str:
    """A time that is no text (a Parquet timestamp, a number) as text."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            value = value.astimezone(UTC)
        # as pyarrow gives it: milliseconds are all that counts
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e24:
        return str(int(value))
    return str(value)
