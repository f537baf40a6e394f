"""Sends the messages of one route, and decides what becomes of one that is not taken: tried again, parked, stopped."""

import logging
from collections.abc import Callable, Sequence

from app.errors import (
    ClosedError,
    NotAnsweringError,
    NotTakenError,
    RejectedError,
    UnavailableError,
)
from app.notify.given_up_messages import Refusals
from app.notify.message_text import Message, Notice
from app.notify.notification_log import Told
from app.notify.senders import Sender

logger = logging.getLogger("fraudstream")

#: Alerts of a message that a log line names.
_NAMED = 5


class Delivery:
    """The deliveries of one route.

    Args:
        route: its name.
        sender: sends to it.
        told: what it was told.
        clock: seconds that never go back.
        now_ms: the time, epoch milliseconds.

    Attributes:
        messages, alerts: number of messages that were taken, and of alerts in them, since start.
        stopped: why nothing is sent any more; None: it is.
    """

    def __init__(
        self,
        route: str,
        sender: Sender,
        told: Told,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self.messages = self.alerts = 0
        self.stopped: str | None = None
        self._route = route
        self._sender, self._told = sender, told
        self._clock, self._now_ms = clock, now_ms
        self._refusals = Refusals()

    async def deliver(self, message: Message, about: Sequence[Notice]) -> bool:
        """Try to send a message, and write down that it was taken, or is parked; False: it is to be tried again."""
        try:
            await self._sender.send(message)
        except ClosedError as error:
            self._stop(str(error))
            return False
        except (RejectedError, NotTakenError) as error:
            parked = all(one.name in self._told.parked for one in about)  # by an earlier process
            final = isinstance(error, RejectedError)
            if parked or self._refusals.refused(message.id, self._clock(), final=final):
                await self._park(message, about, str(error))
                return True
            self._warn(error)
            return False
        except NotAnsweringError as error:
            self._warn(error)
            return False
        await self._told.remember(message, about, self._now_ms())
        self._refusals.accepted(message.id)
        self.messages, self.alerts = self.messages + 1, self.alerts + len(about)
        return True

    def forget(self) -> None:
        """The partitions are another process's now."""
        self._refusals.clear()

    def _warn(self, error: UnavailableError) -> None:
        logger.warning("route %s: %s; tried again, nothing is lost", self._route, error)

    async def _park(self, message: Message, about: Sequence[Notice], reason: str) -> None:
        await self._told.park(message, about, reason, self._now_ms())
        names = ", ".join(one.alert_id for one in about[:_NAMED])
        more = f" and {len(about) - _NAMED:,} more" if len(about) > _NAMED else ""
        logger.error(
            "route %s: %s, but accepts others; parked the alerts %s%s: see docs/runbook.md, "
            "FraudstreamNotificationsParked", self._route, reason, names, more,
        )  # fmt: skip

    def _stop(self, reason: str) -> None:
        if self.stopped is None:
            logger.error(
                "route %s has stopped: %s. Its alerts wait in Kafka. Correct its URL in FRAUDSTREAM_NOTIFY_ROUTES, or "
                "its receiver, then start this process again", self._route, reason,
            )  # fmt: skip
        self.stopped = reason
