"""An answer that is dear: worked out in a thread when somebody asks, and kept for a while."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from app.errors import FraudstreamError


class CachedAnswer:
    """Belongs to one event loop. Whoever asks while it is worked out anew gets the one before.

    Args:
        work: gives the answer; called in a thread, one at a time.
        executor: has that thread.
        seconds: how long an answer, or why there is none, is kept.
        clock: seconds.
        times: an answer is kept at least so many times as long as working it out took.
    """

    def __init__(
        self,
        work: Callable[[], Mapping[str, Any]],
        executor: Executor,
        seconds: float,
        clock: Callable[[], float],
        times: float = 0.0,
    ) -> None:
        self._work = work
        self._executor = executor
        self._seconds = seconds
        self._clock, self._times = clock, times
        self._running: asyncio.Task[None] | None = None
        self._answer: Mapping[str, Any] | FraudstreamError | None = None
        self._at = self._until = 0.0

    async def get(self) -> dict[str, Any]:
        """The answer, and `age_seconds`.

        Raises:
            FraudstreamError: as `work` does.
        """
        answer = await self.soon(None)
        assert answer is not None
        return answer

    async def soon(self, seconds: float | None) -> dict[str, Any] | None:
        """The same; None: there is none yet, after a wait of some seconds.

        Raises:
            FraudstreamError: as `work` does.
        """
        if self._answer is None or self._clock() >= self._until:
            if self._running is None:
                self._running = asyncio.create_task(self._renew())
            if not isinstance(self._answer, Mapping):
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await asyncio.shield(self._running)  # others wait for it, too
        answer = self._answer
        if isinstance(answer, FraudstreamError):
            raise answer
        if answer is None:
            return None
        return {**answer, "age_seconds": round(self._clock() - self._at, 1)}

    def close(self) -> None:
        """Nobody waits any more for what is being worked out."""
        if self._running is not None:
            self._running.cancel()

    async def _renew(self) -> None:
        loop, began = asyncio.get_running_loop(), self._clock()
        try:
            self._answer = await loop.run_in_executor(self._executor, self._work)
        except FraudstreamError as error:
            self._answer = error
        finally:
            self._at = self._clock()
            self._until = self._at + max(self._seconds, self._times * (self._at - began))
            self._running = None
