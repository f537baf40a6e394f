"""What a partition is given and what it asks for: blocks, the handler, the effects."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from app.blocks.core.row_groups import Row, RowGroup


@dataclass(slots=True)
class Block:
    """All records of one partition between two offsets: there may be none.

    Attributes:
        records: anything with an `offset`, in offset order.
        tokens: whatever the ports need to acknowledge it; several where blocks were joined.
        whole: False for the first part of a block that was cut: its tokens belong to the rest.
        begin, end: the offsets that it covers, `end` excluded; without them, from its first record to its last.
        size: about what it takes in memory, bytes.
        lost: its offsets were deleted before they were fetched.
    """

    records: Sequence[Any]
    tokens: tuple[Any, ...] = ()
    whole: bool = True
    begin: int = -1
    end: int = -1
    size: int = 0
    lost: bool = False

    def __post_init__(self) -> None:
        if self.end < 0:
            self.begin, self.end = self.records[0].offset, self.records[-1].offset + 1

    def part(self, records: Sequence[Any], begin: int, end: int, *, whole: bool = True) -> "Block":
        """A part of it: these records, which are all of these offsets."""
        size = self.size * len(records) // len(self.records) if self.records else 0
        return Block(records, self.tokens, whole, begin, end, size, self.lost)


class ForwardedRecord(NamedTuple):
    """A record that a stage of this worker has sent, as the next one would fetch it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class Computed:
    """What a block leads to.

    Attributes:
        outputs: handed to `Ports.send` as it is.
        groups: changed rows; rows of one key in one group; what must be durable last comes last.
        first_ms, newest_ms: event time of the first record, and the newest one; None when none has one, or
            nobody asks.
        taken: records that were computed; None: all of them.
        next_ms: event time of the first one that was not, where that is why it was not.
        needs: what `Ports.obtain` must get before the first one that was not can be computed.
    """

    outputs: Any = None
    groups: list[RowGroup] = field(default_factory=list)
    first_ms: int | None = None
    newest_ms: int | None = None
    taken: int | None = None
    next_ms: int | None = None
    needs: Hashable | None = None


class Handler(Protocol):
    """The work: pure but for reading rows through `state.get`."""

    def compute(self, partition: int, records: Sequence[Any], state: "RowReader") -> Computed:
        """Outputs and new rows of consecutive records."""


class PreparingHandler(Protocol):
    """A handler that may have to wait before it computes; what it learns goes into `state.memo`."""

    def prepare(
        self, partition: int, records: Sequence[Any], state: "RowReader", until_ms: float
    ) -> Coroutine[Any, Any, None] | None:
        """Prepare `compute` for these records up to an event time; within a deadline, without an error.

        None where there is nothing to wait for.
        """


class AlignedHandler(Protocol):
    """The work on a topic whose partitions are aligned in event time (`alignment.py`)."""

    def compute(
        self,
        partition: int,
        records: Sequence[Any],
        state: "RowReader",
        until_ms: float = math.inf,
    ) -> Computed:
        """As `Handler.compute`, up to the first record whose event time is beyond `until_ms`."""


class Work(NamedTuple):
    """A block to compute: the arguments of `Handler.compute`.

    Attributes:
        until_ms: one event time where the topic is aligned (see `AlignedHandler`); else none.
        size: about what the records take in memory, bytes.
    """

    partition: int
    records: Sequence[Any]
    state: "RowReader"
    until_ms: tuple[float, ...] = ()
    size: int = 0


class JoiningHandler(Handler, Protocol):
    """A handler that computes blocks of several partitions faster in one call than in one call each."""

    def compute_many(self, works: Sequence[Work]) -> list[Computed]:
        """The same as `compute` gives for each block alone.

        Where it raises, it leaves everything as if it had not been called: each block is then computed alone.
        """


class SentOutputs(NamedTuple):
    """What `Ports.send` may return where outputs have two parts.

    Attributes:
        forwarded: resolves once the part is durable that later stages wait for: event-time alignment counts it.
        durable: resolves once everything is.
    """

    forwarded: asyncio.Future[Any]
    durable: Awaitable[Any]

    @classmethod
    def of(cls, forwarded: Awaitable[Any], stored: Awaitable[Any]) -> "SentOutputs":
        """Of the part that later stages wait for, and the rest."""
        first = asyncio.ensure_future(forwarded)
        return cls(first, asyncio.gather(first, stored))


