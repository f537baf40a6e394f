"""The endless part: payments at a gentle rate; what is flagged is told as it happens."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app import formats
from app.errors import UnavailableError
from app.kafka.clients import consumer
from app.lab.demo.feed import Feed, Pair
from app.lab.demo.meters import Meters
from app.lab.demo.run import scheduled, watched
from app.lab.demo.screen import Screen
from app.lab.demo.text import flagged_line
from app.lab.supervisor import Workers
from app.ops.produce import produce_on_schedule, quiet_client
from app.settings import Settings
from app.topics import Topics

#: Between two renewals of the status line.
_STATUS_SECONDS = 2.0
#: What a file's last records are given to be scored, before the demo ends.
_LAST_SECONDS = 5.0


class Stream:
    """Sends and tells until it is cancelled or the feed ends.

    Args:
        settings: the deployment.
        feed: where payments come from.
        workers: ready.
        screen: told what happens.
        rate: transactions a second.
        style: marks a flagged transaction.
    """

    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        workers: Workers,
        screen: Screen,
        rate: float,
        style: Callable[[str], str],
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._workers = workers
        self._screen = screen
        self._rate = rate
        self._style = style
        self._sent = self._scored = self._flagged = 0
        self._meters: Meters | None = None
        self._looked_at = 0.0

    async def run(self) -> None:
        """Stream.

        Raises:
            FraudstreamError: a server or a worker failed, or an input is wrong.
        """
        with quiet_client():
            self._meters = await asyncio.to_thread(Meters, self._workers.all)
            follower = asyncio.create_task(self._follow())
            try:
                await watched(self._send(follower), self._workers, self._look)
            finally:
                follower.cancel()
                with suppress(asyncio.CancelledError):
                    await follower

    async def _send(self, follower: "asyncio.Task[None]") -> None:
        sender = asyncio.create_task(
            produce_on_schedule(
                scheduled(self._counted(), self._rate), settings=self._settings, stamp=False
            )
        )
        try:
            await asyncio.wait({sender, follower}, return_when=asyncio.FIRST_COMPLETED)
            if follower.done():
                await follower
            await sender
            await asyncio.sleep(_LAST_SECONDS)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    def _counted(self) -> Iterator[Pair]:
        for pair in self._feed.payments():
            self._sent += 1
            yield pair

    async def _follow(self) -> None:
        """Read predictions from now on."""
        topic = Topics(self._settings).predictions
        async with consumer(self._settings, auto_offset_reset="latest") as reader:
            reader.assign([TopicPartition(topic.name, n) for n in range(topic.partitions)])
            try:
                await reader.seek_to_end()
                async for record in reader:
                    self._tell(orjson.loads(record.value))
            except KafkaError as error:
                msg = f"Kafka does not answer: {type(error).__name__} {error}"
                raise UnavailableError(msg) from error

    def _tell(self, prediction: dict[str, Any]) -> None:
        self._scored += 1
        if prediction["is_fraud"]:
            self._flagged += 1
            self._screen.line(self._style(flagged_line(prediction, self._settings)))

    async def _look(self) -> None:
        if time.monotonic() - self._looked_at < _STATUS_SECONDS or self._meters is None:
            return
        self._looked_at = time.monotonic()
        await asyncio.to_thread(self._meters.read)
        p50, p99 = (self._meters.latency_ms(q, since=Counter()) for q in (0.5, 0.99))
        latency = ""
        if p50 is not None:
            latency = f", p50 {formats.milliseconds(p50)}, p99 {formats.milliseconds(p99)}"
        self._screen.status(
            f"{self._sent:,} sent, {self._scored:,} scored, {self._flagged:,} flagged{latency} - Ctrl-C ends"
        )
