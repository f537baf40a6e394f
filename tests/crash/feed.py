"""The producer of an ordeal: out of order, late, repeated, broken and misplaced records, at a rate."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.adapters.kafka import client_kwargs
from app.errors import UnavailableError
from app.settings import Settings
from app.tools.oracle import murmur2_partition
from app.tools.produce import produce_on_schedule, quiet_client
from app.tools.simulate import Disorder, SimulationConfig, deliver, simulate
from app.topics import Topics

_CARDS, _TERMINALS, _DAYS = 1_500, 60, 60
#: 2025-01-01T00:00:00Z: the same records whenever the ordeal runs.
_START_MS = 1_735_689_600_000
_DISORDER = Disorder(out_of_order=0.08, late=0.02, duplicates=0.02, broken=0.01)
#: One record in so many goes to another partition than its card's.
_MISPLACED_EVERY = 97
_TICK_SECONDS = 0.05


class Feed(threading.Thread):
    """Sends records in a thread of its own, whatever Kafka goes through.

    Args:
        settings: the deployment.
        seed: makes the records.
        events: about how many.
        say: told when sending had to begin anew.

    Attributes:
        rate: records a second; may be changed at any time, as `limit`.
        limit: after so many records the rate falls to a tenth: something else takes its time.
        total: records that there are.
        sent: records handed over so far.
    """

    def __init__(
        self, settings: Settings, *, seed: int, events: int, say: Callable[[str, str], None]
    ) -> None:
        super().__init__(name="feed", daemon=True)
        config = SimulationConfig(
            cards=_CARDS, terminals=_TERMINALS, count=max(1, round(events / 1.03)),
            days=_DAYS, start_ms=_START_MS, seed=seed, without_terminal=0.02,
        )  # fmt: skip
        deliveries = deliver(simulate(config), _DISORDER, seed=seed)
        self.rate = 1_000.0
        self.total = len(deliveries)
        self.limit = self.total
        self.sent = 0
        self.error: BaseException | None = None
        self._settings = settings
        self._say = say
        self._records = iter(deliveries.pairs())
        self._misplaced: deque[tuple[bytes, bytes]] = deque()
        self._begun_anew = 0
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
        """Send no more: the ordeal has failed."""
        self._over = True

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_placed())
            group.create_task(self._send_misplaced())

    async def _send_placed(self) -> None:
        while not self._over:
            try:
                await produce_on_schedule(self._paced(), settings=self._settings)
            except UnavailableError as error:
                # what was on its way is lost or there: neither matters, the topic is the truth
                self._say("feed", f"begins anew: {error}")
                await asyncio.sleep(1)
            else:
                self._over = True

    def _paced(self) -> Iterator[tuple[float, bytes | None, bytes]]:
        due = 0.0
        for key, value in self._records:
            self.sent += 1
            due += (1 if self.sent <= self.limit else 10) / self.rate
            if key is not None and self.sent % _MISPLACED_EVERY == 0:
                self._misplaced.append((key, value))
            else:
                yield due, key, value
            if self._over:
                return

    async def _send_misplaced(self) -> None:
        topic, partitions = Topics(self._settings).transactions.name, self._settings.partitions
        producer = AIOKafkaProducer(
            **client_kwargs(self._settings), acks="all", enable_idempotence=True
        )
        await producer.start()
        try:
            while self._misplaced or not self._over:
                if not self._misplaced:
                    await asyncio.sleep(_TICK_SECONDS)
                    continue
                key, value = self._misplaced[0]
                away = (murmur2_partition(key, partitions) + 1) % partitions
                try:
                    await producer.send_and_wait(topic, value, key=key, partition=away)
                except KafkaError as error:
                    self._say("feed", f"a misplaced record: {error!r}")
                self._misplaced.popleft()
        finally:
            await producer.stop()
