"""Questions about the last few entries of a card or terminal: bounded, however many it has.

So many entries are looked at, and none at or before `after_ms`; late ones, and those without a label, are looked at as
well and left out. Conflicting ones (their id was another transaction's) are not among them. Every scan is one of bytes
or arrays, not of Python's: both stages ask for each event.
"""

from array import array
from typing import NamedTuple

from app.windows.entries import KNOWN_FRAUD, KNOWN_GENUINE, TIME_SHIFT, WITHOUT_HIGH
from app.windows.window_row import WindowRow

_OTHERS = bytes(set(range(256)) - {KNOWN_GENUINE, KNOWN_FRAUD})


class LabelHistory(NamedTuple):
    """What is known of the last entries.

    Attributes:
        known: whether each was fraud, a byte each, oldest first: `KNOWN_FRAUD` or `KNOWN_GENUINE`.
        streak: known frauds newer than any known genuine one.
        first_ms: event time of the oldest of them, None without one.
        genuine_ms: event time of the newest known genuine one, None without one.
        plain: those of the streak whose amount was not high for their card.
        plain_ms: event time of the oldest of them, None without one.
    """

    known: bytes
    streak: int
    first_ms: int | None
    genuine_ms: int | None
    plain: int = 0
    plain_ms: int | None = None


#: More than any row holds.
_ALL = 1 << 62
_NOTHING = LabelHistory(b"", 0, None, None)


def last_amounts(row: WindowRow, after_ms: int, until_ms: int, number: int) -> list[int]:
    """Minor units of those of the last `number` entries in (after_ms, until_ms] that count, oldest first."""
    found: list[int] = []
    for entries, first, end in row.last_parts(after_ms, until_ms, number):
        found[:0] = entries.amounts(first, end)
    return found


def codes_within(row: WindowRow, after_ms: int, until_ms: int, at: int) -> list[int]:
    """One own column of those entries in (after_ms, until_ms] that count, oldest first."""
    found: list[int] = []
    for entries, first, end in row.last_parts(after_ms, until_ms, _ALL):
        found[:0] = entries.own_codes(at, first, end)
    return found


def last_labels(row: WindowRow, after_ms: int, until_ms: int, number: int) -> LabelHistory:
    """What is known of those of the last `number` entries in (after_ms, until_ms] that count."""
    if not row.knows_labels:
        return _NOTHING
    flags, times = b"", array("q")
    for entries, first, end in row.last_parts(after_ms, until_ms, number):
        flags = entries.flags(first, end) + flags
        times = entries.times[first:end] + times
    verdicts = flags.translate(WITHOUT_HIGH)
    known = verdicts.translate(None, _OTHERS)
    if not known:
        return _NOTHING
    genuine = verdicts.rfind(KNOWN_GENUINE)
    oldest = verdicts.find(KNOWN_FRAUD, genuine + 1)
    plain = flags.find(KNOWN_FRAUD, genuine + 1)
    return LabelHistory(
        known,
        verdicts.count(KNOWN_FRAUD, genuine + 1),
        None if oldest < 0 else times[oldest] >> TIME_SHIFT,
        None if genuine < 0 else times[genuine] >> TIME_SHIFT,
        flags.count(KNOWN_FRAUD, genuine + 1),
        None if plain < 0 else times[plain] >> TIME_SHIFT,
    )


def has_last(row: WindowRow, after_ms: int, until_ms: int, number: int) -> bool:
    """Whether the other two miss nothing that has left the row.

    Either nothing of (after_ms, until_ms] has left, or as many entries as are looked at are newer than all that has.
    """
    floor = row.floor_ms
    if after_ms >= floor:
        return True
    parts = row.last_parts(floor, until_ms, number)
    return sum(end - first - part.conflicts(first, end) for part, first, end in parts) >= number
