"""Partitions of this worker that cannot be read further: the others go on, and an operator can give offsets up.

The worker is not ready meanwhile, with the partition as its reason, and a line says so every minute.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from app.blocks.faust.unreadable_batches import UnreadableBatchPolicy
from app.errors import DamagedLogError

logger = logging.getLogger(__name__)

#: How often a stopped partition is fetched again, and how often a line says so.
LOOK_SECONDS = 5.0
_SAY_SECONDS = 60.0

#: Asked whether an operator has given the offset of an error up: the last offset given up, or None.
FindSkip = Callable[[DamagedLogError], Awaitable[int | None]]


class StoppedPartitions:
    """Stopped partitions; belongs to the thread that fetches. Partitions in it are left out of fetches.

    Args:
        watch: the consumer's.
        clock: seconds, monotonic.
        find_skip: asked each time a partition cannot be read.
    """

    def __init__(
        self, watch: UnreadableBatchPolicy, clock: Callable[[], float], find_skip: FindSkip
    ) -> None:
        self.errors: dict[Any, DamagedLogError] = {}
        self._watch = watch
        self._clock = clock
        self._find_skip = find_skip
        self._until: dict[Any, float] = {}
        self._said: dict[tuple[Any, int], float] = {}
        self._looks: set[asyncio.Task[None]] = set()

    def __setitem__(self, tp: Any, error: DamagedLogError) -> None:
        self.errors[tp] = error
        self._until[tp] = self._clock() + LOOK_SECONDS
        look = asyncio.ensure_future(self._look(tp, error))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    def __contains__(self, tp: Any) -> bool:
        until = self._until.get(tp)
        return until is not None and self._clock() < until

    def current(self) -> dict[Any, DamagedLogError]:
        """The partitions that could not be read the last time; one that can be read again is not met any more."""
        now = self._clock()
        return {
            tp: error
            for tp, error in list(self.errors.items())
            if now < self._until.get(tp, 0) + LOOK_SECONDS
        }

    async def _look(self, tp: Any, error: DamagedLogError) -> None:
        try:
            last = await self._find_skip(error)
        except Exception as reason:  # noqa: BLE001 -- Kafka is away: asked again
            logger.info("%s/%s: dead-letter records cannot be read: %r", *tp, reason)
            return
        if last is not None:
            logger.warning("%s/%s: offsets %s to %s are skipped", *tp, error.offset, last)
            self._watch.skip(tp, error.offset, last)
            self._until.pop(tp, None)
            self.errors.pop(tp, None)
            return
        now = self._clock()
        if now >= self._said.get((tp, error.offset), -_SAY_SECONDS) + _SAY_SECONDS:
            self._said[tp, error.offset] = now
            logger.error("%s", error)
