"""Aligns the partitions of some topics in event time while they catch up, across all workers.

A partition may process records up to `EventTimeAlignment.until_ms`: the event time of the slowest partition that has
unprocessed records, plus the maximum skew. A partition that reaches a later record is paused. Only then does its
worker read the positions of the other partitions from Kafka. With live traffic this happens once per maximum skew of
event time.

Workers exchange positions in the metadata of committed offsets. A position describes durable work only, so it remains
true when a worker dies: an outdated position pauses others a little longer, but never lets them go too early.
A partition's position is the event time of its first record whose effects are not durable, if that is known. So a
paused partition does not hold back those that it waits for, and the slowest partition is never paused.

Kafka does not report the end of a partition that has no leader. Its committed position still limits the others, unless
it has been processed exactly to the end that was last read: nobody can add records to it without a leader.

Kafka may lose a commit, and a commit may undo a newer one. Others would then wait for a partition at the end of its
log, which has no reason to commit again. So each worker repeats the positions of its partitions every ten seconds.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.blocks.core.offset_metadata import OffsetMetadata
from app.blocks.core.partition import Partition
from app.blocks.core.slowest_partition import PartitionPosition, newer, slowest_ms, slowest_of

logger = logging.getLogger(__name__)

#: Time between two reads of the positions while a partition is paused; `_RETRY_SECONDS` while Kafka does not answer.
_LOOK_SECONDS = 0.02
#: The time between two reads is at least this many times the duration of a read. With hundreds of partitions, a read
#: every 20 ms took an eighth of a worker's time, and more of the broker's. It has a limit, because a read may have
#: waited for the broker: after one of two seconds, nothing was computed for eight.
_LOOK_REST, _MOST_REST_SECONDS = 4, 0.5
_RETRY_SECONDS = 0.5
#: Minimum time between two extra commits of positions by a worker without a paused partition.
_SHARE_SECONDS = 0.05
#: A position is committed early once it has advanced by the maximum skew divided by this number.
_SHARE_PART = 4
#: Positions are committed again after so long, whatever was committed before.
_REPEAT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """How far one partition has been processed, as Kafka reports it.

    Attributes:
        done: the committed offset; without one, the offset of the first record.
        end: offset after the last record; None while Kafka does not report it, as for a partition without a leader.
        metadata: the committed offset's metadata.
    """

    done: int
    end: int | None
    metadata: OffsetMetadata


class AlignmentPorts(Protocol):
    """The Kafka operations that alignment needs."""

    async def read_progress(self, tps: Iterable[Any]) -> Mapping[Any, PartitionProgress]:
        """The progress of partitions, whichever worker owns them."""

    async def commit(self, positions: Mapping[Any, tuple[int, OffsetMetadata]]) -> None:
        """Commit offsets of this worker's partitions, each with its metadata."""


@dataclass(frozen=True, slots=True)
class SlowestPartition:
    """The partition that the others are paused for.

    Attributes:
        tp: topic and number.
        position_ms: its position in event time; None while that is not known.
        why: what it is doing, for people.
    """

    tp: Any
    position_ms: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Watermark:
    """The position of one partition in event time.

    Attributes:
        position_ms: newest processed event time; None before any.
        held_ms: event time of the record that it is paused at; None while it is not paused.
        ahead_ms: how far that record is ahead of the slowest partition; None while it is not paused.
        slowest: the partition that it waits for, as last read; None while it is not paused.
        stalled: whether it waits for a server.
    """

    position_ms: int | None = None
    held_ms: int | None = None
    ahead_ms: int | None = None
    slowest: SlowestPartition | None = None
    stalled: bool = False


