"""Partitions of which nothing is fetched although their leaders have records: then the worker must be started again.

It happened in crash tests, when a rebalance followed an outage of brokers: the leaders answered fetches without an
error and without a record. The group counted the worker as alive, and its tables were never recovered. The cause is not
known: it may be Kafka, which returns nothing while it knows its high watermark as an offset only.
"""

import asyncio
import gc
from collections.abc import Mapping
from types import AsyncGeneratorType
from typing import Any

#: How often to look; and how many looks in a row must find records behind the same position. Two minutes: longer than
#: any request may take, and a start takes less.
LOOK_SECONDS = 20.0
LOOKS = 6


class Standstill:
    """Counts how often in a row records were found behind the same fetch position.

    A position alone tells nothing: where a partition was quiet, records may have come a moment ago.

    Args:
        looks: so many make a standstill. Looks are counted, not seconds: a process that was paused has not looked.
    """

    def __init__(self, looks: int = LOOKS) -> None:
        self._looks = looks
        #: By partition: its position, and how many looks have found records behind it.
        self._seen: dict[Any, tuple[int, int]] = {}

    def look(self, positions: Mapping[Any, int], ends: Mapping[Any, int]) -> dict[Any, int]:
        """The positions behind which so many looks have found records.

        Args:
            positions: of the partitions that are to be fetched now; one that is left out begins anew.
            ends: of the logs, as far as they are known.
        """
        before, self._seen = self._seen, {}
        for tp, position in positions.items():
            if ends.get(tp, 0) > max(position, 0):
                was, times = before.get(tp, (position, 0))
                self._seen[tp] = position, times + 1 if was == position else 1
        return {tp: at for tp, (at, times) in self._seen.items() if times > self._looks}


def where(task: "asyncio.Task[Any] | asyncio.Future[Any]") -> str:
    """What a task waits for, from its outermost call to its innermost one, for the log."""
    if not isinstance(task, asyncio.Task) or task.done():
        return repr(task)
    calls: list[str] = []
    waits: Any = task.get_coro()
    while (step := _step(waits)) is not None:
        frame, waits = step
        calls.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
    return " > ".join([*calls, repr(waits)])


def _step(waits: Any) -> tuple[Any, Any] | None:
    """The frame of what is awaited, and what that awaits in turn; None: it has none."""
    for generator in (
        gc.get_referents(waits) if type(waits).__name__.startswith("async_gen") else ()
    ):
        if isinstance(
            generator, AsyncGeneratorType
        ):  # what awaits its next item does not tell otherwise
            waits = generator
    for kind in ("cr", "ag"):
        frame = getattr(waits, f"{kind}_frame", None)
        if frame is not None:
            return frame, getattr(waits, f"{kind}_await")
    return None
