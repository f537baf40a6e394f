"""Sums over windows that reach into the segments of a heavy key: as many steps for a hundred segments as for two."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import attrgetter

from app.windows.entries import Entries
from app.windows.row_format import SegmentRef

_FIRST, _LAST = attrgetter("first"), attrgetter("last")

Sums = list[tuple[int, int]]
#: Two sums over the entries of a part: from a stored time, before a stored time, from an index on.
OfPart = Callable[[Entries, int, int, int], tuple[int, int]]
ReadSegment = Callable[[SegmentRef], Entries]
AddSegments = Callable[
    ["SegmentTotals", Sequence[SegmentRef], ReadSegment, Sequence[int], int, Sums], None
]


class SegmentTotals:
    """Running totals over the segments of a row, for as long as none but its oldest changes.

    The oldest one loses an entry with nearly every event, so it is left out and added where a window holds it.

    Args:
        refs: the row's segments, oldest first.
    """

    __slots__ = ("_counted", "_frauds", "_totals")

    def __init__(self, refs: Sequence[SegmentRef]) -> None:
        newer = refs[1:]
        self._counted = [0, 0, *accumulate([ref.count - ref.zeros for ref in newer])]
        self._totals = [0, 0, *accumulate([ref.total for ref in newer])]
        self._frauds = [0, 0, *accumulate([ref.frauds for ref in newer])]

    def add_amounts(
        self,
        refs: Sequence[SegmentRef],
        read: ReadSegment,
        lows: Sequence[int],
        high: int,
        found: Sums,
    ) -> None:
        """Add number and minor units of the counted entries whose stored time is in [low, high).

        Args:
            refs: the row's segments, as given at first but for the oldest.
            read: gives a segment's entries; asked for those that a bound lies in.
            lows: where the windows begin.
            high: where they end.
            found: a window each: what is added to.
        """
        of_oldest = refs[0].count - refs[0].zeros, refs[0].total
        sums = self._counted, self._totals
        _add(refs, read, lows, high, found, sums, of_oldest, Entries.window)

    def add_verdicts(
        self,
        refs: Sequence[SegmentRef],
        read: ReadSegment,
        lows: Sequence[int],
        high: int,
        found: Sums,
    ) -> None:
        """The same: number, and those of them that are known to be fraud."""
        of_oldest = refs[0].count - refs[0].zeros, refs[0].frauds
        sums = self._counted, self._frauds
        _add(refs, read, lows, high, found, sums, of_oldest, Entries.known)


def _add(
    refs: Sequence[SegmentRef],
    read: ReadSegment,
    lows: Sequence[int],
    high: int,
    found: Sums,
    sums: tuple[list[int], list[int]],
    of_oldest: tuple[int, int],
    of_part: OfPart,
) -> None:
    # Segments are in order and share no more than a time at their bounds: a bound of a window lies in one of
    # them at most.
    numbers, others = sums
    newest = refs[-1].last
    end = len(refs) if newest < high else bisect_left(refs, high, key=_LAST)
    last = refs[end] if end < len(refs) and refs[end].first < high else None
    for index, low in enumerate(lows):
        if newest < low:
            continue
        number, other = found[index]
        first = bisect_left(refs, low, key=_FIRST)
        if first < end:
            number += numbers[end] - numbers[first]
            other += others[end] - others[first]
            if not first:
                number, other = number + of_oldest[0], other + of_oldest[1]
        parts = [last] if last is not None else []
        if first and refs[first - 1] is not last and low <= refs[first - 1].last < high:
            parts.append(refs[first - 1])
        for ref in parts:
            more = of_part(read(ref), low, high, ref.skip)
            number, other = number + more[0], other + more[1]
        found[index] = number, other
