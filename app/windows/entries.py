"""Transactions of one key as columns: 24 bytes each, and a window is a difference of running totals.

Where labels are known there is a fourth column: when each entry was labelled. A card's fourth column has the amounts
of its entries that do not count; they are no part of the running totals. A deployment's own fields add a column each.
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import sub

ID_BYTES = 8
#: Low bits of a stored time are flags, the rest is the event time in ms.
TIME_SHIFT = 8
#: Flags: the entry counts for others; its label is known; the label says fraud; its amount was high for its card;
#: its id was that of an earlier transaction with another time or amount.
COUNTED, KNOWN, FRAUD, HIGH, CONFLICTING = 1, 2, 4, 8, 16
#: Minor units of an entry that does not count, where a release before this one stored it: it kept no amount.
UNKNOWN = -1
#: What the flags of an entry say that counts and whose label is known.
KNOWN_GENUINE, KNOWN_FRAUD = COUNTED | KNOWN, COUNTED | KNOWN | FRAUD
#: Takes `HIGH` out of flags, a byte each.
WITHOUT_HIGH = bytes(flags & ~HIGH for flags in range(256))
_UNLABELLED = ~(KNOWN | FRAUD)
#: Leaves only `CONFLICTING` of flags, a byte each.
_ONLY_CONFLICTING = bytes(flags & CONFLICTING for flags in range(256))
#: Where the flags stand in the eight bytes of a stored time.
_FLAGS_BYTE = 0 if sys.byteorder == "little" else 7


class Entries:
    """Columns of consecutive entries, sorted by event time, arrival order among equals.

    Attributes:
        times: event time in ms shifted left by 8, flags in the low byte.
        totals: running total of counted minor units, this entry included, starting from `base`.
        ids: eight bytes an entry.
        base: the running total before the first entry.
        zeros: entries that do not count: late and conflicting ones.
        aside: minor units of the entries that do not count, in their order; None where nobody asks for them.
        labelled: when each entry was labelled, epoch ms, 0 where it was not; None while none was.
        frauds: entries that count and are known to be fraud.
        own: columns of the deployment's own fields: a code of 64 bits per entry.
    """

    __slots__ = ("aside", "base", "frauds", "ids", "labelled", "own", "times", "totals", "zeros")

    def __init__(self, own: int = 0) -> None:
        self.times = array("q")
        self.totals = array("q")
        self.ids = bytearray()
        self.base = 0
        self.zeros = 0
        self.aside: array[int] | None = None
        self.labelled: array[int] | None = None
        self.frauds = 0
        self.own = tuple(array("q") for _ in range(own))

    def __len__(self) -> int:
        return len(self.times)

    def insert(
        self,
        event_time_ms: int,
        minor: int,
        *,
        counted: bool,
        id8: bytes,
        start: int,
        high: bool = False,
        conflicting: bool = False,
        own: Sequence[int] = (),
    ) -> None:
        """Put one entry in its place, at index `start` or after. One that conflicts does not count."""
        times, totals = self.times, self.totals
        at = bisect_left(times, (event_time_ms + 1) << TIME_SHIFT, start)
        stored = event_time_ms << TIME_SHIFT
        if high:
            stored |= HIGH
        if counted:
            stored |= COUNTED
        else:
            if conflicting:
                stored |= CONFLICTING
            if self.aside is not None:
                self.aside.insert(self.uncounted(0, at), minor)
            self.zeros += 1
            minor = 0
        if self.labelled is not None:
            self.labelled.insert(at, 0)
        if self.own:
            for column, code in zip(self.own, own, strict=True):
                column.insert(at, code)
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

    def keep_aside(self) -> None:
        """From now on, keep the amounts of entries that do not count: see `same_id`."""
        if self.aside is None:
            self.aside = array("q", [UNKNOWN]) * self.zeros

    def conflicts(self, first: int, end: int) -> int:
        """Entries in [first, end) whose id was that of another one."""
        if not self.zeros:
            return 0
        return self.flags(first, end).translate(_ONLY_CONFLICTING).count(CONFLICTING)

    def first_of(self, number: int, low: int, end: int) -> int:
        """Where the last `number` entries before `end` begin, from `low` on; conflicting ones take no place."""
        first = max(end - number, low)
        while first > low:
            found = end - first - self.conflicts(first, end)
            if found == number:
                break
            first = max(first - (number - found), low)
        return first

    def count(self, first: int, end: int) -> tuple[int, int]:
        """How many entries in [first, end) count, and how many of those are known to be fraud."""
        number = end - first
        if self.zeros:
            number -= self.uncounted(first, end)
        return number, self.known_frauds(first, end) if self.frauds else 0

    def known(self, low: int, high: int, start: int = 0) -> tuple[int, int]:
        """`count` of the entries whose stored time is in [low, high), from `start`."""
        first = bisect_left(self.times, low, start)
        return self.count(first, bisect_left(self.times, high, first))

    def known_frauds(self, first: int, end: int) -> int:
        """Entries in [first, end) that count and are known to be fraud."""
        return self.flags(first, end).translate(WITHOUT_HIGH).count(KNOWN_FRAUD)

    def amounts(self, first: int, end: int) -> list[int]:
        """Minor units of the entries in [first, end) that count, oldest first."""
        totals = self.totals
        before = (
            totals[first - 1 : end - 1] if first else array("q", (self.base,)) + totals[: end - 1]
        )
        found = list(map(sub, totals[first:end], before))
        if self.zeros:
            times = self.times
            return [one for at, one in enumerate(found, first) if times[at] & COUNTED]
        return found

    def own_codes(self, column: int, first: int, end: int) -> list[int]:
        """One own column of the entries in [first, end) that count, oldest first."""
        found = self.own[column][first:end].tolist()
        if self.zeros:
            times = self.times
            return [one for at, one in enumerate(found, first) if times[at] & COUNTED]
        return found

    def flags(self, first: int, end: int) -> bytes:
        """The flags of the entries in [first, end), a byte each."""
        return self.times[first:end].tobytes()[_FLAGS_BYTE::8]

    def find(self, low: int, high: int, id8: bytes, start: int = 0) -> int | None:
        """Index of the first entry with this id whose stored time is in [low, high), from `start`."""
        times, ids = self.times, self.ids
        for index in range(bisect_left(times, low, start), bisect_left(times, high, start)):
            if ids[index * ID_BYTES : (index + 1) * ID_BYTES] == id8:
                return index
        return None

    def label(self, index: int, *, fraud: bool, labelled_at_ms: int) -> bool:
        """Label an entry; False, and nothing changes, when it has a label of a later time."""
        if self.labelled is None:
            self.labelled = array("q", bytes(8 * len(self.times)))
        if labelled_at_ms < self.labelled[index]:
            return False
        self.labelled[index] = labelled_at_ms
        before = self.times[index]
        after = before & _UNLABELLED | KNOWN | (FRAUD if fraud else 0)
        self.times[index] = after
        if before & COUNTED:
            self.frauds += bool(after & FRAUD) - bool(before & FRAUD)
        return True

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

    def same_id(self, id8: bytes, start: int = 0) -> Iterator[tuple[int, int]]:
        """Event time in ms and minor units (or `UNKNOWN`) of the entries from index `start` on with this id."""
        at = self.ids.find(id8, start * ID_BYTES)
        while at >= 0:
            index, within = divmod(at, ID_BYTES)
            if not within:
                yield self.times[index] >> TIME_SHIFT, self._minor(index)
            at = self.ids.find(id8, at + 1)

    def _minor(self, index: int) -> int:
        if self.times[index] & COUNTED:
            return self.totals[index] - (self.totals[index - 1] if index else self.base)
        return UNKNOWN if self.aside is None else self.aside[self.uncounted(0, index)]

    def split(self, at: int) -> "Entries":
        """Cut off and return the entries from index `at` on."""
        rest = Entries()
        rest.times, self.times = self.times[at:], self.times[:at]
        rest.totals, self.totals = self.totals[at:], self.totals[:at]
        rest.ids, self.ids = self.ids[at * ID_BYTES :], self.ids[: at * ID_BYTES]
        rest.base = self.totals[-1] if at else self.base
        rest.zeros = rest.uncounted(0, len(rest.times)) if self.zeros else 0
        self.zeros -= rest.zeros
        if self.aside is not None:
            rest.aside, self.aside = (
                self.aside[self.zeros :] or None,
                self.aside[: self.zeros] or None,
            )
        if self.labelled is not None:
            rest.labelled, self.labelled = self.labelled[at:], self.labelled[:at]
            rest.frauds = rest.known_frauds(0, len(rest.times)) if self.frauds else 0
            self.frauds -= rest.frauds
        if self.own:
            rest.own = tuple(column[at:] for column in self.own)
            self.own = tuple(column[:at] for column in self.own)
        return rest

    def behind(self, *parts: bytes) -> bytes:
        """The three columns, the fourth if there is one, and own ones, as they are stored, behind other bytes.

        The fourth is `labelled` or `aside`: cards have no labels, and terminals keep nothing aside.
        """
        if self.own:
            fourth = self.labelled if self.aside is None else self.aside
            also = () if fourth is None else (fourth,)
            return b"".join((*parts, self.times, self.totals, self.ids, *also, *self.own))
        if self.labelled is not None:
            return b"".join((*parts, self.times, self.totals, self.ids, self.labelled))
        if self.aside is not None:
            return b"".join((*parts, self.times, self.totals, self.ids, self.aside))
        return b"".join((*parts, self.times, self.totals, self.ids))

    @classmethod
    def from_columns(
        cls,
        raw: bytes,
        offset: int,
        count: int,
        *,
        labelled: bool = False,
        aside: int = 0,
        own: int = 0,
    ) -> "Entries":
        """The opposite of `behind`: whether `labelled` was stored, how many `aside`, and how many columns are own."""
        entries = cls(own)
        width = count * ID_BYTES
        entries.times.frombytes(raw[offset : offset + width])
        entries.totals.frombytes(raw[offset + width : offset + 2 * width])
        entries.ids += raw[offset + 2 * width : offset + 3 * width]
        if labelled:
            entries.labelled = array("q")
            entries.labelled.frombytes(raw[offset + 3 * width : offset + 4 * width])
            entries.frauds = entries.known_frauds(0, count)
        elif aside:
            entries.aside = array("q")
            start = offset + 3 * width
            entries.aside.frombytes(raw[start : start + aside * ID_BYTES])
        if own:
            start = offset + (4 if labelled else 3) * width + aside * ID_BYTES
            for column in entries.own:
                column.frombytes(raw[start : start + width])
                start += width
        return entries

    def each(self, start: int = 0) -> Iterator[tuple[int, int, bool, bytes]]:
        """Every entry from index `start` on: event time in ms, minor units that count, counted, id hash."""
        before = self.totals[start - 1] if start else self.base
        for index in range(start, len(self)):
            stored, total = self.times[index], self.totals[index]
            id8 = bytes(self.ids[index * ID_BYTES : (index + 1) * ID_BYTES])
            yield stored >> TIME_SHIFT, total - before, bool(stored & COUNTED), id8
            before = total

    def labels(self, start: int = 0) -> Iterator[tuple[bool, int] | None]:
        """The label of every entry from index `start` on: fraud, and when it was labelled; or None."""
        for index in range(start, len(self)):
            stored = self.times[index]
            if self.labelled is None or not stored & KNOWN:
                yield None
            else:
                yield bool(stored & FRAUD), self.labelled[index]
