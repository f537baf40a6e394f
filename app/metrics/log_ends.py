"""Where partitions end at Kafka: how long a page waits for the answer, and how old one may be. Lags follow from it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

#: How long a page waits for Kafka's answer, and how old an answer may be, seconds.
_TIMEOUT_SECONDS = 2.0
_MAX_AGE_SECONDS = 0.5
#: What Kafka said longer ago than this is not known any more: a lag worked out from it would stand still, seconds.
_STALE_SECONDS = 10.0


class LogEnds:
    """Asks Kafka where partitions end.

    One question at a time, whoever asks, and none is ever cancelled: it runs in the consumer's own thread,
    which has commits to make.

    Args:
        ask: gives the end offsets of partitions.
    """

    def __init__(self, ask: Callable[..., Awaitable[Mapping[Any, int]]]) -> None:
        self._ask = ask
        self._known: dict[Any, int] = {}
        self._asked_at = self._told_at = float("-inf")
        self._task: asyncio.Task[Mapping[Any, int]] | None = None
        self._answered = False

    async def read(self, tps: Iterable[Any]) -> tuple[Mapping[Any, int], bool]:
        """The newest known ends, and whether Kafka answered the last question in time."""
        wanted = set(tps)
        fresh = time.monotonic() - self._asked_at < _MAX_AGE_SECONDS
        if self._task is None and wanted and not (fresh and wanted <= self._known.keys()):
            self._task = asyncio.create_task(_answer(self._ask(*wanted)))
            self._asked_at = time.monotonic()
        task = self._task
        if task is not None:
            await asyncio.wait({task}, timeout=_TIMEOUT_SECONDS)
            self._answered = task.done() and not task.cancelled() and task.exception() is None
            if self._answered:
                self._known.update(task.result())
                self._told_at = self._asked_at
            if task.done() and self._task is task:
                self._task = None
        if not self._answered and time.monotonic() - self._told_at > _STALE_SECONDS:
            self._known.clear()
        return {tp: self._known[tp] for tp in wanted if tp in self._known}, self._answered


async def _answer(question: Awaitable[Mapping[Any, int]]) -> Mapping[Any, int]:
    return await question
