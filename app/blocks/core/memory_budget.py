"""How much memory blocks may take, in bytes, over all partitions of a pipeline."""

from collections import deque
from collections.abc import Iterator

from app.blocks.core.ports import Block


class MemoryBudget:
    """Bytes of records that are here and not acknowledged.

    It is no hard bound: a partition of which nothing is here may always be fetched, and one of which nothing is in
    flight may always compute, so that none stands still because of what others have.

    Args:
        limit: bytes; None: no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.used = 0

    def add(self, size: int) -> None:
        """So much came, or, where it is negative, went."""
        self.used += size

    @property
    def exceeded(self) -> bool:
        """Whether no more should come."""
        return self.limit is not None and self.used >= self.limit


class WaitingBlocks:
    """Blocks in line, with how much they are.

    Args:
        budget: what they count for.

    Attributes:
        records: of all of them.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self.records = 0
        self._budget = budget
        self._blocks: deque[Block] = deque()

    def append(self, block: Block) -> None:
        """Put one at the end."""
        self._blocks.append(block)
        self._count(block, 1)

    def appendleft(self, block: Block) -> None:
        """Put one in front."""
        self._blocks.appendleft(block)
        self._count(block, 1)

    def popleft(self) -> Block:
        """Take the first one."""
        block = self._blocks.popleft()
        self._count(block, -1)
        return block

    def clear(self) -> None:
        """Drop all."""
        while self._blocks:
            self.popleft()

    def _count(self, block: Block, sign: int) -> None:
        self.records += sign * len(block.records)
        self._budget.add(sign * block.size)

    def __getitem__(self, index: int) -> Block:
        return self._blocks[index]

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)
