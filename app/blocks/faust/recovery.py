"""Faust's recovery, which begins anew where Kafka does not answer."""

from typing import Any

from faust.tables import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped

from app.blocks.faust.fatal_errors import is_away

#: Before it begins anew: a server that refuses does so at once.
_PAUSE_SECONDS = 1.0


class BlockRecovery(Recovery):
    """Recovers tables, however long Kafka takes to answer.

    Faust gives each step `broker_request_timeout`. mode tells the end of that time like the end of the service, so
    that Faust's task ended without a word, and the worker kept its partitions and never became ready; an error of
    Kafka's client ended the worker. What was read until then is in the store, and its offset with it: the next
    attempt goes on from there.
    """

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        try:
            await super()._wait(coro, timeout)
        except ServiceStopped:
            if self.should_stop:
                raise
            why = f"no answer within {timeout:g} s"
        except Exception as error:
            if not is_away(error) and not isinstance(error, TimeoutError):  # of a seek
                raise
            why = str(error) or "no answer in time"
        else:
            return
        self.log.warning("Kafka does not answer while tables recover (%s): trying again", why)
        await self.sleep(_PAUSE_SECONDS)
        self.signal_recovery_start.set()
        raise RebalanceAgain


class BlockTables(TableManager):
    """Faust's tables with our recovery."""

    _recovery: Recovery | None

    @property
    def recovery(self) -> Recovery:
        """The service that brings tables up to their changelogs."""
        if self._recovery is None:
            self._recovery = BlockRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
