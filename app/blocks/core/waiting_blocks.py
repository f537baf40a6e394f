"""Blocks that are here and not computed yet."""

from collections import deque
from collections.abc import Callable, Iterator

from app.blocks.core.interfaces import Block
from app.blocks.core.memory_budget import MemoryBudget

#: Blocks are joined up to so many records at most: a block is computed in one go, and while that lasts nothing is
#: sent to Cassandra. With a thousand records of an expensive model a go took half a second.
JOINED_RECORDS = 200
#: Blocks are joined up to so many bytes, except where one block has more.
_JOINED_BYTES = 1 << 20
#: A partition with more than this is not fetched for now, in full blocks: the next one is here when one is done.
MOST_BLOCKS = 2
#: Forwarded blocks that wait for a fetch of what comes before them, another worker's records; with more, those are
#: fetched, too.
_FORWARDED_BLOCKS = 32


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

    def next(self, most_records: int, is_current: Callable[[Block], bool]) -> Block:
        """Take the first block, and what follows it without a gap, as one.

        A block costs about a millisecond however few records it has: single ones, come while others were
        computed, would cost a millisecond each.

        Args:
            most_records: of blocks that are joined.
            is_current: whether a block still belongs to this worker.
        """
        block = self.popleft()
        # a stale block must not take one with it that is current
        if not self._blocks or block.lost or not is_current(block):
            return block
        records, tokens = list(block.records), list(block.tokens)
        end, size = block.end, block.size
        while self._blocks:
            follower = self._blocks[0]
            if follower.begin != end or follower.lost:
                break
            if len(follower.records) > most_records - len(records):
                break
            if size + follower.size > _JOINED_BYTES or not is_current(follower):
                break
            self.popleft()
            records += follower.records
            tokens += follower.tokens
            end, size = follower.end, size + follower.size
        return Block(records, tuple(tokens), True, block.begin, end, size)

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


class ForwardedBlocks:
    """Blocks that an earlier stage of this worker has sent, for as long as what comes before them is not here.

    Args:
        budget: what they count for.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._blocks: dict[int, Block] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def first(self) -> int:
        """Where the first one begins."""
        return min(self._blocks)

    def put(self, block: Block) -> None:
        """Keep one. Where there are too many, all others are dropped: nothing depends on them."""
        if len(self._blocks) >= _FORWARDED_BLOCKS:
            self.clear()
        if block.begin in self._blocks:
            self.pop(block.begin)
        self._budget.add(block.size)
        self._blocks[block.begin] = block

    def pop(self, begin: int) -> Block:
        """Take the one that begins there."""
        block = self._blocks.pop(begin)
        self._budget.add(-block.size)
        return block

    def clear(self) -> None:
        """Drop all."""
        for begin in list(self._blocks):
            self.pop(begin)
