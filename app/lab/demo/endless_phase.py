"""The endless part: payments at a gentle rate, labels behind them; what is flagged is shown as it happens."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app import display
from app.errors import UnavailableError
from app.kafka.clients import consumer
from app.lab.demo.feed import Feed
from app.lab.demo.fraud_kinds import GENUINE
from app.lab.demo.live_table import Board
from app.lab.demo.meters import Meters
from app.lab.demo.run import watched
from app.lab.demo.screen import Screen
from app.lab.supervisor import Workers
from app.ops.produce import produce_with_labels, quiet_client
from app.settings import Settings
from app.topics import Topics
from app.wire.label_records import label_object

#: Between two renewals of the status line.
_STATUS_SECONDS = 2.0
#: What a file's last records are given to be scored, before the demo ends.
_LAST_SECONDS = 5.0
#: How long after a payment its label follows.
_TRUTH_SECONDS = 20.0


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
        self._sent = 0
        self._board = Board(settings, time.monotonic)
        self._meters: Meters | None = None
        self._looked_at = 0.0
        self._status = "no payment yet"
        self._live: Any = None

    async def run(self) -> None:
        """Stream.

        Raises:
            FraudstreamError: a server or a worker failed, or an input is wrong.
        """
        with quiet_client(), self._shown():
            self._meters = await asyncio.to_thread(Meters, self._workers.all)
            follower = asyncio.create_task(self._follow())
            try:
                await watched(self._send(follower), self._workers, self._look)
            finally:
                follower.cancel()
                with suppress(asyncio.CancelledError):
                    await follower

    def _shown(self) -> AbstractContextManager[Any]:
        """The live table, on a terminal."""
        if not self._screen.is_terminal:
            return nullcontext()
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            get_renderable=lambda: self._board.table(self._status),
            console=Console(stderr=True, highlight=False, markup=False),
            refresh_per_second=4,
        )
        live: AbstractContextManager[Any] = self._live
        return live

    async def _send(self, follower: "asyncio.Task[None]") -> None:
        sender = asyncio.create_task(
            produce_with_labels(
                self._items(), settings=self._settings, rate=self._rate, stamp=False
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

    def _items(self) -> Iterator[tuple[bool, bytes | None, bytes, int]]:
        """Payments, and behind each after a while its label, where the truth is known."""
        waiting: deque[tuple[float, bytes]] = deque()
        for key, value in self._feed.payments():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                label = self._label(waiting.popleft()[1])
                if label is not None:
                    yield True, *label, 0
            waiting.append((now + _TRUTH_SECONDS, value))
            self._sent += 1
            yield False, key, value, 0

    def _label(self, value: bytes) -> tuple[bytes, bytes] | None:
        """Key and value of a payment's label; None where the truth is unknown."""
        try:
            payment = orjson.loads(value)
            name = payment["transaction_id"]
        except (ValueError, KeyError, TypeError):  # of a file, which is scored as it is
            return None
        kind = self._feed.kind_of(name)
        if kind is None:
            return None
        self._told(name, kind)
        label = label_object(
            name,
            is_fraud=kind != GENUINE,
            labelled_at=time.time_ns() // 1_000_000,
            **{field: payment.get(field) for field in ("card_id", "terminal_id", "event_time")},
        )
        return name.encode(), orjson.dumps(label)

    async def _follow(self) -> None:
        """Read predictions from now on."""
        topic = Topics(self._settings).predictions
        async with consumer(self._settings, auto_offset_reset="latest") as reader:
            reader.assign([TopicPartition(topic.name, n) for n in range(topic.partitions)])
            try:
                await reader.seek_to_end()
                async for record in reader:
                    prediction = orjson.loads(record.value)
                    if self._board.score(prediction) and self._live is None:
                        self._screen.line(self._style(self._board.line(prediction)))
            except KafkaError as error:
                msg = f"Kafka does not answer: {type(error).__name__} {error}"
                raise UnavailableError(msg) from error

    def _told(self, transaction_id: str, kind: str) -> None:
        row = self._board.tell(transaction_id, kind)
        if row is not None and self._live is None:
            self._screen.line(f"          {display.printable(transaction_id)}: {row['truth']}")

    async def _look(self) -> None:
        if time.monotonic() - self._looked_at < _STATUS_SECONDS or self._meters is None:
            return
        self._looked_at = time.monotonic()
        await asyncio.to_thread(self._meters.read)
        p50, p99 = (self._meters.latency_ms(q, since=Counter()) for q in (0.5, 0.99))
        latency = "no latency yet"
        if p50 is not None:
            latency = f"p50 {display.milliseconds(p50)}, p99 {display.milliseconds(p99)}"
        self._status = self._board.status(
            sent=self._sent, rate=self._rate, lag=self._meters.lag, latency=latency
        )
        if self._live is None:
            self._screen.status(self._status)
