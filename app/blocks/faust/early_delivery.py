"""Delivers what becomes of records before they are durable: see docs/adr/0028."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from app.blocks.core.memory_budget import MemoryBudget

logger = logging.getLogger(__name__)

#: Records come back within milliseconds. While one does not, because no broker answers, nothing more is delivered
#: without its record.
_MOST_SECONDS = 1.0
#: Values that are remembered; the record of one that was forgotten is only delivered again.
_MOST_BYTES = 8 << 20


class EarlyDelivery:
    """What was delivered of records that have not reached their stage yet.

    Only for a stage without rows whose work on a record depends on its value alone. A crash may leave what was
    delivered without its record, until that is computed and sent once more.

    Args:
        deliver: delivers values; returns what resolves once that is durable, None where it cannot begin now.
    """

    def __init__(self, deliver: Callable[[Sequence[Any]], "asyncio.Future[Any] | None"]) -> None:
        self._deliver = deliver
        #: With when it began, by value: a record may reach its stage forwarded or fetched.
        self._begun: dict[Any, tuple[asyncio.Future[Any], float]] = {}
        self._bytes = 0

    def begin(self, values: Sequence[Any], budget: MemoryBudget) -> None:
        """Deliver values, if that can begin now; until it is over, they count for the memory."""
        now = asyncio.get_running_loop().time()
        _, oldest = next(iter(self._begun.values()), (None, now))
        if budget.exceeded or now - oldest > _MOST_SECONDS:
            return
        try:
            future = self._deliver(values)
        except Exception:  # its stage meets the error, too, and names the record
            logger.debug("nothing is delivered early", exc_info=True)
            return
        if future is None:
            return
        size = sum([len(value or b"") for value in values])
        budget.add(size)
        future.add_done_callback(partial(_ended, budget, size))
        for value in values:
            self.take(value)
            self._begun[value] = future, now
            self._bytes += len(value or b"")
        while self._bytes > _MOST_BYTES:
            self.take(next(iter(self._begun)))

    def take(self, value: Any) -> "asyncio.Future[Any] | None":
        """What resolves once the outputs of a record are durable; None: nothing has begun. Once for each record."""
        begun = self._begun.pop(value, None)
        if begun is None:
            return None
        self._bytes -= len(value or b"")
        return begun[0]

    def give_up(self) -> None:
        """The partitions are revoked: whoever gets them delivers."""
        futures = {future for future, _ in self._begun.values()}
        self._begun, self._bytes = {}, 0
        for future in futures:
            future.cancel()


def _ended(budget: MemoryBudget, size: int, future: "asyncio.Future[Any]") -> None:
    budget.add(-size)
    if not future.cancelled():
        future.exception()  # whoever takes it has the error, too
