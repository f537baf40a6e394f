"""Gives up nodes that have been silent too long with batches on their way: what they had is then sent again."""

import asyncio
import time
from collections.abc import Callable, Iterable

from app.cassandra.cql_connection import CqlLink

#: A node that is silent for so long with batches on their way is given up; the server itself gives up after 2.
_SILENCE_SECONDS = 10.0
_LOOK_SECONDS = 1.0


class SilenceWatch:
    """Looks at the links of a writer for as long as batches are on their way.

    Args:
        links: gives the links.
        in_flight: whether batches are on their way.
    """

    def __init__(
        self, links: Callable[[], Iterable[CqlLink]], in_flight: Callable[[], bool]
    ) -> None:
        self._links = links
        self._in_flight = in_flight
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A batch is on its way."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        oldest_allowed = time.monotonic() - _SILENCE_SECONDS
        for link in self._links():
            if link.pending and next(iter(link.pending.values()))[1] < oldest_allowed:
                link.abort(f"no answer for {_SILENCE_SECONDS:g} s")
        if self._in_flight():
            self.begin()
