"""Fakes of our own interfaces."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.blocks.core.partition import Block, Computed, RowReader
from app.blocks.core.row_groups import Row


class Rows:
    """Rows in memory (see `app.blocks.core.partition.RowReader`)."""

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self.rows = dict(rows or {})
        self.memo: dict[str, Any] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return [(key, raw) for key, raw in self.rows.items() if key.startswith(prefix)]

    def pages(self, prefix: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        yield self.scan(prefix)

    def write(self, rows: Sequence[Row]) -> None:
        for key, raw in rows:
            if raw is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = raw

    def write_groups(self, groups: Iterable[Sequence[Row]]) -> None:
        for group in groups:
            self.write(group)


@dataclass(frozen=True)
class Numbered:
    """The least that is asked of a record."""

    offset: int
    serialized_key_size: int = 0
    serialized_value_size: int = 0


def block(first: int, last: int) -> Block:
    """A block of consecutive records."""
    return Block([Numbered(offset) for offset in range(first, last + 1)])


def covering(begin: int, end: int, *offsets: int, **options: Any) -> Block:
    """A block of these records, which are all from `begin` to before `end`."""
    return Block([Numbered(offset) for offset in offsets], (), True, begin, end, **options)


class Effects:
    """Ports of a partition that write down what happens, and wait where a test wants them to.

    Attributes:
        log: (effect, what), in order.
        gates: effect -> what an effect waits for before it is done.
        stored: rows of the store.
        changelog_end: where the next changelog record lands.
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.stored: dict[bytes, bytes] = {}
        self.changelog_end = 0
        self.committed_offset = 0
        self.current = True
        self.failing: dict[str, BaseException] = {}

    def of(self, effect: str) -> list[Any]:
        """What an effect was called with, in order."""
        return [what for name, what in self.log if name == effect]

    async def _pass(self, effect: str) -> None:
        if effect in self.failing:
            raise self.failing[effect]
        if effect in self.gates:
            await self.gates[effect].wait()

    def hand_over(self, partition: int, outputs: Any) -> Awaitable[Any] | None:
        waits = "hand over" in self.failing or "hand over" in self.gates
        return None if waits else self._sent(outputs)

    async def send(self, partition: int, outputs: Any) -> Awaitable[Any]:
        await self._pass("hand over")
        return self._sent(outputs)

    def _sent(self, outputs: Any) -> Awaitable[Any]:
        self.log.append(("sent", outputs))

        async def durable() -> None:
            await self._pass("durable")
            self.log.append(("durable", outputs))

        return asyncio.ensure_future(durable())

    async def append(self, partition: int, rows: list[Row]) -> int:
        self.log.append(("append", [key for key, _ in rows]))
        await self._pass("append")
        base = self.changelog_end
        self.changelog_end += len(rows)
        return base

    def store(self, partition: int, rows: list[Row], changelog_offset: int) -> None:
        self.log.append(("store", ([key for key, _ in rows], changelog_offset)))
        for key, raw in rows:
            if raw is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = raw

    def load(self, partition: int, key: bytes) -> bytes | None:
        return self.stored.get(key)

    async def obtain(self, partition: int, needed: Any) -> None:
        self.log.append(("obtain", needed))
        await self._pass("obtain")

    async def committed(self, partition: int) -> int:
        return self.committed_offset

    async def account_for_loss(self, partition: int, begin: int, end: int) -> Awaitable[Any]:
        self.log.append(("lost", (begin, end - 1)))
        return await self.send(partition, None)

    def finish(self, block: Block) -> None:
        self.log.append(("finish", (block.begin, block.end - 1)))

    def abandon(self, block: Block) -> None:
        self.log.append(("abandon", (block.begin, block.end - 1)))

    async def refetch(self, partition: int, offset: int) -> None:
        self.log.append(("refetch", offset))

    def is_current(self, block: Block) -> bool:
        return self.current


@dataclass
class Counter:
    """A handler whose row counts the records that it has seen: one row a key, named by `key_of`."""

    key_of: Callable[[int], bytes] = lambda offset: b"n"
    computed: list[tuple[int, int]] = field(default_factory=list)

    def compute(self, partition: int, records: Sequence[Any], state: RowReader) -> Computed:
        offsets = [record.offset for record in records]
        self.computed.append((offsets[0], offsets[-1]))
        changed: dict[bytes, int] = {}
        for offset in offsets:
            key = self.key_of(offset)
            before = changed.get(key)
            if before is None:
                raw = state.get(key)
                before = int.from_bytes(raw[8:], "big") if raw else 0
            changed[key] = before + 1
        last = offsets[-1].to_bytes(8, "big")
        groups: Any = [[(key, last + count.to_bytes(8, "big"))] for key, count in changed.items()]
        return Computed((offsets[0], offsets[-1]), groups)


def count_of(raw: bytes) -> int:
    """What a row of `Counter` has counted."""
    return int.from_bytes(raw[8:], "big")


async def until(condition: Callable[[], Any], turns: int = 200) -> None:
    """Let tasks run until a condition holds."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come about")
