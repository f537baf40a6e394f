"""Keeps the partitions of some topics in step in event time while they catch up, on however many workers.

A partition computes up to `Pace.until_ms`: the position of the slowest partition that has something to do, and the
skew. One that comes to a record beyond it waits with that record, and only then does anybody look how far the
others are. In live traffic that is once in an event time of `skew_ms`: there is no timer and no message.

What travels between workers is a partition's position, as a note beside its committed offset. It says what is done,
which stays true whoever dies: a stale note holds others back a little longer, and never lets them go too early.
A partition's position is the event time of the first record whose effects are not durable, where that is known: one
that waits does not hold back those it waits for, and the slowest of all is never held.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.blocks.core.event_time_drift import Note, Standing, newer, slowest_ms, slowest_of
from app.blocks.core.partition import Partition

logger = logging.getLogger(__name__)

#: How often to look while a partition is held, and while Kafka does not answer.
_LOOK_SECONDS = 0.02
#: ... and to rest for so many times as long as a look took: with hundreds of partitions, looking every 20 ms took an
#: eighth of a worker's time, and more of the broker's.
_LOOK_REST = 4
_RETRY_SECONDS = 0.5
#: At least so long between two notes of a worker that holds nobody.
_SHARE_SECONDS = 0.05
#: A position is written down before its commit when it has moved by this part of the skew.
_SHARE_PART = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """What Kafka says of one partition.

    Attributes:
        done: the committed offset, or that of the first record without one.
        end: offset after the last record.
        note: what stands beside the committed offset.
    """

    done: int
    end: int
    note: Note


class PacePorts(Protocol):
    """What the pace asks of Kafka."""

    async def see(self, tps: Iterable[Any]) -> Mapping[Any, Seen]:
        """How far partitions are, whoever has them."""

    async def note(self, notes: Mapping[Any, tuple[int, Note]]) -> None:
        """Commit offsets of our partitions, each with a note."""


@dataclass(frozen=True, slots=True)
class Slowest:
    """The partition that the others are paused for.

    Attributes:
        tp: topic and number.
        position_ms: how far it is in event time; None while that is not known.
        why: what it does meanwhile, for people.
    """

    tp: Any
    position_ms: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far one partition is in event time.

    Attributes:
        position_ms: newest event time done; None before any.
        held_ms: event time of the record that it is paused at; None while it is not.
        ahead_ms: how far that is ahead of the slowest partition; None while it is not paused.
        slowest: whom it is paused for, as last seen; None while it is not paused.
        stalled: whether it waits for a server.
    """

    position_ms: int | None = None
    held_ms: int | None = None
    ahead_ms: int | None = None
    slowest: Slowest | None = None
    stalled: bool = False


