"""Delivers what becomes of records before they are durable: see docs/adr/0027."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from app.blocks.core.memory_budget import MemoryBudget


class EarlyDelivery:
    """What was delivered of records that have not reached their stage yet.

    Only for a stage without rows whose work on a record depends on its value alone. A crash may leave what was
    delivered without its record, until that is computed and sent once more.

    Args:
        deliver: delivers values; returns what resolves once that is durable, None where it cannot begin now.
    """

    def __init__(self, deliver: Callable[[Sequence[Any]], "asyncio.Future[Any] | None"]) -> None:
        self._deliver = deliver
        #: By value: a record may reach its stage forwarded or fetched.
        self._begun: dict[Any, asyncio.Future[Any]] = {}

    def begin(self, values: Sequence[Any], budget: MemoryBudget) -> None:
        """Deliver values, if that can begin now; until it is over, they count for the memory."""
        if budget.exceeded:
            return
        future = self._deliver(values)
        if future is not None:
            size = sum([len(value or b"") for value in values])
            budget.add(size)
            future.add_done_callback(partial(_ended, budget, size))
            self._begun |= dict.fromkeys(values, future)

    def take(self, value: Any) -> "asyncio.Future[Any] | None":
        """What resolves once the outputs of a record are durable; None: nothing has begun. Once for each record."""
        return self._begun.pop(value, None)

    def give_up(self) -> None:
        """The partitions are revoked: whoever gets them delivers."""
        begun, self._begun = set(self._begun.values()), {}
        for future in begun:
            future.cancel()


def _ended(budget: MemoryBudget, size: int, future: "asyncio.Future[Any]") -> None:
    budget.add(-size)
    if not future.cancelled():
        future.exception()  # whoever takes it has the error, too
