"""When to look again for the transaction of a parked label."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.blocks.core.rows import Row
from app.stages.parked_labels import PREFIX, offset_of, read_parked

#: A label is looked for again after a quarter of the time that it has waited, within these bounds.
_SOONEST_MS, _LATEST_MS = 200, 300_000
#: Sent a second time when its copy has not come back by then: it may have been lost with a worker.
_COPY_MS = 30_000


@dataclass(slots=True)
class ScheduledRetry:
    """One parked label.

    Attributes:
        since_ms: when the broker appended it.
        due_ms: when to look for its transaction again.
    """

    since_ms: int
    due_ms: int


@dataclass
class RetrySchedule:
    """The parked labels of one partition, by offset: those whose rows are durable.

    Attributes:
        waits: in the order of offsets.
        looked_at_ms: when one of them was looked for last; None before.
    """

    waits: dict[int, ScheduledRetry] = field(default_factory=dict)
    looked_at_ms: int | None = None

    @classmethod
    def of(cls, rows: Iterable[tuple[bytes, bytes]], now_ms: int) -> "RetrySchedule":
        """Of all rows of a partition; each is looked for at once."""
        schedule = cls()
        for key, raw in sorted(rows):
            schedule.waits[offset_of(key)] = ScheduledRetry(read_parked(raw).timestamp, now_ms)
        return schedule

    def take(self, rows: Iterable[Row], now_ms: int) -> None:
        """Rows were stored: labels were parked, or removed."""
        for key, raw in rows:
            if not key.startswith(PREFIX):
                continue
            if raw is None:
                self.waits.pop(offset_of(key), None)
            else:
                since_ms = read_parked(raw).timestamp
                self.waits.setdefault(
                    offset_of(key), ScheduledRetry(since_ms, now_ms + _SOONEST_MS)
                )

    def due(self, now_ms: int, most: int) -> list[int]:
        """Offsets of labels to look for now, the longest waiting first."""
        found = []
        for offset, wait in self.waits.items():
            if wait.due_ms <= now_ms:
                found.append(offset)
                if len(found) == most:
                    break
        return found

    def looked(self, offset: int, now_ms: int) -> None:
        """A label was looked for and is still unknown."""
        self.looked_at_ms = now_ms
        wait = self.waits.get(offset)
        if wait is not None:
            waited = now_ms - wait.since_ms
            wait.due_ms = now_ms + min(max(waited // 4, _SOONEST_MS), _LATEST_MS)

    def copied(self, offset: int, now_ms: int) -> None:
        """The copy of a label is on its way: it removes the row."""
        self.looked_at_ms = now_ms
        wait = self.waits.get(offset)
        if wait is not None:
            wait.due_ms = now_ms + _COPY_MS

    @property
    def oldest(self) -> tuple[int, int] | None:
        """Offset of the label that has waited longest, and since when; None without any."""
        for offset, wait in self.waits.items():
            return offset, wait.since_ms
        return None
