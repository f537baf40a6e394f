"""Open Kafka transactions: what they hold back, and for how long. A reader of committed records waits for their end."""

from collections.abc import Hashable
from typing import NamedTuple


class UnstableTail(NamedTuple):
    """What of a partition cannot be read yet.

    Attributes:
        since: the first offset of the oldest open transaction.
        offsets: how many there are from there to the log's end.
        seconds: for how long it has been seen open, at least.
    """

    since: int
    offsets: int
    seconds: float


class OpenTransactions:
    """Remembers since when each partition's last stable offset has stood still below the end of its log."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[int, float]] = {}

    def look(
        self, partition: Hashable, stable: int | None, end: int | None, now: float
    ) -> UnstableTail | None:
        """What a partition waits for.

        Args:
            partition: any name of it.
            stable: its last stable offset, None while it is not known.
            end: the end of its log, open transactions included.
            now: seconds, monotonic.
        """
        if stable is None or end is None or not 0 <= stable < end:
            self._seen.pop(partition, None)
            return None
        before = self._seen.get(partition)
        if before is None or before[0] != stable:
            before = self._seen[partition] = (stable, now)
        return UnstableTail(stable, end - stable, now - before[1])
