"""When to look up the transaction of a parked label again."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from app.blocks.core.row_groups import Row
from app.stages.parked_labels import PREFIX, offset_of, read_parked

#: A label is looked up again after a quarter of the time that it has waited, within these bounds.
_SOONEST_MS, _LATEST_MS = 200, 300_000
#: A copy is sent again if it has not come back by then: it may have been lost with a worker.
_COPY_MS = 30_000


@dataclass(slots=True)
class ScheduledRetry:
    """One parked label.

    Attributes:
        since_ms: when the broker appended it.
        due_ms: when to look up its transaction again.
    """

    since_ms: int
    due_ms: int


@dataclass
class RetrySchedule:
    """The parked labels of one partition whose rows are durable, by offset.

    Attributes:
        waits: in the order of offsets.
        looked_at_ms: time of the last look-up; None before the first one.
    """

    waits: dict[int, ScheduledRetry] = field(default_factory=dict)
    looked_at_ms: int | None = None

    @classmethod
    def of(cls, rows: Iterable[tuple[bytes, bytes]], now_ms: int) -> "RetrySchedule":
        """The schedule for all rows of a partition; each label is looked up at once."""
        schedule = cls()
        for key, raw in sorted(rows):
            schedule.waits[offset_of(key)] = ScheduledRetry(read_parked(raw).timestamp, now_ms)
        return schedule

    def take(self, rows: Iterable[Row], now_ms: int) -> None:
        """Update the schedule after rows were stored: labels were parked, or removed."""
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
        """Offsets of labels to look up now, the one that has waited longest first."""
        found = []
        for offset, wait in self.waits.items():
            if wait.due_ms <= now_ms:
                found.append(offset)
                if len(found) == most:
                    break
        return found

    def looked(self, offset: int, now_ms: int) -> None:
        """A label was looked up, and its transaction is still unknown."""
        self.looked_at_ms = now_ms
        wait = self.waits.get(offset)
        if wait is not None:
            waited = now_ms - wait.since_ms
            wait.due_ms = now_ms + min(max(waited // 4, _SOONEST_MS), _LATEST_MS)

    def copied(self, offset: int, now_ms: int) -> None:
        """The copy of a label was sent: it will remove the row."""
        self.looked_at_ms = now_ms
        wait = self.waits.get(offset)
        if wait is not None:
            wait.due_ms = now_ms + _COPY_MS

    @property
    def oldest(self) -> tuple[int, int] | None:
        """Offset of the label that has waited longest, and the start of its wait; None if there are none."""
        for offset, wait in self.waits.items():
            return offset, wait.since_ms
        return None
