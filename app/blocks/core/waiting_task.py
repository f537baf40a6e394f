"""What a partition waits for in a task of its own, so that nobody else does."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class WaitingTask:
    """Something that a partition waits for; one at a time.

    Args:
        back: called when it is over.
        failed: called with the error before, if there is one.
    """

    def __init__(self, back: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        self._back = back
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._given_up = False

    @property
    def runs(self) -> bool:
        """Whether the partition waits."""
        return self._task is not None

    def start(self, what: Coroutine[Any, Any, None]) -> None:
        """Wait for something."""
        self._task = asyncio.create_task(what)
        self._task.add_done_callback(self._over)

    def cancel(self) -> None:
        """Nobody needs it any more."""
        self._given_up = True
        if self._task is not None:
            self._task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            error = task.exception()
        elif self._given_up:
            error = None
        else:  # by somebody else: what was waited for has not come about, and nothing may follow it
            error = RuntimeError("what a partition waited for was cancelled")
        if error is not None:
            self._failed(error)
        self._back()
