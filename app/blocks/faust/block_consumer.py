"""The consumer of blocks: one message for each fetched chunk of a partition; acknowledged, given up, and sought again.

A subclass of the aiokafka driver's of faust-streaming 0.15.3. Each override says what goes wrong without it.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, ack_lock
from mode import Service
from mode.utils.futures import notify

from app.blocks.faust.committed_offsets import CommittedOffset
from app.blocks.faust.fatal_errors import halt
from app.blocks.faust.fetch_backoff import FetchBackoff
from app.blocks.faust.fetch_thread import BlockConsumerThread
from app.blocks.faust.fetched_ranges import Chunk
from app.blocks.faust.open_transactions import OpenTransactions, UnstableTail
from app.blocks.faust.standstill import LOOK_SECONDS, LOOKS, Standstill, where
from app.blocks.faust.stop_deadlines import COMMIT_SECONDS, DRAIN_SECONDS
from app.errors import StateError

logger = logging.getLogger(__name__)

_IDLE_SLEEP_SECONDS = 0.02
#: How often to look for lost blocks.
_LOOK_SECONDS = 5.0
_POSITION_SECONDS = 1.0


class _ReadOffsets(defaultdict[TP, Any]):
    """Faust drops a message below the read offset; after a seek back that would drop whole blocks."""

    def __init__(self, sources: set[str]) -> None:
        super().__init__(lambda: None)
        self._sources = sources

    def __getitem__(self, tp: TP) -> Any:
        return None if tp.topic in self._sources else super().__getitem__(tp)


class BlockConsumer(driver.Consumer):
    """The aiokafka consumer, in blocks.

    Attributes:
        block_start: where each block source starts after a rebalance.
        records_end: offset after the last record that is done, of each block source; see `OffsetMetadata.records_end`.
        resting: sources that are not fetched for a moment.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.block_start: dict[TP, int] = {}
        self.records_end: dict[TP, int] = {}
        self.resting = FetchBackoff(time.monotonic, self._lacks, self._advance)
        self._open_transactions = OpenTransactions()
        self._alone = False
        self._look_at = 0.0
        self._overdue: dict[TP, tuple[int, int]] = {}
        self._standstill = Standstill()
        self._held: set[TP] = set()
        self._read_offset = _ReadOffsets(self.app.block_sources)

    @property
    def thread_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the thread that fetches."""
        loop: asyncio.AbstractEventLoop = self._thread.thread_loop
        return loop

    def _new_consumer_thread(self) -> BlockConsumerThread:
        return BlockConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # ------------------------------------------------------------------ fetching

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """One message a chunk for block topics, one message a record for any other."""
        await self._look_for_lost_blocks()
        records, active = await self._wait_next_records(timeout)
        # A fetch may span a rebalance and return records of either generation: no stamp taken here proves
        # anything. Dropping by stamp would lose new records; the partition checks offsets instead.
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self._seek_while_stopped()
            return
        for tp, chunk in records.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if not (active is None or tp in active or tp in self._buffered_partitions):
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if tp.topic in self.app.block_topics:
                if self._is_over(tp, chunk):
                    continue
                message = _chunk_message(tp, chunk, generation)
                if tp.topic in self.app.block_sources and self.app.flow_control.is_active():
                    # Not by way of Faust's loop: it makes two tasks a message and waits for them, which let
                    # two or three rounds of everybody's work pass between two chunks of one fetch.
                    await self.callback(message)
                else:
                    yield tp, message
                continue
            for record in chunk:
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                yield tp, self._to_message(tp, record)

    def _is_over(self, tp: TP, chunk: Chunk) -> bool:
        """Whether nobody needs a chunk."""
        pipeline = self.app.pipelines.get(tp.topic)
        if pipeline is None:
            if chunk.lost:
                logger.warning("%s/%s begins at %s, not at %s", *tp, chunk.end, chunk.begin)
            return chunk.lost
        if not pipeline.has(tp.partition, chunk.end):
            return False
        # an earlier stage of this worker has passed it on
        if self._alone:
            self.resting.begin(tp)
        # no event of Faust's, which would say after five minutes that the agent has stopped
        self.app.monitor.stream_inbound_time[tp] = time.monotonic()
        return True

    async def _look_for_lost_blocks(self) -> None:
        """Seek back where a partition waits for a record that was fetched already.

        A block that gets lost around a seek or a rebalance shows as a gap when the next one comes. Where
        nothing follows, it would be missing until something does. Looking twice tells it from a block
        that is still on its way to its agent. A log's end without records is fetched, too, so it is no such case.
        """
        now = time.monotonic()
        if now < self._look_at or not self.flow_active:
            return
        self._look_at = now + _LOOK_SECONDS
        for tp in self.block_start:  # so that it is known since when, whoever asks then
            self.unstable(tp)
        before, self._overdue = self._overdue, {}
        for tp, start in list(self.block_start.items()):
            offset = self.app.pipelines[tp.topic].awaits(tp.partition, start)
            if offset is None or tp not in self._get_active_partitions():
                continue
            try:
                position = await asyncio.wait_for(self.position(tp), _POSITION_SECONDS)
            except Exception as error:  # it is being given up: whoever gets it seeks
                logger.info("%s/%s: no position: %r", *tp, error)
                continue
            if position is None or position <= offset:
                continue
            self._overdue[tp] = (offset, position)
            if before.get(tp) == (offset, position):
                logger.info("%s/%s: no result for %s: fetching again", *tp, offset)
                await self.seek(tp, offset)

    async def _seek(self, partition: TP, offset: int) -> None:
        # Faust's moves the position in this thread, while the other may be taking the same partition's records: it has
        # ended a worker (a KeyError in the fetcher), and the position could come out wrong.
        await self._thread.seek_there(partition, offset)

    async def _seek_while_stopped(self) -> None:
        try:
            await self.perform_seek()
        except Exception as error:  # as Faust does: the next rebalance seeks again
            logger.warning("seek while stopped: %r", error)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        active = self._wanted()
        if active:
            return await self._getmany(active_partitions=active, timeout=timeout), active
        await self.sleep(_IDLE_SLEEP_SECONDS)  # Faust sleeps a whole second here
        return {}, active

    def _wanted(self) -> set[TP]:
        """The partitions to be fetched now."""
        wanted = set(self._get_active_partitions())  # Faust's own set: never change it
        for pipeline in self.app.pipelines.values():
            wanted -= pipeline.congested()
        return wanted

    @Service.task
    async def _watch_fetches(self) -> None:
        while not self.should_stop:
            await self.sleep(LOOK_SECONDS)
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look_for_standstill()
            except Exception as error:  # noqa: BLE001 -- Kafka is away: the next look asks again
                logger.info("fetch positions are not known: %r", error)

    async def _look_for_standstill(self) -> None:
        """End the worker where nothing of a partition is fetched although its leader has records."""
        wanted = self._wanted() if self.flow_active and not self.should_stop else set()
        positions = await self._thread.positions(wanted) if wanted else {}
        ends = await self._thread.ends(positions) if positions else {}
        still = self._standstill.look(positions, ends)
        for tp in still.keys() & self.assignment():
            # why it stands still is not known
            logger.error("aiokafka's fetcher: %s", await self._thread.fetcher_state(still))
            logger.error("Faust's: %s", "; ".join(map(where, self.app._fetcher._futures)))
            minutes, position = LOOKS * LOOK_SECONDS / 60, max(still[tp], 0)
            error = StateError(
                f"nothing was fetched for {minutes:g} minutes from offset {position} on, and Kafka has records up to "
                f"{ends[tp]}: the worker must be started again, which loses nothing"
            )
            halt(f"{tp.topic}/{tp.partition}", error)

    # ------------------------------------------------------------------ rebalance

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Block sources stay closed until `open_blocks`.

        Faust's recovery resumes the sources, then seeks, then clears the queues: a block that was
        fetched in between is lost, because the position is past it.
        """
        held = {tp for tp in tps if tp.topic in self.app.block_sources}
        self._held |= held
        super().resume_partitions(set(tps) - held)

    def open_blocks(self) -> None:
        """Let the held sources be fetched; called at the end of a rebalance."""
        held, self._held = self._held, set()
        super().resume_partitions(held & self.assignment())
        # with others at work, what they send would wait for the end of a rest
        ours = [tp for tp in self.assignment() if tp.topic in self.app.pipelines]
        self._alone = len(ours) == len(self.app.pipelines) * self.app.conf.topic_partitions

    def _lacks(self, tp: TP) -> bool:
        return bool(self.app.pipelines[tp.topic].lacks(tp.partition))

    def _advance(self, tp: TP) -> bool:
        """Fetch a partition from where it was computed to; whether that is further than it was fetched.

        Called in the thread that fetches, while nothing of the partition is on its way or waits to be taken.
        """
        fetcher = self._thread._consumer._fetcher
        assignment = fetcher._subscriptions.subscription.assignment
        state = None if assignment is None else assignment.state_value(tp)
        reached = self.app.pipelines[tp.topic].reached(tp.partition)
        if state is None or not state.has_valid_position or reached is None:
            return False
        if tp in fetcher._records or reached <= state.position:
            return False
        state.consumed_to(reached)
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what Faust forgets to forget."""
        # a drained queue would re-activate a partition while its table recovers
        self._buffered_partitions.clear()
        self.block_start.clear()
        self._held.clear()
        self.resting.end()
        self._alone = False
        await super().on_partitions_revoked(revoked)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets and remember where each block source starts."""
        await super().perform_seek()
        tps = [tp for tp in self.assignment() if tp.topic in self.app.block_sources]
        if not tps:
            self.block_start = {}
            return
        known = await self._thread.committed(tps)
        unknown = [tp for tp in tps if tp not in known]
        first = await self.earliest_offsets(*unknown) if unknown else {}
        # a committed offset that is below the log's start stays: the fetch from there tells what is lost
        start = {tp: self._committed_offset[tp] or first.get(tp) or 0 for tp in tps}
        # aiokafka's seek_to_committed leaves partitions without a commit where they are
        fresh = {tp: offset for tp, offset in start.items() if not self._committed_offset[tp]}
        if fresh:
            await self.seek_wait(fresh)
        self.records_end.update(
            {tp: min(known[tp].records_end, at) if tp in known else at for tp, at in start.items()}
        )
        # A seek while the flow is stopped may end after the rebalance that stopped it has begun: what is no longer
        # assigned would keep the rebalance from ending, for ever.
        assigned = self.assignment()
        starts = self.block_start | start
        self.block_start = {tp: at for tp, at in starts.items() if tp in assigned}

    def unstable(self, tp: TP) -> UnstableTail | None:
        """The open transaction that a partition waits for, as the last fetch has it."""
        consumer = self._thread._consumer
        if consumer is None or tp not in consumer.assignment():
            return None
        stable, end = consumer.last_stable_offset(tp), consumer.highwater(tp)
        return self._open_transactions.look(tp, stable, end, time.monotonic())

    async def committed_offset(self, tp: TP) -> int | None:
        """The committed offset of any partition, whoever has it; None without one."""
        found: CommittedOffset | None = (await self._thread.committed([tp])).get(tp)
        return None if found is None else found.offset

    async def wait_empty(self) -> None:
        """Give blocks in flight a bounded time, then void them: their replay changes nothing."""
        for pipeline in self.app.pipelines.values():
            pipeline.give_up_held()
        waiting = asyncio.ensure_future(self._emptied())
        done, _ = await asyncio.wait({waiting}, timeout=DRAIN_SECONDS)
        if not done:
            logger.warning("gave up blocks still in flight after %s s", DRAIN_SECONDS)
        for pipeline in self.app.pipelines.values():
            pipeline.reset()
        for message in list(self._unacked_messages):
            if message.topic in self.app.block_topics:
                self.abandon(message)
        # It ends by itself, with a commit: cancelled it would not, because Faust swallows that where it waits.
        done, _ = await asyncio.wait({waiting}, timeout=COMMIT_SECONDS)
        if done:
            waiting.result()
        else:  # Kafka is away: what is not committed is replayed
            waiting.cancel()

    async def _emptied(self) -> None:
        # Faust counts messages: it knows nothing of blocks that were passed on
        while any(pipeline.busy for pipeline in self.app.pipelines.values()):  # noqa: ASYNC110
            await asyncio.sleep(_IDLE_SLEEP_SECONDS)
        await super().wait_empty()

    # ------------------------------------------------------------------ acknowledging

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if tp.topic not in self.app.block_topics:
            await super()._add_gap(tp, offset_from, offset_to)

    def ack(self, message: Any) -> bool:
        """Faust acknowledges skipped and stale events by itself; for blocks only `finish` counts."""
        if message.topic in self.app.block_topics:
            self.abandon(message)
            return False
        return bool(super().ack(message))

    def abandon(self, message: Any) -> None:
        """The block is over without having been done: it is not committed."""
        with ack_lock:
            message.acked = True
            self._unacked_messages.discard(message)
        notify(self._waiting_for_ack)

    def finish(self, message: Any) -> None:
        """The block is done: its last offset may be committed."""
        self.abandon(message)
        # the monitor's count of active messages leaks without this call
        self.app.sensors.on_message_out(message.tp, message.offset, message)
        with ack_lock:
            self._acked[message.tp].append(message.offset)
            self._n_acked += 1

    def finish_part(self, message: Any, offset: int) -> None:
        """A part of a block is done, up to this offset, which may be committed."""
        with ack_lock:
            self._acked[message.tp].append(offset)
            self._n_acked += 1

    def _new_offset(self, tp: TP) -> int | None:
        # blocks finish in order within a partition, so the highest one counts; Faust's own bookkeeping
        # of single offsets and gaps would be wrong for chunks
        if tp.topic not in self.app.block_topics:
            offset: int | None = super()._new_offset(tp)
            return offset
        acked = self._acked[tp]
        if not acked:
            return None
        highest: int = max(acked)
        acked.clear()
        return highest + 1


def _chunk_message(tp: TP, chunk: Chunk, generation: int) -> ConsumerMessage:
    timestamp, kind = (chunk[-1].timestamp / 1000, chunk[-1].timestamp_type) if chunk else (0.0, 0)
    return ConsumerMessage(
        tp.topic, tp.partition, chunk.end - 1, timestamp, kind,
        (), b"", chunk, None, 0, 0, tp, generation_id=generation,
    )  # fmt: skip
