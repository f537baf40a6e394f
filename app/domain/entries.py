"""Transactions of one key as columns: 24 bytes each, and a window is a difference of running totals."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator

ID_BYTES = 8
#: Low bits of a stored time are flags (bit 0: the entry counts), the rest is the event time in ms.
TIME_SHIFT = 8
COUNTED = 1


class Entries:
    """Columns of consecutive entries, sorted by event time, arrival order among equals.

    Attributes:
        times: event time in ms shifted left by 8, flags in the low byte.
        totals: running total of counted minor units, this entry included, starting from `base`.
        ids: eight bytes an entry.
        base: the running total before the first entry.
        zeros: entries that do not count (late ones).
    """

    __slots__ = ("base", "ids", "times", "totals", "zeros")

    def __init__(self) -> None:
        self.times = array("q")
        self.totals = array("q")
        self.ids = bytearray()
        self.base = 0
        self.zeros = 0

    def __len__(self) -> int:
        return len(self.times)

    def insert(
        self, event_time_ms: int, minor: int, *, counted: bool, id8: bytes, start: int
    ) -> None:
        """Put one entry in its place, at index `start` or after."""
        times, totals = self.times, self.totals
        at = bisect_left(times, (event_time_ms + 1) << TIME_SHIFT, start)
        stored = event_time_ms << TIME_SHIFT
        if counted:
            stored |= COUNTED
        else:
            self.zeros += 1
            minor = 0
        before = totals[at - 1] if at else self.base
        if at == len(times):
            times.append(stored)
            totals.append(before + minor)
            self.ids += id8
            return
        times.insert(at, stored)
        totals.insert(at, before + minor)
        self.ids[at * ID_BYTES : at * ID_BYTES] = id8
        if minor:
            for index in range(at + 1, len(totals)):
                totals[index] += minor

    def window(self, low: int, high: int, start: int = 0) -> tuple[int, int]:
        """Count and total of counted entries whose stored time is in [low, high), from `start`."""
        times = self.times
        first = bisect_left(times, low, start)
        end = bisect_left(times, high, first)
        if first == end:
            return 0, 0
        count = end - first
        if self.zeros:
            count -= self.uncounted(first, end)
        return count, self.totals[end - 1] - (self.totals[first - 1] if first else self.base)

    def uncounted(self, first: int, end: int) -> int:
        """Entries in [first, end) that do not count."""
        times = self.times
        return sum(1 for index in range(first, end) if not times[index] & COUNTED)

    def newest_counted(self, high: int, start: int = 0) -> int | None:
        """Event time of the newest counted entry stored before `high`; None if there is none."""
        times = self.times
        index = bisect_left(times, high, start) - 1
        while index >= start:
            if times[index] & COUNTED:
                return times[index] >> TIME_SHIFT
            index -= 1
        return None

    def has(self, id8: bytes, start: int = 0) -> bool:
        """Whether an entry from index `start` on carries this id."""
        at = self.ids.find(id8, start * ID_BYTES)
        while at >= 0:
            if at % ID_BYTES == 0:
                return True
            at = self.ids.find(id8, at + 1)
        return False

    def split(self, at: int) -> "Entries":
        """Cut off and return the entries from index `at` on."""
        rest = Entries()
        rest.times, self.times = self.times[at:], self.times[:at]
        rest.totals, self.totals = self.totals[at:], self.totals[:at]
        rest.ids, self.ids = self.ids[at * ID_BYTES :], self.ids[: at * ID_BYTES]
        rest.base = self.totals[-1] if at else self.base
        rest.zeros = rest.uncounted(0, len(rest.times)) if self.zeros else 0
        self.zeros -= rest.zeros
        return rest

    def columns(self) -> bytes:
        """The three columns, as they are stored."""
        return b"".join((self.times.tobytes(), self.totals.tobytes(), self.ids))

    @classmethod
    def from_columns(cls, raw: bytes, offset: int, count: int) -> "Entries":
        """The opposite of `columns`."""
        entries = cls()
        width = count * ID_BYTES
        entries.times.frombytes(raw[offset : offset + width])
        entries.totals.frombytes(raw[offset + width : offset + 2 * width])
        entries.ids += raw[offset + 2 * width : offset + 3 * width]
        return entries

    def each(self, start: int = 0) -> Iterator[tuple[int, int, bool, bytes]]:
        """Every entry from index `start` on: event time in ms, minor units, counted, id hash."""
        before = self.totals[start - 1] if start else self.base
        for index in range(start, len(self)):
            stored, total = self.times[index], self.totals[index]
            id8 = bytes(self.ids[index * ID_BYTES : (index + 1) * ID_BYTES])
            yield stored >> TIME_SHIFT, total - before, bool(stored & COUNTED), id8
            before = total
