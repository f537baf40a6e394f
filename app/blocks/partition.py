"""The order of effects for the blocks of one partition. No Kafka and no Faust in it: see `Ports`."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from app.blocks.rows import Row, RowGroup, chunk_groups
from app.errors import ForeignWriterError

#: The same gap met so often is a true hole in the log (compaction, transaction markers).
_GAP_RETRIES = 5


@dataclass(slots=True)
class Block:
    """Consecutive records of one partition.

    Attributes:
        records: anything with an `offset`, in offset order.
        first, last: offsets of the first and last record.
        token: whatever the ports need to acknowledge it.
    """

    records: Sequence[Any]
    token: Any = None

    @property
    def first(self) -> int:
        """Offset of the first record."""
        return int(self.records[0].offset)

    @property
    def last(self) -> int:
        """Offset of the last record."""
        return int(self.records[-1].offset)


@dataclass(slots=True)
class Computed:
    """What a block leads to.

    Attributes:
        outputs: handed to `Ports.send` as it is.
        groups: changed rows; rows of one key in one group; what must be durable last comes last.
    """

    outputs: Any = None
    groups: list[RowGroup] = field(default_factory=list)


class Handler(Protocol):
    """The work: pure but for reading rows through `state.get`."""

    def compute(self, partition: int, records: Sequence[Any], state: "RowReader") -> Computed:
        """Outputs and new rows of consecutive records."""


class RowReader(Protocol):
    """Where a handler reads rows.

    Attributes:
        memo: whatever the handler derives from rows and wants to keep between blocks; it is gone
            when the partition is given up.
    """

    memo: dict[str, Any]

    def get(self, key: bytes) -> bytes | None:
        """The newest bytes of a row, durable or not; None when there is none."""


class Ports(Protocol):
    """The effects, as the partition needs them."""

    async def send(self, partition: int, outputs: Any) -> Awaitable[Any]:
        """Hand outputs over, in order; the result resolves once all are durable."""

    async def append(self, partition: int, rows: list[Row]) -> int:
        """Append rows to the changelog in one batch; returns the offset of the first once durable."""

    def store(self, partition: int, rows: list[Row], changelog_offset: int) -> None:
        """Write rows and the changelog offset they end at into the store, all or nothing."""

    def load(self, partition: int, key: bytes) -> bytes | None:
        """The stored bytes of a row."""

    def finish(self, block: Block) -> None:
        """The block is done: its last offset may be committed."""

    def abandon(self, block: Block) -> None:
        """The block is void: it must never be committed."""

    async def refetch(self, partition: int, offset: int) -> None:
        """Fetch this partition again from `offset` on."""

    def is_current(self, block: Block) -> bool:
        """Whether the block still belongs to us: same generation, state ready, flow open."""


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
        batch_bytes: largest changelog batch.
        start: offset at which the partition starts, from the committed offset.
        changelog_next: offset at which our next changelog record must land; None without a table.
    """

    def __init__(
        self,
        number: int,
        ports: Ports,
        handler: Handler,
        *,
        depth: int,
        batch_bytes: int,
        start: int,
        changelog_next: int | None = None,
    ) -> None:
        self.number = number
        self.next_offset = start
        self.changelog_next = changelog_next
        self.closed = False
        self.records_done = 0
        self.memo: dict[str, Any] = {}
        self._ports = ports
        self._handler = handler
        self._depth = depth
        self._batch_bytes = batch_bytes
        self._inbox: deque[Block] = deque()
        self._steps: deque[_Step] = deque()
        self._overlay: dict[bytes, tuple[int, bytes | None]] = {}
        self._gaps: dict[int, int] = {}  # blocks met behind a gap: first offset, how often
        self._number = 0
        self._news = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Blocks that are here and not computed yet."""
        return len(self._inbox)

    @property
    def in_flight(self) -> int:
        """Blocks that are computed and not finished."""
        return len(self._steps)

    def offer(self, block: Block) -> None:
        """Take a block; never waits."""
        self._inbox.append(block)
        self._news.set()

    def get(self, key: bytes) -> bytes | None:
        """The newest bytes of a row: of a block in flight, else the stored ones."""
        newest = self._overlay.get(key)
        return self._ports.load(self.number, key) if newest is None else newest[1]

    def close(self) -> None:
        """The partition is revoked: what is in flight is void, its rows prove nothing."""
        self.closed = True
        for block in self._inbox:
            self._ports.abandon(block)
        for step in self._steps:
            self._ports.abandon(step.block)
        self._inbox.clear()
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
            if not self._inbox or len(self._steps) >= self._depth:
                await self._changed()
                continue
            block = self._inbox.popleft()
            step = await self._admit(block)
            if step is None:
                continue
            # outputs of later blocks go out while earlier ones wait to be durable
            sent = await self._ports.send(self.number, step.computed.outputs)
            step.durable = asyncio.ensure_future(sent)
            self._news.set()

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
        self.next_offset = block.last + 1
        self._gaps.clear()
        computed = self._handler.compute(self.number, records, self)
        self._number += 1
        step = _Step(block, computed, self._number)
        for rows in computed.groups:
            for key, raw in rows:
                self._overlay[key] = (self._number, raw)
        self._steps.append(step)
        return step

    async def _settle(self) -> None:
        while not self.closed:
            step = self._steps[0] if self._steps else None
            if step is None or step.durable is None:
                await self._changed()
                continue
            await step.durable  # (2)
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
            self._ports.finish(step.block)  # (5)
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
