"""Joins an agent, its partitions, a table and the outputs."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

from faust.types import TP

from app.blocks.core.alignment import PartitionGate
from app.blocks.core.event_loop_turns import Pulse
from app.blocks.core.interfaces import AlignedHandler, Begun, ForwardedRecord, SentOutputs
from app.blocks.core.memory_budget import MemoryBudget
from app.blocks.core.partition import Block, Handler, Partition
from app.blocks.core.row_groups import Row
from app.blocks.core.waiting_blocks import JOINED_RECORDS, MOST_BLOCKS
from app.blocks.faust.block_app import BlockApp
from app.blocks.faust.block_table import BlockTable
from app.blocks.faust.block_topic import BlockTopic
from app.blocks.faust.early_delivery import EarlyDelivery
from app.blocks.faust.fatal_errors import halt, is_away
from app.blocks.faust.fetched_ranges import RECORD_BYTES
from app.blocks.faust.output_sender import OutputSender, PassOn
from app.errors import NotAnsweringError
from app.repeated_warnings import RepeatedWarning

logger = logging.getLogger(__name__)

#: Until a partition's state is asked about again, when Kafka did not answer.
_START_RETRY_SECONDS = 1.0


class ForwardedToken(NamedTuple):
    """Acknowledges a passed block: nobody waits for that, but for the commit."""

    tp: TP
    generation_id: int
    offset: int


class Pipeline:
    """Runs a handler over the blocks of one source topic; implements the ports of `Partition`.

    Args:
        app: the block app.
        source: the topic that the agent reads.
        handler: the work; one that stops at an event time where the app aligns the topic.
        table: where its rows live; None for a handler without rows.
        depth: blocks of one partition whose effects overlap.
        block_records: most records of a block.
        batch_bytes: largest record batch.
        waiting_bytes: memory for blocks that are not acknowledged, over all partitions; see `MemoryBudget`.
        deliver: sends outputs elsewhere than to Kafka: takes the partition and the outputs, returns
            what resolves once they are durable.
        deliver_now: the same at once, or None where something has to be waited for first; None: nothing does.
        early: delivers outputs before their records are durable; None: nothing is delivered before its record.
        on_start: called when a partition is assigned, before anything of it is fetched, with the partition and
            the offset up to which all its records are done: may append reserved rows through the table. Called
            again where Kafka does not answer.
        obtain: gets what the handler needs before it can go on (see `Computed.needs`), however long that takes.
        finished: told of the partition and of records whose effects are durable; for measurements.

    Attributes:
        records_done: records of the source topic that were computed and whose effects are durable.
        lost: by partition, offsets that were deleted from the source topic before they were read.
    """

    def __init__(
        self,
        app: BlockApp,
        source: BlockTopic,
        handler: Handler | AlignedHandler,
        *,
        table: BlockTable | None = None,
        depth: int,
        block_records: int,
        batch_bytes: int,
        waiting_bytes: int | None = None,
        deliver: Callable[[int, Any], Awaitable[Awaitable[Any] | SentOutputs]] | None = None,
        deliver_now: Callable[[int, Any], "asyncio.Future[Any] | None"] | None = None,
        early: EarlyDelivery | None = None,
        on_start: Callable[[int, int], Awaitable[None]] | None = None,
        obtain: Callable[[Hashable], Awaitable[None]] | None = None,
        finished: Callable[[int, Sequence[Any]], None] | None = None,
    ) -> None:
        (self.topic,) = source.topics
        self.app = app
        self.handler = handler
        self.table = table
        self.partitions: dict[int, Partition] = {}
        self.records_done = 0
        self.lost: Counter[int] = Counter()
        self.budget = MemoryBudget(waiting_bytes)
        self._depth = depth
        self._block_records = block_records
        self._batch_bytes = batch_bytes
        self.early = early
        self._sender = OutputSender(batch_bytes, app.pass_on, app.begin_early)
        self._deliver = deliver
        self._deliver_now = deliver_now
        self._pulse = Pulse(handler)
        self._on_start = on_start
        self._obtain = obtain
        self._finished = finished
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._resets = 0
        if self.topic in app.pipelines:
            msg = (
                f"the topic {self.topic} has a pipeline already: offsets are committed per group and topic, so a "
                "second consumer needs an app (a consumer group) of its own"
            )
            raise ValueError(msg)
        app.pipelines[self.topic] = self

    async def process(self, event: Any) -> None:
        """Take one block from the agent's stream; never waits."""
        message = event.message
        chunk = message.value
        block = Block(
            chunk, (message,), True, chunk.begin, chunk.end, size=chunk.size, lost=chunk.lost
        )
        partition = self.partitions.get(message.partition)
        if partition is None:  # of before a rebalance
            self.abandon(block)
            return
        partition.offer(block)

    def taker(self, number: int) -> PassOn | None:
        """What takes passed records of a partition; None where they have to be fetched.

        A record that an earlier stage of this worker has sent to a partition that this worker has, too, need not
        be fetched: once it is acknowledged, it is known where it stands. At a thousand transactions a second a fetch
        takes 16 ms until it brings one. Behind a backlog they are fetched, in large blocks; so are those of a
        topic whose partitions keep in step.
        """
        partition = self.partitions.get(number)
        if partition is None or partition.waiting > self._block_records or self.budget.exceeded:
            return None
        if self.app.alignment is not None and self.app.alignment.aligns(self.topic):
            return None
        return partial(self._take, number, self.app.consumer_generation_id)

    def is_next(self, number: int) -> bool:
        """Whether a record sent to a partition now is soon computed here: no backlog is on the log before it."""
        return self.taker(number) is not None and not self.lacks(number)

    def _take(self, number: int, generation: int, records: list[ForwardedRecord]) -> None:
        partition = self.partitions.get(number)
        token = ForwardedToken(TP(self.topic, number), generation, records[-1].offset)
        if partition is None or self.budget.exceeded:
            return
        size = sum([RECORD_BYTES + len(one.key or b"") + len(one.value or b"") for one in records])
        block = Block(records, (token,), size=size)
        if self.is_current(block):
            partition.offer_passed(block)

    @property
    def busy(self) -> bool:
        """Whether a block is in flight."""
        return any(partition.in_flight for partition in self.partitions.values())

    def has(self, number: int, end: int) -> bool:
        """Whether a partition has computed everything below an offset."""
        partition = self.partitions.get(number)
        return partition is not None and end <= partition.next_offset

    def reached(self, number: int) -> int | None:
        """Offset of the next record that a partition computes; None where it is not here."""
        partition = self.partitions.get(number)
        return None if partition is None else partition.next_offset

    def lacks(self, number: int) -> bool:
        """Whether a partition waits for a fetch: what was passed on does not continue what it has."""
        partition = self.partitions.get(number)
        return partition is None or partition.lacks

    def congested(self) -> set[TP]:
        """Partitions that are not fetched for now.

        Asked anew before each fetch: a remembered answer would have to be taken back wherever blocks are
        done or given up, and a partition for which that is forgotten once stands still for ever.
        """
        most = MOST_BLOCKS * self._block_records
        return {
            TP(self.topic, number)
            for number, partition in self.partitions.items()
            if partition.congested(most)
        }

    def awaits(self, number: int, start: int) -> int | None:
        """Offset of the next record that a partition without work waits for; None while it has work.

        Args:
            number: the partition.
            start: where it starts, if it has not had a block yet.
        """
        partition = self.partitions.get(number)
        if partition is None:
            return start
        return None if partition.waiting or partition.in_flight else partition.next_offset

    def recovered(self, number: int) -> bool:
        """Whether the table knows where its changelog goes on; it forgets that when a rebalance begins."""
        return self.table is None or number in self.table.changelog_next

    def open(self, number: int) -> asyncio.Task[None]:
        """Start an assigned partition: `on_start`, then its work; before anything of it is fetched.

        Not with its first block: what `on_start` binds to an offset must hold from the moment at which the worker
        calls itself ready, however long the partition is idle then, and what it refuses must be refused before.
        """
        start = self.app.consumer.block_start[TP(self.topic, number)]
        return asyncio.create_task(self._open(number, start, self._epoch()))

    def _epoch(self) -> tuple[int, int]:
        return self._resets, self.app.consumer_generation_id

    async def _open(self, number: int, start: int, epoch: tuple[int, int]) -> None:
        tp = TP(self.topic, number)
        known = self.app.consumer.records_end.get(tp, start)
        waits, reminder = self._on_start is not None, RepeatedWarning()
        while waits and epoch == self._epoch():
            waits = await self._start(number, known, epoch, reminder)
        if epoch != self._epoch() or not self.recovered(number):
            return  # what it read is not the state of whoever has the partition now
        alignment = self.app.alignment
        if alignment is not None and not alignment.aligns(self.topic):
            alignment = None
        partition = self.partitions[number] = Partition(
            number,
            self,
            self.handler,
            depth=self._depth,
            joined_records=min(self._block_records, JOINED_RECORDS),
            batch_bytes=self._batch_bytes,
            start=start,
            changelog_next=None if self.table is None else self.table.changelog_next[number],
            gate=None if alignment is None else PartitionGate(alignment, tp),
            budget=self.budget,
            pulse=self._pulse,
        )
        if alignment is not None:
            alignment.open(tp, partition)
        self._tasks[number] = asyncio.create_task(self._run(partition))

    async def _start(
        self, number: int, start: int, epoch: tuple[int, int], reminder: RepeatedWarning
    ) -> bool:
        """Call `on_start`; returns whether it is to be called again, because Kafka did not answer."""
        assert self._on_start is not None
        try:
            await self._on_start(number, start)
        except Exception as error:
            where = f"{self.topic}/{number}"
            if epoch != self._epoch():
                logger.info("%s was given up while it was opened: %r", where, error)
            elif isinstance(error, NotAnsweringError):
                if reminder.due():
                    logger.warning("%s waits: %s", where, error)
                await asyncio.sleep(_START_RETRY_SECONDS)
                return True
            elif is_away(error):
                # nothing of it is computed or acknowledged yet; rows that did land show at the next append
                if reminder.due():
                    logger.warning("%s waits for Kafka, which does not answer: %s", where, error)
                await asyncio.sleep(_START_RETRY_SECONDS)
                return True
            else:
                halt(where, error)
        return False

    async def _run(self, partition: Partition) -> None:
        try:
            await partition.run()
        except (asyncio.CancelledError, GeneratorExit):
            raise  # the second: the loop is closed, and this task goes with it
        except BaseException as error:
            if partition.closed:
                logger.info("%s/%s ended while closing: %r", self.topic, partition.number, error)
                return
            # whatever it met stands there or behind
            halt(f"{self.topic}/{partition.number} at offset {partition.done_offset}", error)

    def give_up_held(self) -> None:
        """Partitions will be revoked: what is held back must not delay that."""
        for partition in self.partitions.values():
            partition.give_up_held()

    def reset(self) -> None:
        """Partitions are revoked or the worker stops: everything in flight is void."""
        self._resets += 1
        for number, partition in self.partitions.items():
            partition.close()
            self._tasks[number].cancel()
            if self.app.alignment is not None:
                self.app.alignment.close(TP(self.topic, number))
        self.partitions.clear()
        self._tasks.clear()
        if self.early is not None:
            self.early.give_up()

    # ------------------------------------------------------------------ ports

    def hand_over(self, partition: int, outputs: Any) -> "asyncio.Future[Any] | None":
        """Hand outputs over at once, in order; None where something has to be waited for first."""
        if isinstance(outputs, Begun):
            parts = list(outputs.early)
            if outputs.rest is not None:
                rest = self.hand_over(partition, outputs.rest)
                if rest is None:
                    return None
                parts.append(rest)
            return parts[0] if len(parts) == 1 else asyncio.gather(*parts)
        if self._deliver is None:
            return self._sender.hand_over(self.app.producer._producer, outputs)
        return None if self._deliver_now is None else self._deliver_now(partition, outputs)

    async def send(self, partition: int, outputs: Any) -> Awaitable[Any] | SentOutputs:
        """As `hand_over`, once that is possible."""
        if isinstance(outputs, Begun):
            rest = () if outputs.rest is None else (await self.send(partition, outputs.rest),)
            return asyncio.gather(*outputs.early, *rest)
        if self._deliver is not None:
            return await self._deliver(partition, outputs)
        return await self._sender.send(self.app.producer._producer, outputs)

    async def account_for_loss(self, partition: int, begin: int, end: int) -> Awaitable[Any]:
        """Log and count offsets that were deleted before they were read, and send the record that accounts for them."""
        logger.error(
            "%s/%s: offsets %s to %s were deleted before they were read (retention, or DeleteRecords): up to %s "
            "records are lost", self.topic, partition, begin, end - 1, end - begin,
        )  # fmt: skip
        self.lost[partition] += end - begin
        outputs = self.app.loss_record(TP(self.topic, partition), begin, end)
        return await self._sender.send(self.app.producer._producer, outputs)

    async def committed(self, partition: int) -> int:
        """The committed offset, 0 without one."""
        return await self.app.consumer.committed_offset(TP(self.topic, partition)) or 0

    def append(self, partition: int, rows: list[Row]) -> Awaitable[int]:
        """Append rows to the table's changelog."""
        assert self.table is not None
        return self.table.append(partition, rows)

    def store(self, partition: int, rows: list[Row], changelog_offset: int) -> None:
        """Write rows into the table's store."""
        assert self.table is not None
        self.table.store(partition, rows, changelog_offset)

    def load(self, partition: int, key: bytes) -> bytes | None:
        """Read a row from the table's store."""
        assert self.table is not None
        return self.table.load(partition, key)

    def scan(self, partition: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Read rows from the table's store."""
        assert self.table is not None
        return self.table.scan(partition, prefix)

    def page(self, partition: int, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
        """Read some rows from the table's store, from a key on."""
        assert self.table is not None
        return self.table.page(partition, prefix, start)

    def finish(self, block: Block) -> None:
        """Acknowledge a block."""
        self.records_done += len(block.records)
        if self._finished is not None:
            self._finished(block.tokens[-1].tp.partition, block.records)
        consumer = self.app.consumer
        if block.records:
            consumer.records_end[block.tokens[-1].tp] = block.records[-1].offset + 1
        if not block.whole:
            consumer.finish_part(block.tokens[-1], block.end - 1)
            return
        for token in block.tokens:
            if isinstance(token, ForwardedToken):
                consumer.finish_part(token, token.offset)
            else:
                consumer.finish(token)

    def abandon(self, block: Block) -> None:
        """Give a block up; it is not committed."""
        for token in block.tokens:
            if not isinstance(token, ForwardedToken):
                self.app.consumer.abandon(token)

    async def refetch(self, partition: int, offset: int) -> None:
        """Seek the source partition back."""
        tp = TP(self.topic, partition)
        logger.info("%s/%s: fetching again from offset %s", self.topic, partition, offset)
        await self.app.consumer.seek(tp, offset)

    async def obtain(self, partition: int, needed: Hashable) -> None:
        """Return once something that the handler needs is here."""
        assert self._obtain is not None
        await self._obtain(needed)

    def is_current(self, block: Block) -> bool:
        """Whether the block is of this generation, the table is ready for it, and flow is open."""
        generation = self.app.consumer_generation_id
        return (
            all(token.generation_id == generation for token in block.tokens)
            and (self.table is None or self.table.ready_generation == generation)
            and bool(self.app.flow_control.is_active())
        )
