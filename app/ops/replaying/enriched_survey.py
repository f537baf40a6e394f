"""What stands on `enriched`: which transactions the live stream scored, and in which order at their terminals.

The order within `enriched` is the truth for terminals and labels, and what stands there has been decided: it is
neither dead nor moved nor a duplicate. A replay takes both as they are; why so is told in
docs/adr/0013-a-replay-follows-the-live-order.md.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.domain.prediction_flags import CONFLICTING
from app.errors import UsageError
from app.ops.replaying.look_back_bounds import ReplayRange
from app.wire.control_records import ChangeMessage, decode_message
from app.wire.enriched_records import EnrichedBatch
from app.wire.erase_records import EraseMessage

_NEVER = -(1 << 62)


@dataclass
class _Messages:
    """The messages of one partition of `enriched`.

    Attributes:
        offsets: where each stands.
        newest_ms: newest event time in it.
        sources: partition of `transactions` that its items come from, -1 for labels.
        tops: highest source offset in it.
        asked: whether something in it is asked for.
    """

    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    newest_ms: "array[int]" = field(default_factory=lambda: array("q"))
    sources: "array[int]" = field(default_factory=lambda: array("i"))
    tops: "array[int]" = field(default_factory=lambda: array("q"))
    asked: bytearray = field(default_factory=bytearray)

    def last_asked(self) -> int | None:
        """Number of the last message in which something is asked for."""
        found = self.asked.rfind(1)
        return None if found < 0 else found

    def top(self, source: int) -> int:
        """Highest offset of one source partition up to the last message that is asked for; -1 without any."""
        last = self.last_asked()
        if last is None:
            return -1
        its = np.frombuffer(self.sources, np.int32)[: last + 1] == source
        tops = np.frombuffer(self.tops, np.int64)[: last + 1][its]
        return int(tops.max()) if len(tops) else -1


@dataclass
class _Items:
    """The transactions of one source partition: offset and event time, in the order in which they were met."""

    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    times_ms: "array[int]" = field(default_factory=lambda: array("q"))
    conflicting: list[int] = field(default_factory=list)


class EnrichedSurvey:
    """Sixteen bytes for each transaction on `enriched`, and some for each message.

    Args:
        asked: what is asked for.
        partitions: of `transactions` and `enriched`.
    """

    def __init__(self, asked: ReplayRange, partitions: int) -> None:
        self._asked = asked
        self._messages = [_Messages() for _ in range(partitions)]
        self._items = [_Items() for _ in range(partitions)]
        self._changes: list[list[tuple[int, int, int]]] = [[] for _ in range(partitions)]
        self._oldest_asked_ms: int | None = None

    def take(self, partition: int, records: Iterable[Any]) -> None:
        """Messages of one partition of `enriched`, in order."""
        messages, asked = self._messages[partition], self._asked
        for record in records:
            batch = decode_message(record.value)
            if isinstance(batch, ChangeMessage):
                self._changes[partition].append((record.offset, batch.partition, batch.offset))
                continue
            if isinstance(batch, EraseMessage):
                continue
            newest, wanted, source, top = _NEVER, False, -1, -1
            if isinstance(batch, EnrichedBatch):
                source = batch.partition
                items = self._items[source]
                top = max(item.offset for item in batch.items)
                for item in batch.items:
                    time_ms = item.event_time_ms
                    items.offsets.append(item.offset)
                    items.times_ms.append(time_ms)
                    if CONFLICTING in item.flags:
                        items.conflicting.append(item.offset)
                    newest = max(newest, time_ms)
                    if (source, item.offset, time_ms) in asked:
                        wanted = True
                        if self._oldest_asked_ms is None or time_ms < self._oldest_asked_ms:
                            self._oldest_asked_ms = time_ms
            else:
                newest = max(item.event_time_ms for item in batch.items)
            messages.sources.append(source)
            messages.tops.append(top)
            messages.offsets.append(record.offset)
            messages.newest_ms.append(newest)
            messages.asked.append(wanted)

    @property
    def from_ms(self) -> int:
        """Event time of the first transaction that is asked for.

        Raises:
            UsageError: none is.
        """
        if self._oldest_asked_ms is None:
            end = self._asked.end
            msg = (
                f"no scored transaction is between --from {self._asked.begin.text} and "
                f"--to {end.text if end else 'the end'}"
            )
            raise UsageError(msg)
        return self._oldest_asked_ms if self._asked.from_ms is None else self._asked.from_ms

    def changes(self, partition: int, begin: int, end: int) -> set[tuple[int, int]]:
        """Partition and offset on `control` of the changes within offsets of `enriched`, the last one not included."""
        found = self._changes[partition]
        return {(number, place) for at, number, place in found if begin <= at < end}

    def first_change(self, partition: int, offset: int) -> tuple[int, int] | None:
        """Partition and offset on `control` of the first change from an offset of `enriched` on; None without any."""
        changes = self._changes[partition]
        return next(((number, place) for at, number, place in changes if at >= offset), None)

    def messages(self, partition: int, reach_ms: int) -> tuple[int, int]:
        """Which part of a partition of `enriched` has to be read.

        Args:
            partition: its number.
            reach_ms: event time from which on something decides a feature.

        Returns:
            Offsets, the second one not included; equal ones where nothing is asked for.
        """
        messages = self._messages[partition]
        last = messages.last_asked()
        if last is None:
            return 0, 0
        first = int(np.flatnonzero(np.frombuffer(messages.newest_ms, np.int64) >= reach_ms)[0])
        return messages.offsets[first], messages.offsets[last] + 1

    def sources(self, partition: int, reach_ms: int) -> "SourceRecords":
        """Which records of a partition of `transactions` have to be read, and which of them are scored.

        Args:
            partition: its number.
            reach_ms: event time from which on something decides a feature of a card.
        """
        items = self._items[partition]
        offsets = np.frombuffer(items.offsets, np.int64)
        times_ms = np.frombuffer(items.times_ms, np.int64)
        if not len(offsets):
            return SourceRecords(0, np.zeros(0, np.bool_), np.zeros(0, np.bool_))
        # what is not asked for itself may stand at its terminal before what is
        end = 1 + max(messages.top(partition) for messages in self._messages)
        within = (times_ms >= reach_ms) & (offsets < end)
        if not within.any():
            return SourceRecords(end, np.zeros(0, np.bool_), np.zeros(0, np.bool_))
        begin = int(offsets[within].min())
        placed, asked = (np.zeros(end - begin, np.bool_) for _ in range(2))
        inside = (offsets >= begin) & (offsets < end)
        placed[offsets[inside] - begin] = True
        mask = self._asked.mask(partition, offsets, times_ms)
        asked[offsets[mask] - begin] = True
        return SourceRecords(begin, placed, asked, frozenset(items.conflicting))


@dataclass(frozen=True)
class SourceRecords:
    """Records of one partition of `transactions`, by offset from `begin` on.

    Attributes:
        begin: offset of the first one.
        placed: whether the record stands on `enriched`.
        asked: whether it is asked for.
        conflicting: offsets of those that were found to conflict with an earlier one, which may not be read.
    """

    begin: int
    placed: np.ndarray
    asked: np.ndarray
    conflicting: frozenset[int] = frozenset()

    @property
    def end(self) -> int:
        """The offset after the last one."""
        return self.begin + len(self.placed)
