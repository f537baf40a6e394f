"""Times as files have them: ISO 8601 with and without a zone, a format of their own, epoch numbers of any unit."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from app.domain.event_times import LAST_MS, TimeUnit, parse_moment_ms
from app.domain.transaction import DeadRecordError
from app.errors import UsageError

#: What to do with a local time that a change of clocks makes ambiguous or skips, as ECMAScript's Temporal has it.
POLICIES = ("refuse", "earlier", "later")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- compared with times that name no zone
_MILLISECOND = timedelta(milliseconds=1)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_DATES = (
    (re.compile(r"(19|20)\d{6}", re.ASCII), "%Y%m%d"),
    (re.compile(r"(19|20)\d{12}", re.ASCII), "%Y%m%d%H%M%S"),
)


class EventTimeError(ValueError):
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
        unit: of epoch numbers.
        iso: write times of numbers as ISO 8601: the topic's numbers have another unit than milliseconds.
    """

    zone: ZoneInfo | None = None
    ambiguous: str = "refuse"
    pattern: str | None = None
    unit: TimeUnit = "auto"
    iso: bool = False


def check_pattern(pattern: str) -> None:
    """Refuse what `datetime.strptime` does not understand.

    Raises:
        UsageError: it does not.
    """
    try:
        text = _EPOCH.strftime(pattern)
        datetime.strptime(text, pattern)  # noqa: DTZ007
    except ValueError as error:
        msg = f"--time-format {pattern}: {error}; write a format such as '%d/%m/%Y %H:%M'"
        raise UsageError(msg) from None


class EventTimeReader:
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
            EventTimeError: it is not a time, or the rules do not say which.
        """
        text = value if type(value) is str else _text(value)
        pattern = self._rules.pattern
        try:
            if pattern is not None:
                moment = datetime.strptime(text.strip(), pattern)  # noqa: DTZ007 -- a zone is assumed by rule
            elif _NUMBER.fullmatch(text):
                return self._parsed(text)
            else:
                moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                return self._local(moment, text)
            epoch_ms = (moment - _EPOCH) // _MILLISECOND
            if epoch_ms > LAST_MS:
                raise OverflowError
        except EventTimeError:
            raise
        except OverflowError:
            raise EventTimeError(f"{text[:40]!r} is out of range in UTC") from None
        except ValueError as error:
            if pattern is None:
                return self._parsed(text)
            raise EventTimeError(f"{text[:40]!r} does not match --time-format {pattern}") from error
        same = pattern is None and text[10:11] == "T"
        return (text if same else moment.isoformat()), epoch_ms

    def _parsed(self, text: str) -> tuple[str | int, int]:
        """A number, or a rarer way to write a time with its zone, as the topic's parser reads it."""
        rules = self._rules
        if rules.unit == "auto":
            for pattern, written in _DATES:
                if pattern.fullmatch(text):
                    fault = f"{text} looks like a date: give --time-format {written}"
                    raise EventTimeError(fault, general=True)
        try:
            epoch_ms = parse_moment_ms(text.strip(), "time", rules.unit)
        except DeadRecordError as dead:
            fault, general = (
                str(dead).replace("see FRAUDSTREAM_EVENT_TIME_UNIT", "see --time-unit"),
                False,
            )
            if dead.reason == "epoch_in_seconds":
                fault, general = f"{text} looks like seconds: give --time-unit s", True
            elif dead.reason == "invalid_time" and not _NUMBER.fullmatch(text):
                fault += "; --time-format gives another format"
            raise EventTimeError(fault, general=general) from dead
        if _NUMBER.fullmatch(text) and not rules.iso:
            return epoch_ms, epoch_ms
        moment = _EPOCH + timedelta(milliseconds=epoch_ms)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"), epoch_ms

    def _in_zone(self, moment: datetime, _text: str) -> tuple[str, int]:
        zone = self._rules.zone
        if zone is None:
            fault = (
                f"{_text[:40]!r} has no time zone: add --assume-zone UTC, or the zone of the file"
            )
            raise EventTimeError(fault, general=True)
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
                raise EventTimeError(fault)
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
