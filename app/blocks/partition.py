"""The order of effects for the blocks of one partition. No Kafka and no Faust in it: see `Ports`."""

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from app.blocks.ports import Block, Computed, Gate, Handler, PacedHandler, Ports, RowReader
from app.blocks.rows import Row, chunk_groups
from app.errors import ForeignWriterError

__all__ = ["Block", "Computed", "Handler", "Partition", "Ports", "RowReader"]

#: The same gap met so often is a true hole in the log (compaction, transaction markers).
_GAP_RETRIES = 5
#: Passed blocks that wait for a fetch of what comes before them, another worker's records; with more, those are
#: fetched, too.
_PASSED_BLOCKS = 32


@dataclass(slots=True)
class _Step:
    block: Block
    computed: Computed
    number: int
    durable: asyncio.Future[Any] | None = None


class Partition:
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

    Attributes:
        next_offset: offset of the next record to compute.
        done_offset: offset after the last record whose effects are durable.
        held_ms: event time of the next record, while that is too far ahead.
        needs: what has to be obtained before the next record can be computed; None: nothing.
    """

    def __init__(
        self,
        number: int,
        ports: Ports,
        handler: Handler | PacedHandler,
        *,
        depth: int,
        joined_records: int,
        batch_bytes: int,
        start: int,
        changelog_next: int | None = None,
        gate: Gate | None = None,
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
        self._gate = gate
        self._depth = depth
        self._joined_records = joined_records
        self._batch_bytes = batch_bytes
        self._inbox: deque[Block] = deque()
        self._passed: dict[int, Block] = {}
        self._steps: deque[_Step] = deque()
        self._overlay: dict[bytes, tuple[int, bytes | None]] = {}
        self._gaps: dict[int, int] = {}  # blocks met behind a gap: first offset, how often
        self._number = 0
        self._news = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Records that are here and not computed yet."""
        return sum(len(block.records) for block in self._inbox)

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
        if self.closed or block.last < self.next_offset:
            return
        if len(self._passed) >= _PASSED_BLOCKS:
            self._passed.clear()
        self._passed[block.first] = block
        self._join_passed()
        self._news.set()

    @property
    def lacks(self) -> bool:
        """Whether passed blocks wait for what comes before them."""
        return bool(self._passed)

    def _join_passed(self) -> None:
        """Put passed blocks behind the others, as far as they continue them."""
        while self._passed:
            first = min(self._passed)
            end = max((block.last + 1 for block in self._inbox), default=self.next_offset)
            if first > end:
                return
            block = self._passed.pop(first)
            if block.last < end:  # fetched by now
                continue
            if first < end:
                block = Block(
                    [record for record in block.records if record.offset >= end], block.tokens
                )
            self._inbox.append(block)

    def get(self, key: bytes) -> bytes | None:
        """The newest bytes of a row: of a block in flight, else the stored ones."""
        newest = self._overlay.get(key)
        return self._ports.load(self.number, key) if newest is None else newest[1]

    @property
    def next_ms(self) -> int | None:
        """Event time of the first record whose effects are not durable; None where it is not known."""
        try:  # the consumer's thread asks, too: between two questions the steps may have changed
            return self._steps[0].computed.first_ms
        except IndexError:
            return self.held_ms

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
            # rows that the sink holds would wait out an outage, to be written beside the next owner's
            if step.durable is not None:
                step.durable.cancel()
        self._inbox.clear()
        self._passed.clear()
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
            if not self._inbox or len(self._steps) >= self._depth or self.held:
                await self._changed()
                continue
            step = await self._admit(self._next_block())
            if step is None:
                continue
            # outputs of later blocks go out while earlier ones wait to be durable
            sent = await self._ports.send(self.number, step.computed.outputs)
            step.durable = asyncio.ensure_future(sent)
            self._news.set()

    def _next_block(self) -> Block:
        """The next block, and what follows it without a gap, as one.

        A block costs about a millisecond however few records it has: single ones, come while others were
        computed, would cost a millisecond each.
        """
        block = self._inbox.popleft()
        # a stale block must not take one with it that is current
        if not self._inbox or not self._ports.is_current(block):
            return block
        records, tokens = list(block.records), list(block.tokens)
        while self._inbox:
            follower = self._inbox[0]
            room = self._joined_records - len(records)
            if follower.first != records[-1].offset + 1 or len(follower.records) > room:
                break
            if not self._ports.is_current(follower):
                break
            self._inbox.popleft()
            records += follower.records
            tokens += follower.tokens
        return Block(records, tuple(tokens))

    async def _admit(self, block: Block) -> _Step | None:
        """Check that the block continues where the last one ended, compute, put rows on the overlay."""
        if not self._ports.is_current(block):
            self._ports.abandon(block)
            return None
        if block.first > self.next_offset:  # lost or stale: never step over it
            gaps = self._gaps
            gaps[block.first] = gaps.get(block.first, 0) + 1
            # only the nearest block can prove a hole: those behind it are met as often
            if gaps[block.first] < _GAP_RETRIES or block.first > min(gaps):
                self._ports.abandon(block)
                while self._inbox:  # they follow the gap: they come again
                    self._ports.abandon(self._inbox.popleft())
                await self._ports.refetch(self.number, self.next_offset)
                return None
        if block.last < self.next_offset:  # fetched again after a seek, taken already
            self._ports.abandon(block)
            return None
        records = block.records
        if block.first < self.next_offset:
            records = [record for record in records if record.offset >= self.next_offset]
        self._gaps.clear()
        cut = self._compute(block, records)
        if cut is None:
            return None
        block, computed = cut
        if block.whole:
            self.next_offset = block.last + 1
        self._number += 1
        step = _Step(block, computed, self._number)
        for rows in computed.groups:
            for key, raw in rows:
                self._overlay[key] = (self._number, raw)
        self._steps.append(step)
        if self._gate is not None and len(self._steps) == 1:
            self._gate.started()
        if not block.whole:  # only now: what stands before the record that waits is not durable
            self._wait(computed)
        return step

    def _compute(self, block: Block, records: Sequence[Any]) -> tuple[Block, Computed] | None:
        """Compute as much of a block as can be now; the rest goes back, to come next."""
        self.held_ms = None
        until = () if self._gate is None else (self._gate.until_ms,)
        computed: Computed = self._handler.compute(self.number, records, self, *until)
        if computed.taken is None:
            return block, computed
        rest = records[computed.taken :]
        self._inbox.appendleft(Block(rest, block.tokens))
        # whatever stood before it is computed, or a hole that has been proven
        self.next_offset = int(rest[0].offset)
        if not computed.taken:
            self._wait(computed)
            return None
        return Block(records[: computed.taken], block.tokens, whole=False), computed

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

    def _durable_steps(self) -> list[_Step]:
        """The first blocks in flight, as far as their outputs are durable; the first one's are."""
        steps = [self._steps[0]]
        for step in islice(self._steps, 1, None):
            durable = step.durable
            if durable is None or not durable.done() or durable.cancelled() or durable.exception():
                break
            steps.append(step)
        return steps

    def _finish(self, steps: list[_Step]) -> None:
        newest = steps[-1].number
        for step in steps:
            for rows in step.computed.groups:
                for key, _ in rows:
                    kept = self._overlay.get(key)
                    if kept is not None and kept[0] <= newest:
                        del self._overlay[key]
            self._steps.popleft()
            self.records_done += len(step.block.records)
            self.done_offset = step.block.last + 1
            self._ports.finish(step.block)  # (5)
            if self._gate is not None:
                self._gate.finished(step.computed.newest_ms)
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