class Pace:
    """The gate of every partition of some topics.

    Args:
        tps: all their partitions, whoever has them; tuples of topic and number.
        skew_ms: how far ahead of the slowest one a partition may run.
        ports: Kafka.

    Attributes:
        until_ms: event time up to which records may be computed now.
    """

    def __init__(self, tps: Iterable[Any], skew_ms: int, ports: PacePorts) -> None:
        self.until_ms = -math.inf
        self._tps = list(tps)
        self._topics = {topic for topic, _ in self._tps}
        self._skew_ms = skew_ms
        self._ports = ports
        self._open: dict[Any, Partition] = {}
        self._positions: dict[Any, int | None] = {}
        self._noted: dict[Any, Note] = {}
        self._slowest = -math.inf
        self._slowest_tp: Any = None
        self._watching: asyncio.Task[None] | None = None
        self._sharing: asyncio.Task[None] | None = None

    def paces(self, topic: str) -> bool:
        """Whether partitions of a topic keep in step."""
        return topic in self._topics

    def open(self, tp: Any, partition: Partition) -> None:
        """A partition starts here."""
        self._open[tp] = partition

    def close(self, tp: Any) -> None:
        """A partition is given up; what is known to be done stays known."""
        self._open.pop(tp, None)
        self._noted.pop(tp, None)

    def hold(self) -> None:
        """A partition waits: look how far the others are, until none waits any more."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    def finished(self, tp: Any, newest_ms: int | None) -> None:
        """Something of a partition is durable, of this newest event time."""
        self._positions[tp] = newer(self._positions.get(tp), newest_ms)
        self.moved(tp)

    def moved(self, tp: Any) -> None:
        """A partition has other records to do first than before."""
        if self._sharing is None and self._far(tp) and self._others():
            self._sharing = asyncio.create_task(self._share())

    def stalled(self) -> None:
        """A partition waits for a server, or no longer: others must not wait for it."""
        if self._sharing is None and self._others():
            self._sharing = asyncio.create_task(self._share())

    def note_of(self, tp: Any) -> Note:
        """What to write beside a committed offset of one of our partitions."""
        partition = self._open.get(tp)
        return Note(self._position(tp), stalled=partition is not None and partition.stalled)

    def watermark(self, tp: Any) -> Watermark:
        """How far a partition that is here has come."""
        position = self._positions.get(tp)
        partition = self._open.get(tp)
        if partition is None or not partition.held or partition.held_ms is None:
            return Watermark(position, stalled=partition is not None and partition.stalled)
        known = math.isfinite(self._slowest)
        ahead = max(0, partition.held_ms - int(self._slowest)) if known else None
        return Watermark(position, partition.held_ms, ahead, self._whom(), partition.stalled)

    def _whom(self) -> Slowest | None:
        tp = self._slowest_tp
        if tp is None:
            return None
        partition = self._open.get(tp)
        if partition is None:
            why = "another worker owns it, or it has no record yet"
        else:
            why = f"{partition.waiting} records wait, {partition.in_flight} blocks in flight"
            if partition.needs is not None:
                why += f"; it waits for {partition.needs}"
        return Slowest(tp, self._position(tp), why)

    # ------------------------------------------------------------------ looking

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
                except Exception as error:  # Kafka is away, or the group starts anew
                    logger.info("the positions of other partitions cannot be read: %r", error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                if self._held():
                    await asyncio.sleep(max(_LOOK_SECONDS, _LOOK_REST * (time() - began)))
        finally:
            self._watching = None

    async def _look(self) -> None:
        if self._others():
            await self._write_notes()
        seen = await self._ports.see(self._tps)
        for tp, one in seen.items():
            self._positions[tp] = newer(self._positions.get(tp), one.note.position_ms)
        standings = {tp: self._standing(tp, one) for tp, one in seen.items()}
        self._slowest, self._slowest_tp = slowest_ms(standings.values()), slowest_of(standings)
        self.until_ms = self._slowest + self._skew_ms
        for partition in self._open.values():
            if partition.held_ms is not None and not partition.held:
                partition.wake()

    def _standing(self, tp: Any, seen: Seen) -> Standing:
        partition = self._open.get(tp)
        done, stalled = seen.done, seen.note.stalled
        if partition is not None:
            done, stalled = max(done, partition.forwarded_offset), partition.stalled
        return Standing(self._position(tp), idle=stalled or done >= seen.end)

    def _position(self, tp: Any) -> int | None:
        position = self._positions.get(tp)
        partition = self._open.get(tp)
        return position if partition is None else newer(position, partition.next_ms)

    # ------------------------------------------------------------------ telling

    def _far(self, tp: Any) -> bool:
        """Whether others must not wait until the next commit for what they are to know of a partition."""
        partition, note = self._open.get(tp), self._noted.get(tp, Note())
        if partition is not None and partition.stalled != note.stalled:
            return True
        position, noted = self._position(tp), note.position_ms
        if position is None or noted is None:
            return position is not None
        return position - noted > self._skew_ms // _SHARE_PART

    async def _share(self) -> None:
        try:
            await self._write_notes()
            await asyncio.sleep(_SHARE_SECONDS)
            while any(map(self._far, self._open)):
                await self._write_notes()
                await asyncio.sleep(_SHARE_SECONDS)
        except Exception as error:  # the next commit carries it
            logger.info("positions could not be committed: %r", error)
        finally:
            self._sharing = None

    async def _write_notes(self) -> None:
        notes = {tp: self.note_of(tp) for tp in self._open}
        news = {tp: note for tp, note in notes.items() if note != self._noted.get(tp)}
        if not news:
            return
        await self._ports.note({tp: (self._open[tp].done_offset, n) for tp, n in news.items()})
        self._noted |= {tp: note for tp, note in news.items() if tp in self._open}


class PartitionGate:
    """The pace as one partition sees it; see `app.blocks.core.ports.Gate`."""

    def __init__(self, pace: Pace, tp: Any) -> None:
        self._pace = pace
        self._tp = tp

    @property
    def until_ms(self) -> float:
        """Event time up to which records may be computed now."""
        return self._pace.until_ms

    def hold(self) -> None:
        """The partition has come to a record beyond it."""
        self._pace.hold()

    def started(self) -> None:
        """A block is in flight, and none before it."""
        self._pace.moved(self._tp)

    def finished(self, newest_ms: int | None) -> None:
        """Something of the partition is forwarded."""
        self._pace.finished(self._tp, newest_ms)

    def stalled(self) -> None:
        """The partition waits for a server, or no longer."""
        self._pace.stalled()
