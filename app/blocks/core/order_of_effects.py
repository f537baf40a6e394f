"""Makes the rows of blocks durable whose outputs are: changelog, store, and only then the block is done."""

import asyncio
from collections import deque
from collections.abc import Callable

from app.blocks.core.alignment_position import InFlightBlock
from app.blocks.core.interfaces import Ports, wake_when_done
from app.blocks.core.row_groups import Row, chunk_groups
from app.errors import ForeignWriterError


class Settling:
    """The second half of the order of effects, for one partition.

    Args:
        number: the partition.
        ports: the effects.
        steps: its blocks in flight, in order.
        batch_bytes: largest changelog batch.
        changelog_next: offset at which our next changelog record must land; None without a table.
        wake: called when there is something to do for `advance`.
        finish: called with the first blocks in flight, whose rows are stored.

    Attributes:
        changelog_next: see there.
    """

    def __init__(
        self,
        number: int,
        ports: Ports,
        steps: deque[InFlightBlock],
        batch_bytes: int,
        changelog_next: int | None,
        *,
        wake: Callable[[], None],
        finish: Callable[[list[InFlightBlock]], None],
    ) -> None:
        self.changelog_next = changelog_next
        self._number = number
        self._ports = ports
        self._steps = steps
        self._batch_bytes = batch_bytes
        self._wake = wake
        self._finish = finish
        self._taken: list[InFlightBlock] = []
        self._chunks: deque[list[Row]] = deque()
        self._appended: asyncio.Future[int] | None = None

    def advance(self) -> None:
        """Append, store and finish what can be now; never waits.

        Raises:
            ForeignWriterError: another worker wrote this partition's changelog.
            Exception: outputs or rows will never be durable.
        """
        while True:
            if self._appended is not None:
                if not self._appended.done() or self._appended.cancelled():
                    return
                self._store(self._appended.result())
            elif not self._taken:
                # Whatever became durable meanwhile goes along: with an append for each block, a partition could
                # finish one block a round trip, and waited for that at a thousand transactions a second.
                self._taken = self._durable_steps()
                if not self._taken:
                    return
                groups = [rows for step in self._taken for rows in step.computed.groups]
                self._chunks.extend(chunk_groups(groups, self._batch_bytes))
            if self._chunks:
                self._append(self._chunks[0])
            else:
                steps, self._taken = self._taken, []
                self._finish(steps)

    def clear(self) -> None:
        """What is in flight is void."""
        self._taken = []
        self._chunks.clear()
        if self._appended is not None:
            # rows that are not in line yet must not follow those of the next owner
            self._appended.cancel()

    def _durable_steps(self) -> list[InFlightBlock]:
        """The first blocks in flight, as far as their outputs are durable (2); raises where those of the first fail."""
        steps: list[InFlightBlock] = []
        for step in self._steps:
            durable = step.durable
            if durable is None or not durable.done() or durable.cancelled():
                break
            if durable.exception() is not None:
                if not steps:
                    durable.result()
                break
            steps.append(step)
        return steps

    def _append(self, chunk: list[Row]) -> None:
        assert self.changelog_next is not None, "rows need a table"
        self._appended = asyncio.ensure_future(self._ports.append(self._number, chunk))  # (3)
        wake_when_done(self._appended, self._wake)

    def _store(self, base: int) -> None:
        self._appended = None
        if base != self.changelog_next:
            msg = (
                f"changelog of partition {self._number} continued at {base}, expected "
                f"{self.changelog_next}: another worker wrote it (stopped and continued?)"
            )
            raise ForeignWriterError(msg)
        chunk = self._chunks[0]
        self._ports.store(self._number, chunk, base + len(chunk) - 1)  # (4)
        self._chunks.popleft()
        self.changelog_next = base + len(chunk)
