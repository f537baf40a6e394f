"""Whether a record is within the drift limit, and so which prefix of a block may be processed now; see alignment.py."""

import math
from collections.abc import Iterable

#: Number of following records that show whether the partition is too far ahead, or only the clock of one record.
LOOK_AHEAD = 8


class BatchPrefix:
    """Decides for one record after another whether it is still in the prefix; keeps the prefix's event times.

    Args:
        until_ms: event time up to which records may be processed.

    Attributes:
        first_ms, newest_ms: the first event time in the prefix, and the newest.
    """

    def __init__(self, until_ms: float) -> None:
        self.first_ms: int | None = None
        self.newest_ms: int | None = None
        self._until_ms = until_ms

    def reaches(self, event_time_ms: int, following: Iterable[int | None]) -> bool:
        """Whether a record may be processed now.

        A record that is too far ahead ends the prefix, unless most of the records after it are within the limit: then
        its clock is wrong, and it must neither stop its partition nor count as the partition's progress.

        Args:
            event_time_ms: its event time.
            following: event times of the records after it, None for those without; lazy, because rarely needed.
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
