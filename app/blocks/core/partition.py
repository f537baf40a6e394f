"""The order of effects for the blocks of one partition. No Kafka and no Faust in it: see `Ports`."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Hashable
from typing import Any

from app.blocks.core.alignment_position import ForwardedPosition, InFlightBlock
from app.blocks.core.event_loop_turns import Pulse
from app.blocks.core.interfaces import (
    AlignedHandler,
    AlignmentGate,
    Block,
    Computed,
    Handler,
    Ports,
    RowReader,
    SentOutputs,
    Work,
    nothing_to_send,
    wake_when_done,
)
from app.blocks.core.memory_budget import IN_FLIGHT_WEIGHT, MemoryBudget
from app.blocks.core.order_of_effects import Settling
from app.blocks.core.rows_in_flight import NewestRows
from app.blocks.core.waiting_blocks import ForwardedBlocks, WaitingBlocks
from app.blocks.core.waiting_task import WaitingTask

__all__ = ["Block", "Computed", "Handler", "Partition", "Ports", "RowReader"]


class Partition(NewestRows):
    """Takes blocks of one partition, finishes them in order.

    Args:
        number: the partition.
        ports: the effects.
        handler: the work; the one of the pulse, where there is one.
        depth: blocks whose effects overlap.
        joined_records: blocks that wait are joined up to so many records.
        batch_bytes: largest changelog batch.
        start: offset at which the partition starts, from the committed offset.
        changelog_next: see the attribute.
        gate: holds this partition back while it is ahead of others; None: never.
        budget: what blocks may take in memory, shared with other partitions; None: as much as they like.
        pulse: does the work of all partitions of a stage; None: this one has its own.

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
        pulse: Pulse | None = None,
    ) -> None:
        self.number = number
        self.next_offset = self.done_offset = start
        self.held_ms: int | None = None
        self.needs: Hashable | None = None
        self.closed = False
        self.records_done = 0
        self.memo: dict[str, Any] = {}
        self._ports = ports
        self._prepare: Any = getattr(handler, "prepare", None)
        self._gate = gate
        self._depth = depth
        self._joined_records = joined_records
        self._budget = budget or MemoryBudget(None)
        self._inbox = WaitingBlocks(self._budget)
        self._passed = ForwardedBlocks(self._budget)
        self._steps: deque[InFlightBlock] = deque()
        self._forwarded = ForwardedPosition(self._steps, start, gate)
        self._overlay: dict[bytes, tuple[int, bytes | None]] = {}
        self._number = 0
        self._pulse = pulse or Pulse(handler)
        self._prepared: tuple[Block, float] | None = None
        self._begun: Block | None = None
        self._ended: asyncio.Future[None] | None = None
        self._waiting_task = WaitingTask(self.wake, self.fail)
        self._settling = Settling(
            number,
            ports,
            self._steps,
            batch_bytes,
            changelog_next,
            wake=self.wake,
            finish=self._finish,
        )

    @property
    def changelog_next(self) -> int | None:
        """Offset at which our next changelog record must land; None without a table."""
        return self._settling.changelog_next

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
        self.wake()

    def offer_passed(self, block: Block) -> None:
        """Take a block of which an earlier stage of this worker knows where it stands in the log; never waits.

        It may come before what precedes it, and again when it is fetched. Nothing depends on it: one that is
        dropped is fetched.
        """
        if self.closed or block.end <= self.next_offset:
            return
        self._passed.put(block)
        self._join_passed()
        self.wake()

    def _join_passed(self) -> None:
        """Put passed blocks behind the others, as far as they continue them."""
        while self._passed:
            begin = self._passed.first
            end = max((block.end for block in self._inbox), default=self.next_offset)
            if begin > end:
                return
            block = self._passed.pop(begin)
            if block.end <= end:  # fetched by now
                continue
            if begin < end:
                block = block.part(
                    [record for record in block.records if record.offset >= end], end, block.end
                )
            self._inbox.append(block)

    @property
    def lacks(self) -> bool:
        """Whether passed blocks wait for what comes before them."""
        return bool(self._passed)

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
        """There may be something to do: a block or an acknowledgement has come, or the gate lets more through."""
        if self._runs:
            self._pulse.wake(self)

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
            self._budget.add(-IN_FLIGHT_WEIGHT * step.block.size)
            # rows that the sink holds would wait out an outage, to be written beside the next owner's
            if step.durable is not None:
                step.durable.cancel()
        self._inbox.clear()
        self._passed.clear()
        self._steps.clear()
        self._settling.clear()
        self._overlay.clear()
        self.memo.clear()
        if self._runs:
            assert self._ended is not None
            self._ended.set_result(None)

    async def run(self) -> None:
        """Work until closed: the pulse does it, and what has to wait does so in a task of its own.

        Raises:
            ForeignWriterError: another worker wrote this partition's changelog.
            Exception: any error of the ports or the handler; nothing unfinished was acknowledged.
        """
        if self.closed:
            return
        self._ended = asyncio.get_running_loop().create_future()
        self.wake()
        try:
            await self._ended
        finally:
            self._waiting_task.cancel()

    def fail(self, error: BaseException) -> None:
        """No more of it is done: `run` raises the error."""
        if self._ended is not None and not self._ended.done():
            if isinstance(error, StopIteration):  # a future refuses it
                error = RuntimeError(f"{error!r} where nothing was iterated")
            self._ended.set_exception(error)

    @property
    def _runs(self) -> bool:
        return self._ended is not None and not self._ended.done()

    # ------------------------------------------------------------------ (1) computing

    def next_work(self) -> Work | None:
        """The next block, if it can be computed now; never waits."""
        if not self._runs or self._waiting_task.runs:
            return None
        if self.needs is not None:  # blocks in flight become durable meanwhile
            self._waiting_task.start(self._obtain(self.needs))
            return None
        if not self._inbox or self._has_enough_in_flight() or self.held:
            return None
        found = self._next_block()
        if found is None:
            return None
        work = self._begin(*found)
        if self._inbox:
            self.wake()
        return work

    async def _obtain(self, needed: Hashable) -> None:
        await self._ports.obtain(self.number, needed)
        self.needs = None

    def _has_enough_in_flight(self) -> bool:
        """One block may always be in flight, more of them as long as the budget has room for what they add."""
        in_flight = len(self._steps)
        return in_flight >= self._depth or (in_flight > 0 and self._budget.exceeded)

    def _next_block(self) -> tuple[Block, float] | None:
        """The next block, and the event time up to which it may be computed; None while it is prepared."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and self._inbox[0] is prepared[0]:
            self._inbox.popleft()
            return prepared
        until_ms = math.inf if self._gate is None else self._gate.until_ms
        block = self._inbox.next(self._joined_records, self._ports.is_current)
        if self._prepare is not None:
            preparing = self._prepare(self.number, block.records, self, until_ms)
            if preparing is not None:
                self._inbox.appendleft(block)  # it stays among those that wait
                self._prepared = block, until_ms  # once the task is over
                self._waiting_task.start(preparing)
                return None
        return block, until_ms

    def _begin(self, block: Block, until_ms: float) -> Work | None:
        """Check that the block continues where the last one ended; what is to be computed of it."""
        if not self._ports.is_current(block):
            self._ports.abandon(block)
            return None
        if block.begin > self.next_offset:  # something between them got lost on its way here
            self._ports.abandon(block)
            while self._inbox:  # they follow the gap: they come again
                self._ports.abandon(self._inbox.popleft())
            self._waiting_task.start(self._ports.refetch(self.number, self.next_offset))
            return None
        if block.end <= self.next_offset:  # fetched again after a seek, taken already
            self._ports.abandon(block)
            return None
        if block.begin < self.next_offset:
            records = [record for record in block.records if record.offset >= self.next_offset]
            block = block.part(records, self.next_offset, block.end)
        self.held_ms = None
        if not block.records:  # transaction markers and the like
            self._admit(block, Computed())
            return None
        self._begun = block
        self._budget.add(IN_FLIGHT_WEIGHT * block.size)  # the others of a pulse see it
        until = () if self._gate is None else (until_ms,)
        return Work(self.number, block.records, self, until, block.size)

    def take(self, computed: Computed) -> None:
        """What `next_work` gave is computed: send it; the rest of a block goes back, to come next."""
        block, self._begun = self._begun, None
        if block is None:
            return
        self._budget.add(-IN_FLIGHT_WEIGHT * block.size)
        if not self._runs:
            return
        if computed.taken is None:
            self._admit(block, computed)
            return
        rest = block.records[computed.taken :]
        cut = rest[0].offset
        self._inbox.appendleft(block.part(rest, cut, block.end))
        if computed.taken:
            part = block.part(block.records[: computed.taken], block.begin, cut, whole=False)
            self._admit(part, computed)
        else:
            self.next_offset = cut  # there is no record before it
            self._wait(computed)
        self.wake()

    def _admit(self, block: Block, computed: Computed) -> None:
        """Put rows on the overlay, and hand outputs over."""
        self.next_offset = block.end
        self._number += 1
        step = InFlightBlock(block, computed, self._number)
        for rows in computed.groups:
            for key, raw in rows:
                self._overlay[key] = (self._number, raw)
        self._steps.append(step)
        self._budget.add(IN_FLIGHT_WEIGHT * block.size)
        if self._gate is not None and len(self._steps) == 1:
            self._gate.started()
        if not block.whole:  # only now: what stands before the record that waits is not durable
            self._wait(computed)
        sent = self._hand_over(step)
        if sent is None:
            self._waiting_task.start(self._send(step))
        else:
            self._expect(step, sent)

    def _wait(self, computed: Computed) -> None:
        """The next record is too far ahead in event time, or cannot be read before something is here."""
        self.needs = computed.needs
        if computed.next_ms is not None:
            assert self._gate is not None
            self.held_ms = computed.next_ms
            self._gate.hold()

    # ------------------------------------------------------------------ (2) sending

    def _hand_over(self, step: InFlightBlock) -> Awaitable[Any] | SentOutputs | None:
        """Hand outputs over at once; None where something has to be waited for."""
        if step.block.lost:
            return None
        if step.block.records:
            return self._ports.hand_over(self.number, step.computed.outputs)
        step.forwarded = True
        return nothing_to_send()

    async def _send(self, step: InFlightBlock) -> None:
        block = step.block
        if not block.lost:
            self._expect(step, await self._ports.send(self.number, step.computed.outputs))
            return
        # whoever was stopped while others took its partitions over must not call lost what they have done
        begin = max(block.begin, await self._ports.committed(self.number))
        if begin >= block.end:
            self._expect(step, nothing_to_send())
            return
        self._expect(step, await self._ports.account_for_loss(self.number, begin, block.end))

    def _expect(self, step: InFlightBlock, sent: Awaitable[Any] | SentOutputs) -> None:
        """Outputs are on their way; those of later blocks follow while they are."""
        if isinstance(sent, SentOutputs):
            self._forwarded.expect(step, sent)
            sent = sent.durable
        step.durable = asyncio.ensure_future(sent)
        if self.closed:
            step.durable.cancel()
        wake_when_done(step.durable, self.wake)

    # ------------------------------------------------------------------ (3, 4, 5) settling

    def settle(self) -> None:
        """Make rows durable whose outputs are, and acknowledge their blocks; never waits."""
        if self._runs:
            self._settling.advance()

    def _finish(self, steps: list[InFlightBlock]) -> None:
        newest = steps[-1].number
        for step in steps:
            for rows in step.computed.groups:
                for key, _ in rows:
                    kept = self._overlay.get(key)
                    if kept is not None and kept[0] <= newest:
                        del self._overlay[key]
            self._steps.popleft()
            self._budget.add(-IN_FLIGHT_WEIGHT * step.block.size)
            self.records_done += len(step.block.records)
            self.done_offset = step.block.end
            self._ports.finish(step.block)  # (5)
            self._forwarded.advance(step)
        self._forwarded.finished()
