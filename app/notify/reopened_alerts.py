"""Which alerts are open again: somebody has seen to them, and a flagged transaction came afterwards."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from app.cassandra.alert_queries import read_handled
from app.cassandra.session import shared_session
from app.cassandra.stored_alert import Handled
from app.errors import FraudstreamError, NotAnsweringError
from app.settings import Settings

logger = logging.getLogger("fraudstream")

#: Cassandra is not asked for so long after a failure: alerts wait for an attempt until it times out.
_AGAIN_SECONDS = 5.0


class HandledCheck:
    """Asks Cassandra what people have done about alerts; one for all routes.

    Args:
        settings: where Cassandra is.
        clock: seconds that never go back.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._failed = False
        self._away_until = float("-inf")

    async def __call__(self, alert_ids: Collection[str]) -> Mapping[str, Handled] | None:
        """By id, what was done about those that somebody has seen to; None while Cassandra does not answer."""
        if self._clock() < self._away_until:
            return None
        try:
            found = await asyncio.to_thread(self._read, alert_ids)
            self._failed = False
        except NotAnsweringError as error:
            self._warn("alerts that may be open again wait", error)
            self._away_until = self._clock() + _AGAIN_SECONDS
            return None
        except FraudstreamError as error:  # waiting does not help
            self._warn("nobody is told of alerts that are open again", error)
            return {}
        return found

    def _read(self, alert_ids: Collection[str]) -> Mapping[str, Handled]:
        return read_handled(shared_session(self._settings), self._settings, alert_ids)

    def _warn(self, what: str, error: FraudstreamError) -> None:
        if not self._failed:
            logger.warning("%s: %s", what, error)
        self._failed = True
