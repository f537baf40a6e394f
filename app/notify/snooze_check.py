"""What nobody is told of now: read from Cassandra every few seconds, while there is something to tell."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from app.cassandra.session import shared_session
from app.cassandra.snoozes import Snoozes, read_snoozes
from app.errors import FraudstreamError
from app.settings import Settings

logger = logging.getLogger("fraudstream")

#: How old what is known may be.
_FRESH_SECONDS = 5.0


class SnoozeCheck:
    """Asks whether alerts are snoozed; one for all routes.

    While Cassandra is away the last known snoozes hold: telling people too much is better than telling nobody.

    Args:
        settings: where Cassandra is.
        clock: seconds that never go back.
        now_ms: the time, epoch milliseconds.
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], float], now_ms: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._clock, self._now_ms = clock, now_ms
        self._known = Snoozes()
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()
        self._away = False

    async def refresh(self) -> None:
        """Read the snoozes if what is known is too old."""
        async with self._lock:
            if self._clock() - self._read_at < _FRESH_SECONDS:
                return
            try:
                self._known = await asyncio.to_thread(self._read)
                self._away = False
            except FraudstreamError as error:
                if not self._away:
                    logger.warning("snoozes cannot be read, the last known ones apply: %s", error)
                self._away = True
            self._read_at = self._clock()

    def __call__(self, alert: Mapping[str, Any]) -> bool:
        """Whether nobody is told of an alert, as far as is known."""
        return self._known.until(alert, self._now_ms()) is not None

    def _read(self) -> Snoozes:
        return read_snoozes(shared_session(self._settings), self._settings, self._now_ms())
