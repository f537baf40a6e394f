"""An answer that is dear: worked out in a thread when somebody asks, and kept for a while."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from app.errors import FraudstreamError


class CachedAnswer:
    """Belongs to one event loop. Whoever asks while it is worked out anew gets the one before.

    Args:
        work: gives the answer; called in a thread, one at a time.
        executor: has that thread.
        seconds: how long an answer, or why there is none, is kept.
        clock: seconds.
    """

    def __init__(
        self,
        work: Callable[[], Mapping[str, Any]],
        executor: Executor,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._work = work
        self._executor = executor
        self._seconds = seconds
        self._clock = clock
        self._running: asyncio.Task[None] | None = None
        self._answer: Mapping[str, Any] | FraudstreamError | None = None
        self._at = 0.0

    async def get(self) -> dict[str, Any]:
        """The answer, and `age_seconds`.

        Raises:
            FraudstreamError: as `work` does.
        """
        if self._answer is None or self._clock() - self._at >= self._seconds:
            if self._running is None:
                self._running = asyncio.create_task(self._renew())
            if not isinstance(self._answer, Mapping):
                await asyncio.shield(self._running)  # others wait for it, too
        answer = self._answer
        if isinstance(answer, FraudstreamError):
            raise answer
        assert answer is not None
        return {**answer, "age_seconds": round(self._clock() - self._at, 1)}

    def close(self) -> None:
        """Nobody waits any more for what is being worked out."""
        if self._running is not None:
            self._running.cancel()

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._answer = await loop.run_in_executor(self._executor, self._work)
        except FraudstreamError as error:
            self._answer = error
        finally:
            self._at = self._clock()
            self._running = None
