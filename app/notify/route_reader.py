"""Reads `alerts` for one route: send, remember, commit, in this order.

An alert's offset is committed after a message about it was acknowledged and written down. So nothing is lost when this
process is killed, and what was acknowledged is not sent again; only a kill between an acknowledgement and its record
repeats a message, under the same id.

A message that the receiver will not take is parked (notification_log.py), and the others go on. A receiver that takes
nothing any more stops its route: its alerts wait in Kafka.

People get at most ten messages per minute. A program gets each alert, unless the deployment limits webhooks.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from app.cassandra.stored_alert import Handled
from app.domain.alert_policy import rank
from app.errors import FraudstreamError
from app.notify.digests import PEOPLE_PER_MINUTE, Pending
from app.notify.message_text import Message, Notice, about_many, about_one
from app.notify.notification_log import Parked, Told
from app.notify.route_delivery import Delivery
from app.notify.senders import BACKOFF_SECONDS, Sender
from app.notify_routes import Route
from app.scoring_deployment import is_anothers
from app.settings import Settings
from app.topics import NOTIFIED_MS

logger = logging.getLogger("fraudstream")

#: How long one look for new alerts takes.
_POLL_MS = 500
_POLL_RECORDS = 2_000
_COMMIT_SECONDS = 5.0
#: Between commits while messages are sent: what was told is written down anyway.
_COMMIT_EVERY_SECONDS = 1.0
#: Alerts that may be open again, and wait for Cassandra to say so.
_WAITING = 10_000


class Snoozed(Protocol):
    """Tells what is snoozed (snooze_check.py)."""

    async def refresh(self) -> None:
        """Learn what is snoozed now."""

    def __call__(self, alert: Mapping[str, Any], /) -> bool:
        """Whether nobody is told of an alert."""


class RouteReader(ConsumerRebalanceListener):
    """Tells one route of the alerts in the partitions that this process has.

    Args:
        route: who is told.
        settings: the deployment.
        consumer: of the route's group, not started, without a subscription; it commits nothing by itself.
        told: what the route was told.
        sender: sends to it.
        snoozed: what it is not told of.
        handled: by id, what was done about alerts; None while that is unknown.
        clock: seconds that never go back.
        sleep: waits so many seconds.
        now_ms: the time, epoch milliseconds.

    Attributes:
        delivery: what was sent.
    """

    def __init__(
        self,
        route: Route,
        settings: Settings,
        consumer: AIOKafkaConsumer,
        told: Told,
        sender: Sender,
        snoozed: Snoozed,
        handled: Callable[[Collection[str]], Awaitable[Mapping[str, Handled] | None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.delivery = Delivery(route.name, sender, told, clock, now_ms)
        self._route = route
        self._settings = settings
        self._consumer = consumer
        self._told, self._snoozed = told, snoozed
        self._handled = handled
        self._clock, self._sleep, self._now_ms = clock, sleep, now_ms
        limit = settings.notify_webhook_limit or None
        self._pending = Pending(limit if route.is_webhook else PEOPLE_PER_MINUTE)
        self._again: deque[Notice] = deque()  # told before, and perhaps open again
        self._delay = BACKOFF_SECONDS[0]
        self._away_since: float | None = None
        self._next: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        # below `_begun` only what was parked is read again: names and severities by partition and offset
        self._begun: dict[TopicPartition, int] = {}
        self._parked: dict[tuple[int, int], Parked] = {}
        self._generation = 0
        self._committed_at = float("-inf")
        # a message is sent, written down and committed by whoever has the partition; nobody takes it away meanwhile
        self._sending = asyncio.Lock()

    @property
    def parked(self) -> int:
        """Number of alerts that are parked, and can still be tried again."""
        return self._told.parked_since(self._now_ms() - NOTIFIED_MS)

    @property
    def waiting_seconds(self) -> float:
        """How long the oldest alert waits that was read and not told."""
        waiting = (*self._pending.notices.values(), *self._again)
        oldest = min((notice.appended_at for notice in waiting), default=None)
        return 0.0 if oldest is None else max(0.0, (self._now_ms() - oldest) / 1000)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Finish the attempt under way; what is pending is another process's now."""
        async with self._sending:
            self._generation += 1
            self._pending.clear()
            self.delivery.forget()
            self._again.clear()
            self._next.clear()
            self._committed.clear()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Learn what was told. A new route begins with what comes from now on, and that is written down at once."""
        while True:
            try:
                await self._told.load([tp.partition for tp in assigned])
                begin = await self._begin(assigned)
                break
            except (KafkaError, FraudstreamError) as error:
                logger.warning("route %s: Kafka does not answer (%s)", self._route.name, error)
                await asyncio.sleep(BACKOFF_SECONDS[0])
        # without an await: what was fetched before is fetched again, and nothing is left out
        self._generation += 1
        self._begun, self._committed = dict(begin), dict(begin)
        self._next = dict(begin)
        self._parked = {(one.partition, one.offset): one for one in self._told.parked.values()}
        for tp, offset in begin.items():
            parked = [at for partition, at in self._parked if partition == tp.partition]
            self._next[tp] = min([offset, *parked])
            self._consumer.seek(tp, self._next[tp])
        held = ", ".join(str(tp.partition) for tp in sorted(begin)) or "none"
        logger.info("route %s: has partitions %s", self._route.name, held)

    async def _begin(self, assigned: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where partitions begin: at what is committed."""
        committed = {tp: await self._consumer.committed(tp) for tp in assigned}
        if new := [tp for tp, offset in committed.items() if offset is None]:
            ends = await self._consumer.end_offsets(new)
            await self._consumer.commit(dict(ends))
            committed |= ends
        return {tp: offset for tp, offset in committed.items() if offset is not None}

    async def run(self) -> None:
        """Read and tell until cancelled."""
        while True:
            await self.step()

    async def step(self) -> None:
        """Read what there is, send what is due, commit what is done."""
        await self._read()
        await self._reopened()
        while self.delivery.stopped is None and (due := self._pending.due(self._clock())):
            if not await self._tell(due):
                return
        if self.delivery.stopped is not None:
            await self._sleep(BACKOFF_SECONDS[1])
        async with self._sending:
            await self._commit()

    async def _read(self) -> None:
        if self._pending.full:  # until a digest has gone out
            await self._sleep(_POLL_MS / 1000)
            return
        idle = self._away_since is not None or self.delivery.stopped is not None
        if idle and len(self._pending.notices) >= _POLL_RECORDS:
            await self._sleep(_POLL_MS / 1000)  # their log is the better place to wait in
            return
        generation = self._generation
        found = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        if found:
            await self._snoozed.refresh()
        # nothing below awaits: what a rebalance clears cannot come back
        for tp, records in found.items():
            if tp not in self._next:  # not opened yet: then it is read from where it begins
                continue
            if generation != self._generation:
                self._consumer.seek(tp, self._next[tp])
                continue
            for record in records:
                self._take(record)
            self._next[tp] = records[-1].offset + 1

    def _take(self, record: Any) -> None:
        try:
            alert = orjson.loads(record.value)
            alert_id, severity = alert["alert_id"], alert["severity"]
            wanted = rank(severity) >= rank(self._route.severity)
            if not wanted or is_anothers(alert, self._settings.deployment) or self._snoozed(alert):
                return
            timestamp = int(record.timestamp)
        except (ValueError, KeyError, TypeError) as error:
            logger.error(
                "route %s: %s/%s, offset %s is not an alert (%s): skipped", self._route.name, record.topic,
                record.partition, record.offset, type(error).__name__,
            )  # fmt: skip
            return
        notice = Notice(
            alert_id, severity, record.partition, record.offset, alert, appended_at=timestamp
        )
        if record.offset < self._begun.get(TopicPartition(record.topic, record.partition), 0):
            if parked := self._parked.get((record.partition, record.offset)):
                self._pending.add(
                    notice._replace(severity=parked.severity, handled_at=parked.handled_at)
                )
        elif self._told.knows(alert_id, severity):
            self._again.append(notice)
        else:
            self._pending.add(notice)

    async def _reopened(self) -> None:
        """Tell once more of alerts that somebody had seen to when their transaction came."""
        if not self._again:
            return
        generation = self._generation
        handled = await self._handled({notice.alert_id for notice in self._again})
        if generation != self._generation:
            return
        if handled is None:  # their offsets are not committed meanwhile
            while len(self._again) > _WAITING:
                notice = self._again.popleft()
                logger.error(
                    "route %s: cannot find out from Cassandra whether %s is open again: skipped",
                    self._route.name, notice.alert_id,
                )  # fmt: skip
            return
        for notice in self._again:
            by, alert = handled.get(notice.alert_id), notice.alert
            if by is None or by.covers(alert["transaction_id"], alert["received_at"]):
                continue
            again = notice._replace(handled_at=by.at_ms)
            if not self._told.knows(again.name, again.severity):
                self._pending.add(again)
        self._again.clear()

    async def _tell(self, due: list[list[Notice]]) -> bool:
        """Try to send messages; False after a pause, because none was taken, or when the partitions were taken away."""
        about = self._settings.minor_unit_digits, self._settings.web_url
        generation = self._generation
        messages = [
            (about_one(told[0], *about) if len(told) == 1 else about_many(told, *about), told)
            for told in due
        ]
        before = self.delivery.messages, self.delivery.alerts
        async with self._sending:
            if self._generation != generation:
                return False
            settled = await asyncio.gather(*(self._deliver(*one) for one in messages))
            if self._clock() - self._committed_at >= _COMMIT_EVERY_SECONDS:
                await self._commit()
        if sent := self.delivery.messages - before[0]:
            logger.info(
                "route %s: sent %s alerts in %s messages",
                self._route.name, self.delivery.alerts - before[1], sent,
            )  # fmt: skip
        if any(settled):
            if self._away_since is not None:
                logger.warning(
                    "route %s: delivers again after %.0f s",
                    self._route.name, self._clock() - self._away_since,
                )  # fmt: skip
            self._delay, self._away_since = BACKOFF_SECONDS[0], None
            return True
        if self.delivery.stopped is None:
            if self._away_since is None:
                self._away_since = self._clock()
            await self._sleep(self._delay)
            self._delay = min(BACKOFF_SECONDS[1], 2 * self._delay)
        return False

    async def _deliver(self, message: Message, told: list[Notice]) -> bool:
        settled = await self.delivery.deliver(message, told)
        if settled:
            self._pending.done(told, self._clock())
        else:
            self._pending.later(told)
        return settled

    async def _commit(self) -> None:
        """Commit what is told, or need not be."""
        self._committed_at = self._clock()
        first = self._pending.first_offsets()
        for notice in self._again:
            first[notice.partition] = min(notice.offset, first.get(notice.partition, notice.offset))
        offsets = {
            tp: max(self._begun.get(tp, 0), first.get(tp.partition, after))
            for tp, after in self._next.items()
        }
        new = {tp: at for tp, at in offsets.items() if self._committed.get(tp) != at}
        if not new:
            return
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):  # a rebalance may wait for us meanwhile
                await self._consumer.commit(new)
            self._committed |= new
        except (KafkaError, TimeoutError) as error:  # the next one says the same and more
            logger.warning("route %s: progress is not committed yet (%r)", self._route.name, error)
