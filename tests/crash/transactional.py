"""A transactional producer of another make: every codec in turn, and one batch in ten is aborted and sent again."""

import random
import time
from collections.abc import Callable, Iterator

from confluent_kafka import KafkaException, Producer

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
#: Share of batches that are aborted once Kafka has them.
ABORTED = 0.1
_BATCH_RECORDS = 400
_BATCH_SECONDS = 0.05
#: For one answer: longer than a broker takes to start again.
_PATIENCE_SECONDS = 60.0
#: Kafka aborts what a producer that is gone has left open after this: nothing behind it is read meanwhile.
_OPEN_MS = 10_000

Paced = Iterator[tuple[float, bytes | None, bytes]]
Batch = list[tuple[bytes | None, bytes]]


class TransactionalFeed:
    """Sends records by one transaction per batch.

    Args:
        topic: where to.
        broker: bootstrap servers.
        seed: decides which batches are aborted.
        say: told when a producer had to be replaced.

    Attributes:
        committed, aborted: transactions so far.
    """

    def __init__(
        self, topic: str, broker: str, *, seed: int, say: Callable[[str, str], None]
    ) -> None:
        self.committed = self.aborted = 0
        self._topic = topic
        self._broker = broker
        self._say = say
        self._rng = random.Random(f"{seed}-transactions")
        self._producers: dict[str, Producer] = {}
        self._turn = 0

    def send(self, records: Paced, over: Callable[[], bool]) -> None:
        """Send everything at its time, or until it is over; blocks."""
        began = time.monotonic()
        for batch in _batches(records, began):
            while not over() and not self._try(batch, abort=self._rng.random() < ABORTED):
                self._turn += 1
            if over():
                return
        self._producers.clear()

    def _try(self, batch: Batch, *, abort: bool) -> bool:
        """One transaction; False: it was aborted, or nobody knows what became of it."""
        codec = CODECS[self._turn % len(CODECS)]
        try:
            producer = self._producer(codec)
            producer.begin_transaction()
            for key, value in batch:
                producer.produce(self._topic, value, key)
            producer.flush(_PATIENCE_SECONDS)
            if abort:
                producer.abort_transaction(_PATIENCE_SECONDS)
                self.aborted += 1
                return False
            producer.commit_transaction(_PATIENCE_SECONDS)
        except (KafkaException, BufferError) as error:
            # committed or not: the topic is the truth, and what comes twice is a duplicate
            self._say("feed", f"a new producer for {codec}: {error}")
            self._producers.pop(codec, None)
            time.sleep(1)
            return False
        self.committed += 1
        self._turn += 1
        return True

    def _producer(self, codec: str) -> Producer:
        if codec not in self._producers:
            producer = Producer(
                {
                    "bootstrap.servers": self._broker,
                    "transactional.id": f"crash-{self._topic}-{codec}",
                    "transaction.timeout.ms": _OPEN_MS,
                    "compression.type": codec,
                    "partitioner": "murmur2_random",
                    "log_level": 0,
                }
            )
            producer.init_transactions(_PATIENCE_SECONDS)
            self._producers[codec] = producer
        return self._producers[codec]


def _batches(records: Paced, began: float) -> Iterator[Batch]:
    """What is due together, in order."""
    batch: Batch = []
    for due, key, value in records:
        wait = began + due - time.monotonic()
        if batch and (wait > _BATCH_SECONDS or len(batch) >= _BATCH_RECORDS):
            yield batch
            batch = []
            wait = began + due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        batch.append((key, value))
    if batch:
        yield batch
