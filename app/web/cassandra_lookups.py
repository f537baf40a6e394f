"""Look-ups of pages in Cassandra: how long a page waits for one, and how many there are at once."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from app.errors import UnavailableError

_THREADS = 4
#: A page that waits longer for Cassandra says so instead.
_SECONDS = 15.0
T = TypeVar("T")


class CassandraLookups:
    """Threads of their own: while Cassandra is away they hang for seconds, and nothing else may."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="lookup")

    async def ask(self, ask: Callable[..., T], *arguments: Any) -> T:
        """Ask in a thread.

        Raises:
            UnavailableError: Cassandra does not answer.
        """
        looking = asyncio.get_running_loop().run_in_executor(self._threads, ask, *arguments)
        try:
            async with asyncio.timeout(_SECONDS):
                return await looking
        except TimeoutError:
            # the driver gives up by itself, but others may have been waiting for a thread before us
            msg = f"Cassandra did not answer within {_SECONDS:g} s; try again"
            raise UnavailableError(msg) from None

    def close(self) -> None:
        """Begin no more look-ups."""
        self._threads.shutdown(wait=False, cancel_futures=True)