class Begun(NamedTuple):
    """Outputs of which some are on their way already.

    Attributes:
        early: resolve once those are durable.
        rest: the others, for `Ports.send`; None: there are none.
    """

    early: Iterable[asyncio.Future[Any]]
    rest: Any


class AlignmentGate(Protocol):
    """What a partition is told of the others' event time.

    Attributes:
        until_ms: event time up to which records may be computed now.
    """

    @property
    def until_ms(self) -> float: ...  # noqa: D102

    def hold(self) -> None:
        """The partition has come to a record beyond it; it is woken when the limit has passed that one."""

    def started(self) -> None:
        """A block is in flight, and none before it."""

    def finished(self, newest_ms: int | None) -> None:
        """Something is forwarded, of this newest event time."""

    def stalled(self) -> None:
        """Whether the partition waits for a server, and for nothing else, has changed."""


class RowReader(Protocol):
    """Where a handler reads rows.

    Attributes:
        memo: whatever the handler derives from rows and wants to keep between blocks; it is gone
            when the partition is given up.
    """

    memo: dict[str, Any]

    def get(self, key: bytes) -> bytes | None:
        """The newest bytes of a row, durable or not; None when there is none."""


class RowScanner(RowReader, Protocol):
    """Where a handler that keeps an index of its rows finds them all once."""

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The newest rows whose keys start with a prefix, durable or not."""

    def pages(self, prefix: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        """The same in parts, while no block of the partition is computed: others can work between two of them.

        A row that a block in flight has changed comes once more, as it is stored.
        """


class Ports(Protocol):
    """The effects, as the partition needs them."""

    def hand_over(self, partition: int, outputs: Any) -> "Awaitable[Any] | SentOutputs | None":
        """Hand outputs over at once, in order; the result resolves once all are durable.

        None where something has to be waited for first: then nothing was handed over.
        """

    async def send(self, partition: int, outputs: Any) -> "Awaitable[Any] | SentOutputs":
        """As `hand_over`, once that is possible."""

    async def account_for_loss(self, partition: int, begin: int, end: int) -> Awaitable[Any]:
        """Write down that these offsets were deleted before they were read; resolves once that is durable."""

    async def committed(self, partition: int) -> int:
        """The committed offset, whoever has committed it."""

    def append(self, partition: int, rows: list[Row]) -> Awaitable[int]:
        """Append rows to the changelog in one batch; resolves to the offset of the first once durable."""

    def store(self, partition: int, rows: list[Row], changelog_offset: int) -> None:
        """Write rows and the changelog offset they end at into the store, all or nothing."""

    def load(self, partition: int, key: bytes) -> bytes | None:
        """The stored bytes of a row."""

    def scan(self, partition: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The stored rows whose keys start with a prefix."""

    def page(self, partition: int, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
        """Some of them, in the order of keys, from a key on; empty where there are no more."""

    def finish(self, block: Block) -> None:
        """The block is done: its last offset may be committed."""

    def abandon(self, block: Block) -> None:
        """The block is void: it must never be committed."""

    def refetch(self, partition: int, offset: int) -> Coroutine[Any, Any, None]:
        """Fetch this partition again from `offset` on."""

    async def obtain(self, partition: int, needed: Hashable) -> None:
        """Return once something that a handler needs is here, however long that takes."""

    def is_current(self, block: Block) -> bool:
        """Whether the block still belongs to us: same generation, state ready, flow open."""


def nothing_to_send() -> "asyncio.Future[None]":
    """Durable at once: there was nothing to send."""
    return all_of(())


def all_of(futures: Sequence["asyncio.Future[Any]"]) -> "asyncio.Future[None]":
    """Resolves once all have, fails with the first error; cancelled, it cancels none of them.

    As a gather of shields, but with one future in place of one for each and one for all.
    """
    whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = len(futures)
    if not left:
        whole.set_result(None)

    def one_done(future: "asyncio.Future[Any]") -> None:
        nonlocal left
        left -= 1
        error = None if future.cancelled() else future.exception()
        if whole.done():
            return
        if future.cancelled():
            whole.cancel()
        elif error is not None:
            whole.set_exception(error)
        elif not left:
            whole.set_result(None)

    for future in futures:
        future.add_done_callback(one_done)
    return whole


def wake_when_done(future: "asyncio.Future[Any]", wake: Callable[[], None]) -> None:
    """Wake whoever asks for the result; an error is not reported where nobody does: a partition that was revoked."""

    def done(future: "asyncio.Future[Any]") -> None:
        if not future.cancelled():
            future.exception()
        wake()

    future.add_done_callback(done)