class EventTimeAlignment:
    """Decides up to which event time each partition of some topics may be processed.

    Args:
        tps: all partitions of these topics, on any worker; tuples of topic and number.
        skew_ms: the maximum skew: how far ahead of the slowest partition the others may run.
        ports: access to Kafka.

    Attributes:
        until_ms: event time up to which records may be processed now.
    """

    def __init__(self, tps: Iterable[Any], skew_ms: int, ports: AlignmentPorts) -> None:
        self.until_ms = -math.inf
        self._tps = list(tps)
        self._topics = {topic for topic, _ in self._tps}
        self._skew_ms = skew_ms
        self._ports = ports
        self._open: dict[Any, Partition] = {}
        self._positions: dict[Any, int | None] = {}
        self._committed: dict[Any, OffsetMetadata] = {}
        self._ends: dict[Any, int] = {}
        self._unreported: set[Any] = set()
        self._slowest = -math.inf
        self._slowest_tp: Any = None
        self._watching: asyncio.Task[None] | None = None
        self._sharing: asyncio.Task[None] | None = None
        self._repeating: asyncio.TimerHandle | None = None

    def aligns(self, topic: str) -> bool:
        """Whether the partitions of a topic are aligned."""
        return topic in self._topics

    def open(self, tp: Any, partition: Partition) -> None:
        """This worker has started a partition."""
        self._open[tp] = partition
        if self._repeating is None:
            self._repeat_later()

    def close(self, tp: Any) -> None:
        """This worker has given a partition up; its last known position remains valid."""
        self._open.pop(tp, None)
        self._committed.pop(tp, None)

    def hold(self) -> None:
        """A partition is paused: read the positions of the others until none is paused."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def finished(self, tp: Any, newest_ms: int | None) -> None:
        """Some records of a partition are durable; this is their newest event time."""
        self._positions[tp] = newer(self._positions.get(tp), newest_ms)
        self.moved(tp)

    def moved(self, tp: Any) -> None:
        """The first unprocessed record of a partition is another one than before."""
        if self._sharing is None and self._far(tp) and self._others():
            self._start_sharing()

    def stalled(self) -> None:
        """A partition has begun or ended to wait for a server: others must not wait for it meanwhile."""
        if self._others():
            self._start_sharing()

    def metadata_of(self, tp: Any) -> OffsetMetadata:
        """The metadata for a committed offset of one of this worker's partitions."""
        partition = self._open.get(tp)
        return OffsetMetadata(
            self._position(tp), stalled=partition is not None and partition.stalled
        )

    def watermark(self, tp: Any) -> Watermark:
        """The position of one of this worker's partitions."""
        position = self._positions.get(tp)
        partition = self._open.get(tp)
        if partition is None or not partition.held or partition.held_ms is None:
            return Watermark(position, stalled=partition is not None and partition.stalled)
        known = math.isfinite(self._slowest)
        ahead = max(0, partition.held_ms - int(self._slowest)) if known else None
        return Watermark(position, partition.held_ms, ahead, self._whom(), partition.stalled)

    def _whom(self) -> SlowestPartition | None:
        tp = self._slowest_tp
        if tp is None:
            return None
        partition = self._open.get(tp)
        if tp in self._unreported:
            why = "Kafka does not report its end; it may have no leader"
        elif partition is None:
            why = "another worker owns it, or it has no record yet"
        else:
            why = f"{partition.waiting} records wait, {partition.in_flight} blocks in flight"
            if partition.needs is not None:
                why += f"; it waits for {partition.needs}"
        return SlowestPartition(tp, self._position(tp), why)

    # ------------------------------------------------------------------ reading the positions of others

    def _others(self) -> bool:
        return len(self._open) < len(self._tps)

    def _held(self) -> bool:
        return any(partition.held for partition in self._open.values())

    async def _watch(self) -> None:
        try:
            time = asyncio.get_running_loop().time
            while self._held():
                began = time()
                try:
                    await self._look()
                except Exception as error:  # Kafka does not answer, or the group is rebalancing
                    logger.info("the positions of other partitions cannot be read: %r", error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                if self._held():
                    rest = min(_LOOK_REST * (time() - began), _MOST_REST_SECONDS)
                    await asyncio.sleep(max(_LOOK_SECONDS, rest))
        finally:
            self._watching = None

    async def _look(self) -> None:
        if self._others():
            await self._write_metadata()
        seen = await self._ports.read_progress(self._tps)
        for tp, one in seen.items():
            self._positions[tp] = newer(self._positions.get(tp), one.metadata.position_ms)
            if one.end is not None:
                self._ends[tp] = one.end
        self._unreported = {tp for tp, one in seen.items() if one.end is None}
        standings = {tp: self._standing(tp, one) for tp, one in seen.items()}
        self._slowest, self._slowest_tp = slowest_ms(standings.values()), slowest_of(standings)
        self.until_ms = self._slowest + self._skew_ms
        for partition in self._open.values():
            if partition.held_ms is not None and not partition.held:
                partition.wake()

    def _standing(self, tp: Any, seen: PartitionProgress) -> PartitionPosition:
        partition = self._open.get(tp)
        done, stalled, end = seen.done, seen.metadata.stalled, self._ends.get(tp)
        if partition is not None:
            done, stalled = max(done, partition.forwarded_offset), partition.stalled
        if end is None:
            processed = False
        elif seen.end is None:
            # more may have been added since the end was read, and some of it is here
            processed = done == end and (partition is None or partition.next_ms is None)
        else:
            processed = done >= end
        return PartitionPosition(self._position(tp), idle=stalled or processed)

    def _position(self, tp: Any) -> int | None:
        position = self._positions.get(tp)
        partition = self._open.get(tp)
        return position if partition is None else newer(position, partition.next_ms)

    # ------------------------------------------------------------------ committing our own positions

    def _far(self, tp: Any) -> bool:
        """Whether a partition's position must be committed before the next regular commit."""
        partition, last = self._open.get(tp), self._committed.get(tp, OffsetMetadata())
        if partition is not None and partition.stalled != last.stalled:
            return True
        position, committed = self._position(tp), last.position_ms
        if position is None or committed is None:
            return position is not None
        return position - committed > self._skew_ms // _SHARE_PART

    def _start_sharing(self) -> None:
        if self._sharing is None:
            self._sharing = asyncio.create_task(self._share())

    def _repeat_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._repeating = loop.call_later(_REPEAT_SECONDS, self._repeat)

    def _repeat(self) -> None:
        self._repeating = None
        if self._open:
            self._committed.clear()
            self._start_sharing()
            self._repeat_later()

    async def _share(self) -> None:
        try:
            await self._write_metadata()
            await asyncio.sleep(_SHARE_SECONDS)
            while self._others() and any(map(self._far, self._open)):
                await self._write_metadata()
                await asyncio.sleep(_SHARE_SECONDS)
        except Exception as error:  # they are repeated
            logger.info("positions could not be committed: %r", error)
        finally:
            self._sharing = None

    async def _write_metadata(self) -> None:
        current = {tp: self.metadata_of(tp) for tp in self._open}
        changed = {tp: one for tp, one in current.items() if one != self._committed.get(tp)}
        if not changed:
            return
        await self._ports.commit(
            {tp: (self._open[tp].done_offset, one) for tp, one in changed.items()}
        )
        self._committed |= {tp: one for tp, one in changed.items() if tp in self._open}


class PartitionGate:
    """The alignment for one partition; see `app.blocks.core.interfaces.AlignmentGate`."""

    def __init__(self, alignment: EventTimeAlignment, tp: Any) -> None:
        self._alignment = alignment
        self._tp = tp

    @property
    def until_ms(self) -> float:
        """Event time up to which records may be processed now."""
        return self._alignment.until_ms

    def hold(self) -> None:
        """The partition has reached a record beyond it."""
        self._alignment.hold()

    def started(self) -> None:
        """A block is in flight, and no block before it."""
        self._alignment.moved(self._tp)

    def finished(self, newest_ms: int | None) -> None:
        """Some records of the partition are forwarded."""
        self._alignment.finished(self._tp, newest_ms)

    def stalled(self) -> None:
        """The partition has begun or ended to wait for a server."""
        self._alignment.stalled()
