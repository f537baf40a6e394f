"""The producer of a crash test: out of order, late, repeated, broken and misplaced records, and labels, at a rate."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.errors import UnavailableError
from app.kafka.clients import client_kwargs
from app.lab.simulation.simulate import Disorder, SimulationConfig, deliver, simulate
from app.ops.produce import produce_on_schedule, quiet_client
from app.ops.reference import murmur2_partition
from app.server_addresses import resolve_broker
from app.settings import Settings
from app.topics import Topics
from tests.crash.labels import with_labels
from tests.crash.transactional import TransactionalFeed

_CARDS = 1_500
#: Days of event time: the fewer the shorter a run. Sixty days in a minute, and most of the time partitions would wait
#: for each other, held back by a label or a worker that starts: a kill would find nobody at work.
_FEWEST_DAYS, _MOST_DAYS, _DAY_RECORDS = 10, 60, 2_000
#: At least so many terminals, and so many that what one keeps (`HARSH`) reaches behind the label delay.
_TERMINALS, _TERMINAL_RECORDS = 60, 4_000
#: 2025-01-01T00:00:00Z: the same records whenever the crash test runs.
_START_MS = 1_735_689_600_000
_DISORDER = Disorder(out_of_order=0.08, late=0.02, duplicates=0.02, broken=0.01)
#: One record in so many goes to another partition than its card's.
_MISPLACED_EVERY = 97
_TICK_SECONDS = 0.05
#: Labels and misplaced records that are on their way at once.
_ASIDE = 500

#: Topic, partition (None: the key's), key and value.
Aside = tuple[str, int | None, bytes | None, bytes | None]


class Feed(threading.Thread):
    """Sends records in a thread of its own, whatever Kafka goes through.

    Args:
        settings: the deployment.
        seed: makes the records.
        events: about how many.
        say: told when sending had to begin anew.
        transactional: send by Kafka transactions, some of them aborted, in every codec.

    Attributes:
        rate: records a second; may be changed at any time, as `limit`.
        limit: after so many records the rate falls to a tenth: something else takes its time.
        total: records that there are, labels not counted.
        sent, labels: records and labels handed over so far.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        seed: int,
        events: int,
        say: Callable[[str, str], None],
        transactional: bool = True,
    ) -> None:
        super().__init__(name="feed", daemon=True)
        config = SimulationConfig(
            cards=_CARDS, terminals=max(_TERMINALS, events // _TERMINAL_RECORDS),
            count=max(1, round(events / 1.03)), days=min(_MOST_DAYS, max(_FEWEST_DAYS, events // _DAY_RECORDS)),
            start_ms=_START_MS, seed=seed, without_terminal=0.02,
        )  # fmt: skip
        deliveries = deliver(simulate(config), _DISORDER, seed=seed)
        self.rate = 1_000.0
        self.total = len(deliveries)
        self.limit = self.total
        self.sent = self.labels = 0
        self.error: BaseException | None = None
        self._settings = settings
        self._topics = Topics(settings)
        self._say = say
        self._records = with_labels(deliveries.lines(), seed)
        self._transactions = (
            TransactionalFeed(
                self._topics.transactions.name, resolve_broker(settings), seed=seed, say=say
            )
            if transactional
            else None
        )
        self._aside: deque[Aside] = deque()
        self._stall = 0.0
        self._over = False

    @property
    def left(self) -> int:
        """Records still to be sent."""
        return self.total - self.sent

    def run(self) -> None:
        """Send everything; see `error` afterwards."""
        try:
            with quiet_client():
                asyncio.run(self._run())
        except Exception as error:
            self.error = error

    def give_up(self) -> None:
        """Send no more: the crash test has failed."""
        self._over = True

    def stall(self, seconds: float) -> None:
        """Let the producer's thread hang, heartbeats and all; what was due meanwhile comes at once."""
        self._stall = seconds

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_placed())
            group.create_task(self._send_aside())

    async def _send_placed(self) -> None:
        if self._transactions is not None:
            await asyncio.to_thread(self._transactions.send, self._paced(), lambda: self._over)
            self._over = True
            return
        while not self._over:
            try:
                await produce_on_schedule(self._paced(), settings=self._settings)
            except UnavailableError as error:
                # what was on its way is lost or there: neither matters, the topic is the truth
                self._say("feed", f"begins anew: {error}")
                await asyncio.sleep(1)
            else:
                self._over = True

    @property
    def transactions(self) -> tuple[int, int]:
        """Kafka transactions committed and aborted so far."""
        feed = self._transactions
        return (0, 0) if feed is None else (feed.committed, feed.aborted)

    def _paced(self) -> Iterator[tuple[float, bytes | None, bytes]]:
        due = 0.0
        transactions, partitions = self._topics.transactions.name, self._settings.partitions
        for is_label, key, value in self._records:
            if self._stall:
                stall, self._stall = self._stall, 0.0
                time.sleep(stall)
            if is_label:
                self.labels += 1
                self._aside.append((self._topics.labels.name, None, key, value))
                continue
            self.sent += 1
            due += (1 if self.sent <= self.limit else 10) / self.rate
            assert value is not None
            if key is not None and self.sent % _MISPLACED_EVERY == 0:
                away = (murmur2_partition(key, partitions) + 1) % partitions
                self._aside.append((transactions, away, key, value))
            else:
                yield due, key, value
            if self._over:
                return

    async def _send_aside(self) -> None:
        """Labels and misplaced records, which `produce_on_schedule` would not send."""
        while self._aside or not self._over:
            producer = AIOKafkaProducer(
                **client_kwargs(self._settings), acks="all", enable_idempotence=True
            )
            try:
                await producer.start()
                await self._send_aside_by(producer)
            except KafkaError as error:
                self._say("feed", f"labels and misplaced records begin anew: {error!r}")
                await asyncio.sleep(1)
            finally:
                await producer.stop()

    async def _send_aside_by(self, producer: AIOKafkaProducer) -> None:
        while self._aside or not self._over:
            if not self._aside:
                await asyncio.sleep(_TICK_SECONDS)
                continue
            sent = []
            while self._aside and len(sent) < _ASIDE:
                topic, partition, key, value = self._aside.popleft()
                sent.append(await producer.send(topic, value, key=key, partition=partition))
            await asyncio.gather(*sent)
