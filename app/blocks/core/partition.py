"""The order of effects for the blocks of one partition. No Kafka and no Faust in it: see `Ports`."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Hashable
from itertools import islice
from typing import Any

from app.blocks.core.forwarded import ForwardedPosition, InFlightBlock
from app.blocks.core.memory_budget import MemoryBudget, WaitingBlocks
from app.blocks.core.newest_rows import NewestRows
from app.blocks.core.ports import (
    AlignedHandler,
    AlignmentGate,
    Block,
    Computed,
    Handler,
    Ports,
    RowReader,
    SentOutputs,
    nothing_to_send,
)
from app.blocks.core.rows import Row, chunk_groups
from app.errors import ForeignWriterError

__all__ = ["Block", "Computed", "Handler", "Partition", "Ports", "RowReader"]

#: Blocks are joined up to so many bytes, except where one block has more.
_JOINED_BYTES = 1 << 20
#: Records in flight count so many times: they are there, and their outputs are about as large.
_IN_FLIGHT_WEIGHT = 2
#: Passed blocks that wait for a fetch of what comes before them, another worker's records; with more, those are
#: fetched, too.
_PASSED_BLOCKS = 32


class Partition(NewestRows):
    """Takes blocks of one partition, finishes them in order.

    Args:
        number: the partition.
        ports: the effects.
        handler: the work.
        depth: blocks whose effects overlap.
        joined_records: blocks that wait are joined up to so many records.
        batch_bytes: largest changelog batch.
        start: offset at which the partition starts, from the committed offset.
        changelog_next: offset at which our next changelog record must land; None without a table.
        gate: holds this partition back while it is ahead of others; None: never.
        budget: what blocks may take in memory, shared with other partitions; None: as much as they like.

    Attributes:
        next_offset: offset of the next record to compute.
        done_offset: offset after the last record whose effects are durable.
        records_done: records that were computed and whose effects are durable.
        held_ms: event time of the next record, while that is too far ahead.
        needs: what has to be obtained before the next record can be computed; None: nothing.
    """

    def __init__(
        self,
        number: int,
        ports: Ports,
        handler: Handler | AlignedHandler,
        *,
        depth: int,
        joined_records: int,
        batch_bytes: int,
        start: int,
        changelog_next: int | None = None,
        gate: AlignmentGate | None = None,
        budget: MemoryBudget | None = None,
    ) -> None:
        self.number = number
        self.next_offset = self.done_offset = start
        self.held_ms: int | None = None
        self.needs: Hashable | None = None
        self.changelog_next = changelog_next
        self.closed = False
        self.records_done = 0
        self.memo: dict[str, Any] = {}
        self._ports = ports
        self._handler: Any = handler
        self._prepare: Any = getattr(handler, "prepare", None)
        self._gate = gate
        self._depth = depth
        self._joined_records = joined_records
        self._batch_bytes = batch_bytes
        self._budget = budget or MemoryBudget(None)
        self._inbox = WaitingBlocks(self._budget)
        self._passed: dict[int, Block] = {}
        self._steps: deque[InFlightBlock] = deque()
        self._forwarded = ForwardedPosition(self._steps, start, gate)
        self._overlay: dict[bytes, tuple[int, bytes | None]] = {}
        self._number = 0
        self._news = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Records that are here and not computed yet."""
        return self._inbox.records

    def congested(self, most: int) -> bool:
        """Whether it should not be fetched for now: it has enough, or waits for others, or memory is used up.

        What others have used up does not count where nothing of this one is here.

        Args:
            most: records that may wait.
        """
        here = bool(self._inbox or self._steps)
        waits = self.held or self.needs is not None
        return waits or self.waiting > most or (here and self._budget.exceeded)

    @property
    def in_flight(self) -> int:
        """Blocks that are computed and not finished."""
        return len(self._steps)

    def offer(self, block: Block) -> None:
        """Take a block that was fetched; never waits."""
        self._inbox.append(block)
        self._join_passed()
        self._news.set()

    def offer_passed(self, block: Block) -> None:
        """Take a block of which an earlier stage of this worker knows where it stands in the log; never waits.

        It may come before what precedes it, and again when it is fetched. Nothing depends on it: one that is
        dropped is fetched.
        """
        if self.closed or block.end <= self.next_offset:
            return
        if len(self._passed) >= _PASSED_BLOCKS:
            self._drop_passed()
        self._drop_passed(block.begin)
        self._budget.add(block.size)
        self._passed[block.begin] = block
        self._join_passed()
        self._news.set()

    @property
    def lacks(self) -> bool:
        """Whether passed blocks wait for what comes before them."""
        return bool(self._passed)

    def _join_passed(self) -> None:
        """Put passed blocks behind the others, as far as they continue them."""
        while self._passed:
            begin = min(self._passed)
            end = max((block.end for block in self._inbox), default=self.next_offset)
            if begin > end:
                return
            block = self._passed[begin]
            self._drop_passed(begin)
            if block.end <= end:  # fetched by now
                continue
            if begin < end:
                block = block.part(
                    [record for record in block.records if record.offset >= end], end, block.end
                )
            self._inbox.append(block)

    def _drop_passed(self, begin: int | None = None) -> None:
        """Forget the passed block that begins there, or all."""
        for key in list(self._passed) if begin is None else (begin,):
            block = self._passed.pop(key, None)
            if block is not None:
                self._budget.add(-block.size)

    @property
    def next_ms(self) -> int | None:
        """Event time of the first record that is not forwarded; None where it is not known."""
        return self._forwarded.first_ms(self.held_ms)

    @property
    def forwarded_offset(self) -> int:
        """Offset after the last record whose outputs later stages have; no lower than `done_offset`."""
        return self._forwarded.offset

    @property
    def stalled(self) -> bool:
        """Whether a server keeps it from finishing what is forwarded: other partitions do not wait for it."""
        return self._forwarded.stalled

    @property
    def held(self) -> bool:
        """Whether its next record is beyond what the gate lets through."""
        return (
            self.held_ms is not None
            and self._gate is not None
            and self.held_ms > self._gate.until_ms
        )

    def wake(self) -> None:
        """The gate may let more through."""
        self._news.set()

    def give_up_held(self) -> None:
        """The partition will be revoked: blocks that are held back would only delay that."""
        if self.held_ms is None and self.needs is None:
            return
        for block in self._inbox:
            self._ports.abandon(block)
        self._inbox.clear()
        self.held_ms = None

    def close(self) -> None:
        """The partition is revoked: what is in flight is void, its rows prove nothing."""
        self.closed = True
        for block in self._inbox:
            self._ports.abandon(block)
        for step in self._steps:
            self._ports.abandon(step.block)
            self._budget.add(-_IN_FLIGHT_WEIGHT * step.block.size)
            # rows that the sink holds would wait out an outage, to be written beside the next owner's
            if step.durable is not None:
                step.durable.cancel()
        self._inbox.clear()
        self._drop_passed()
        self._steps.clear()
        self._overlay.clear()
        self.memo.clear()
        self._news.set()

    async def run(self) -> None:
        """Work until closed. Two tasks: one computes and sends, one makes rows durable and acknowledges.

        Raises:
            ForeignWriterError: another worker wrote this partition's changelog.
            Exception: any error of the ports or the handler; nothing unfinished was acknowledged.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._compute_and_send())
            group.create_task(self._settle())

    async def _changed(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def _compute_and_send(self) -> None:
        while not self.closed:
            if self.needs is not None:  # blocks in flight become durable meanwhile
                await self._ports.obtain(self.number, self.needs)
                self.needs = None
                continue
            if not self._inbox or self._has_enough_in_flight() or self.held:
                await self._changed()
                continue
            until_ms = math.inf if self._gate is None else self._gate.until_ms
            block = self._next_block()
            if self._prepare is not None and not await self._prepared(block, until_ms):
                continue
            step = await self._admit(block, until_ms)
            if step is None:
                continue
            # outputs of later blocks go out while earlier ones wait to be durable
            sent = await self._send(step)
            if isinstance(sent, SentOutputs):
                self._forwarded.expect(step, sent)
                sent = sent.durable
            step.durable = asyncio.ensure_future(sent)
            self._news.set()

    async def _prepared(self, block: Block, until_ms: float) -> bool:
        """Let the handler prepare for a block; False where the block was given up meanwhile."""
        inbox = self._inbox
        inbox.appendleft(block)  # it stays among those that wait
        await self._prepare(self.number, block.records, self, until_ms)
        if not inbox or inbox[0] is not block:
            return False
        inbox.popleft()
        return True

    def _has_enough_in_flight(self) -> bool:
        """One block may always be in flight, more of them as long as the budget has room for what they add."""
        in_flight = len(self._steps)
        return in_flight >= self._depth or (in_flight > 0 and self._budget.exceeded)

    async def _send(self, step: InFlightBlock) -> Awaitable[Any] | SentOutputs:
        block = step.block
        if block.lost:
            # whoever was stopped while others took its partitions over must not call lost what they have done
            begin = max(block.begin, await self._ports.committed(self.number))
            if begin >= block.end:
                return nothing_to_send()
            return await self._ports.account_for_loss(self.number, begin, block.end)
        if block.records:
            return await self._ports.send(self.number, step.computed.outputs)
        step.forwarded = True
        return nothing_to_send()

    def _next_block(self) -> Block:
        """The next block, and what follows it without a gap, as one.

        A block costs about a millisecond however few records it has: single ones, come while others were
        computed, would cost a millisecond each.
        """
        block = self._inbox.popleft()
        # a stale block must not take one with it that is current
        if not self._inbox or block.lost or not self._ports.is_current(block):
            return block
        records, tokens = list(block.records), list(block.tokens)
        end, size = block.end, block.size
        while self._inbox:
            follower = self._inbox[0]
            if follower.begin != end or follower.lost:
                break
            if len(follower.records) > self._joined_records - len(records):
                break
            if size + follower.size > _JOINED_BYTES or not self._ports.is_current(follower):
                break
            self._inbox.popleft()
            records += follower.records
            tokens += follower.tokens
            end, size = follower.end, size + follower.size
        return Block(records, tuple(tokens), True, block.begin, end, size)

    async def _admit(self, block: Block, until_ms: float) -> InFlightBlock | None:
        """Check that the block continues where the last one ended, compute, put rows on the overlay."""
        if not self._ports.is_current(block):
            self._ports.abandon(block)
            return None
        if block.begin > self.next_offset:  # something between them got lost on its way here
            self._ports.abandon(block)
            while self._inbox:  # they follow the gap: they come again
                self._ports.abandon(self._inbox.popleft())
            await self._ports.refetch(self.number, self.next_offset)
            return None
        if block.end <= self.next_offset:  # fetched again after a seek, taken already
            self._ports.abandon(block)
            return None
        if block.begin < self.next_offset:
            records = [record for record in block.records if record.offset >= self.next_offset]
            block = block.part(records, self.next_offset, block.end)
        cut = self._compute(block, until_ms)
        if cut is None:
            return None
        block, computed = cut
        self.next_offset = block.end
        self._number += 1
        step = InFlightBlock(block, computed, self._number)
        for rows in computed.groups:
            for key, raw in rows:
                self._overlay[key] = (self._number, raw)
        self._steps.append(step)
        self._budget.add(_IN_FLIGHT_WEIGHT * block.size)
        if self._gate is not None and len(self._steps) == 1:
            self._gate.started()
        if not block.whole:  # only now: what stands before the record that waits is not durable
            self._wait(computed)
        return step

    def _compute(self, block: Block, until_ms: float) -> tuple[Block, Computed] | None:
        """Compute as much of a block as can be now; the rest goes back, to come next."""
        self.held_ms = None
        records = block.records
        if not records:  # transaction markers and the like
            return block, Computed()
        until = () if self._gate is None else (until_ms,)
        computed: Computed = self._handler.compute(self.number, records, self, *until)
        if computed.taken is None:
            return block, computed
        rest = records[computed.taken :]
        cut = rest[0].offset
        self._inbox.appendleft(block.part(rest, cut, block.end))
        if not computed.taken:
            self.next_offset = cut  # there is no record before it
            self._wait(computed)
            return None
        return block.part(records[: computed.taken], block.begin, cut, whole=False), computed

    def _wait(self, computed: Computed) -> None:
        """The next record is too far ahead in event time, or cannot be read before something is here."""
        self.needs = computed.needs
        if computed.next_ms is not None:
            assert self._gate is not None
            self.held_ms = computed.next_ms
            self._gate.hold()

    async def _settle(self) -> None:
        while not self.closed:
            step = self._steps[0] if self._steps else None
            if step is None or step.durable is None:
                await self._changed()
                continue
            await step.durable  # (2)
            if self.closed:  # while it was waited for: there are no steps any more
                return
            # Whatever became durable meanwhile goes along: with an append for each block, a partition could
            # finish one block a round trip, and waited for that at a thousand transactions a second.
            steps = self._durable_steps()
            groups = [rows for step in steps for rows in step.computed.groups]
            for chunk in chunk_groups(groups, self._batch_bytes):
                if self.closed:
                    return
                await self._append_and_store(chunk)
            if self.closed:
                return
            self._finish(steps)

    def _durable_steps(self) -> list[InFlightBlock]:
        """The first blocks in flight, as far as their outputs are durable; the first one's are."""
        steps = [self._steps[0]]
        for step in islice(self._steps, 1, None):
            durable = step.durable
            if durable is None or not durable.done() or durable.cancelled() or durable.exception():
                break
            steps.append(step)
        return steps

    def _finish(self, steps: list[InFlightBlock]) -> None:
        newest = steps[-1].number
        for step in steps:
            for rows in step.computed.groups:
                for key, _ in rows:
                    kept = self._overlay.get(key)
                    if kept is not None and kept[0] <= newest:
                        del self._overlay[key]
            self._steps.popleft()
            self._budget.add(-_IN_FLIGHT_WEIGHT * step.block.size)
            self.records_done += len(step.block.records)
            self.done_offset = step.block.end
            self._ports.finish(step.block)  # (5)
            self._forwarded.advance(step)
        self._forwarded.finished()
        self._news.set()

    async def _append_and_store(self, chunk: list[Row]) -> None:
        assert self.changelog_next is not None, "rows need a table"
        base = await self._ports.append(self.number, chunk)  # (3)
        if base != self.changelog_next:
            msg = (
                f"changelog of partition {self.number} continued at {base}, expected "
                f"{self.changelog_next}: another worker wrote it (stopped and continued?)"
            )
            raise ForeignWriterError(msg)
        self.changelog_next = base + len(chunk)
        if not self.closed:
            self._ports.store(self.number, chunk, base + len(chunk) - 1)  # (4)
