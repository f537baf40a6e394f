"""Speaks of an outage calmly: a line when nothing is taken for a while, one every half minute, one when it is over."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

logger = logging.getLogger(__name__)

#: Nothing was taken for so long: it is said. And said again after as long as the second.
_WARN_SECONDS, _REMIND_SECONDS = 2.0, 30.0
#: A batch that failed so often (some 15 s) is worth a line although others are taken.
_WORTH_A_LINE = 8
#: Kafka is asked how many wait; a line about Cassandra does not wait for it longer than this.
_ASK_SECONDS = 2.0


class WriteListener(Protocol):
    """Is told how writing goes (app/metrics fits)."""

    def written(self, rows: int) -> None:
        """Rows were acknowledged."""

    def waiting(self, reason: str) -> None:
        """An attempt failed and is repeated.

        Args:
            reason: one line for people.
        """

    def idle(self) -> None:
        """Nothing waits any more: what waited was given up, because its partitions were."""


#: How many records wait in Kafka; None where that cannot be told.
Behind = Callable[[], Awaitable[int | None]]


class Outage:
    """What a writer knows of Cassandra's absence.

    Args:
        status: is told of every success and failure.
        rows: what the rows are, for the lines: `predictions`.
        behind: tells how many wait in all; None: those that were handed to the writer.

    Attributes:
        since: epoch second of the first failure since the last success, None while rows are taken.
        last_error: what the last failure said, None if there was none.
        rows_waiting: kept by the writer, for the lines.
    """

    def __init__(
        self, status: WriteListener | None, rows: str, behind: Behind | None = None
    ) -> None:
        self.since: float | None = None
        self.last_error: str | None = None
        self.rows_waiting = 0
        self._status = status
        self._rows = rows
        self._behind = behind
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._said = False
        self._said_at = -_REMIND_SECONDS

    def failed(self, reason: str, attempts: int = 0) -> None:
        """An attempt failed. A single one is nothing to speak of.

        Args:
            reason: one line for people.
            attempts: how often this batch failed before.
        """
        self.last_error = reason
        if self._status is not None:
            self._status.waiting(reason)
        if self.since is None:
            self.since = time.time()
            self._timer = asyncio.get_running_loop().call_later(_WARN_SECONDS, self._say)
        elif attempts >= _WORTH_A_LINE and time.monotonic() - self._said_at >= _REMIND_SECONDS:
            self._said_at = time.monotonic()
            logger.warning(
                "Cassandra did not accept some %s in %d attempts (%s); they are retried",
                self._rows, attempts, reason,
            )  # fmt: skip

    def succeeded(self, rows: int) -> None:
        """Rows were taken."""
        if self._status is not None:
            self._status.written(rows)
        if self.since is not None:
            seconds = time.time() - self.since
            self.close()
            if self._said:
                self._said = False
                logger.warning("Cassandra accepts %s again after %.0f s", self._rows, seconds)

    def idle(self) -> None:
        """Nothing waits any more, although nothing was taken: whether Cassandra answers shows at the next write."""
        if self._status is not None:
            self._status.idle()
        self.close()
        if self._said:
            self._said = False
            logger.warning(
                "no %s wait for Cassandra any more: their partitions were revoked", self._rows
            )

    def close(self) -> None:
        """Say no more."""
        self.since = None
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _say(self) -> None:
        assert self.since is not None
        self._said, self._said_at = True, time.monotonic()
        self._asking = asyncio.create_task(self._warn(time.time() - self.since))
        self._timer = asyncio.get_running_loop().call_later(_REMIND_SECONDS, self._say)

    async def _warn(self, seconds: float) -> None:
        waiting: int | None = None
        if self._behind is not None:
            with suppress(Exception):  # Kafka may be away as well
                async with asyncio.timeout(_ASK_SECONDS):
                    waiting = await self._behind()
        logger.warning(
            "Cassandra has not accepted %s for %.0f s (%s); %s wait and are retried",
            self._rows, seconds, self.last_error, f"{max(waiting or 0, self.rows_waiting):,}",
        )  # fmt: skip
