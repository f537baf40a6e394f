"""How far in event time a block is computed: partitions are aligned (`app/blocks/core/alignment.py`)."""

import math
from collections.abc import Iterable

#: So many records behind one that is too far ahead tell whether the partition is, or just that record's clock.
LOOK_AHEAD = 8


class Stretch:
    """The event times of a block, as far as it is computed.

    Args:
        until_ms: event time up to which it may be.

    Attributes:
        first_ms, newest_ms: the first event time within that, and the newest.
    """

    def __init__(self, until_ms: float) -> None:
        self.first_ms: int | None = None
        self.newest_ms: int | None = None
        self._until_ms = until_ms

    def reaches(self, event_time_ms: int, following: Iterable[int | None]) -> bool:
        """Whether a record is to be computed now.

        One that is too far ahead ends the stretch, unless most of those behind it are not: then its clock is
        wrong, and it must neither stop its partition nor count as its progress.

        Args:
            event_time_ms: its event time.
            following: event times of the records behind it, None for those without; lazily, they are rarely
                needed.
        """
        until_ms = self._until_ms
        if event_time_ms > until_ms:
            if until_ms == -math.inf:
                return False
            within = [other <= until_ms for other in following if other is not None]
            return 2 * sum(within) > len(within)
        if self.newest_ms is None:
            self.first_ms = self.newest_ms = event_time_ms
        elif event_time_ms > self.newest_ms:
            self.newest_ms = event_time_ms
        return True
