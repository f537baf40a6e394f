"""A Kafka of plain lists: logs with offsets, and a producer whose batches land and are acknowledged later.

A producer keeps, for each partition, at most one batch on its way and a line behind it, as aiokafka does. A
batch that is on its way when its worker dies may land at any later time, or never.
"""

import asyncio
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from itertools import takewhile
from random import Random
from typing import Any

TopicPartition = tuple[str, int]
START_MS = 1_700_000_000_000


@dataclass(slots=True)
class Record:
    """One record of a log."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def serialized_key_size(self) -> int:
        """As aiokafka's records."""
        return len(self.key or b"")

    @property
    def serialized_value_size(self) -> int:
        """As aiokafka's records."""
        return len(self.value or b"")


class Log:
    """One partition of a topic.

    Attributes:
        records: that were committed, those that retention has deleted since included.
        start: what is below it was deleted.
        end: what a consumer that reads committed records gets to.
        fetched: up to here somebody has read it.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.start = self.end = self.fetched = 0

    def append(self, now_ms: int, key: bytes | None, value: bytes | None, headers: Any = ()) -> int:
        self.records.append(Record(self.end, now_ms, key, value, list(headers)))
        self.end += 1
        return self.end - 1

    def skip(self, number: int) -> None:
        """Offsets without a record: transaction markers, an aborted batch, what compaction has removed."""
        self.end += number

    def delete(self, before: int) -> None:
        """As retention, or DeleteRecords."""
        self.start = max(self.start, before)

    def fetch(self, offset: int, limit: int) -> tuple[list[Record], int]:
        """Records from an offset on, and the offset up to which they are all there are.

        A fetch ends behind its last record, or behind the offsets without one that follow it.
        """
        assert self.start <= offset <= self.end, "out of range"
        first = bisect_left(self.records, offset, key=lambda record: record.offset)
        records = self.records[first : first + limit]
        following = self.records[first + limit : first + limit + 1]
        end = following[0].offset if following else self.end
        self.fetched = max(self.fetched, end)
        return records, end

    def read(self, offset: int, limit: int) -> list[Record]:
        return self.fetch(offset, limit)[0]


class RefusedError(Exception):
    """The broker refused a batch for good."""


class Broker:
    """Logs, committed offsets with their notes, and batches of dead producers that may still land.

    Attributes:
        before: what was committed before the newest commit, with its note.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.logs: dict[TopicPartition, Log] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.notes: dict[TopicPartition, str] = {}
        self.before: dict[TopicPartition, tuple[int, str]] = {}
        self.late: list[deque[Batch]] = []
        self.now_ms = START_MS

    def log(self, topic: str, partition: int) -> Log:
        key = (topic, partition)
        log = self.logs.get(key)
        if log is None:
            log = self.logs[key] = Log()
        return log

    def commit(self, tp: TopicPartition, offset: int, note: str) -> None:
        self.before[tp] = self.committed.get(tp, 0), self.notes.get(tp, "")
        self.committed[tp], self.notes[tp] = offset, note

    def topic(self, name: str) -> dict[int, list[Record]]:
        return {
            partition: log.records
            for (topic, partition), log in sorted(self.logs.items())
            if topic == name
        }

    def land(self, batch: "Batch") -> None:
        log = self.log(batch.topic, batch.partition)
        batch.base, batch.base_ms = log.end, self.now_ms
        for key, value, headers in batch.builder.records:
            log.append(self.now_ms, key, value, headers)

    def land_late(self) -> bool:
        """Let one batch of a dead producer land."""
        if not self.late:
            return False
        queue = self.late[self.rng.randrange(len(self.late))]
        self.land(queue.popleft())
        if not queue:
            self.late.remove(queue)
        return True


class Builder:
    """As aiokafka's BatchBuilder."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes | None, Any]] = []
        self._closed = False

    def size(self) -> int:
        return sum(len(key or b"") + len(value or b"") for key, value, _ in self.records)

    def closed(self) -> bool:
        return self._closed

    def append(
        self, *, key: bytes | None, value: bytes | None, timestamp: int | None, headers: Any = ()
    ) -> object:
        assert not self._closed
        self.records.append((key, value, headers))
        return self

    @property
    def timestamp(self) -> int:
        """As of a record's metadata: here the broker's time counts."""
        return -1

    def close(self) -> None:
        self._closed = True


@dataclass(eq=False)
class Metadata:
    offset: int
    timestamp: int
    timestamp_type: int = 1  # the broker's time


@dataclass(eq=False)
class Batch:
    topic: str
    partition: int
    builder: Builder
    future: asyncio.Future[Metadata]
    drained: asyncio.Future[None]
    base: int = -1
    base_ms: int = -1
    sent: bool = False
    retry_count: int = 0

    @property
    def _builder(self) -> Builder:
        return self.builder

    @property
    def record_count(self) -> int:
        return len(self.builder.records)


class Producer:
    """As a started, idempotent aiokafka producer."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.rng = broker.rng
        self.queues: dict[TopicPartition, deque[Batch]] = {}
        self.unacknowledged: list[Batch] = []
        self.closed = False
        self.stopped = False  # what is sent arrives, nothing more is sent
        self._known: set[TopicPartition] = set()
        self._broken: set[TopicPartition] = set()
        # what app/blocks/faust/unsent_batches.py leans on
        self.client = self._message_accumulator = self
        self._exception = None
        self._closed = False

    async def _wait_on_metadata(self, topic: str) -> None:
        await asyncio.sleep(0)

    @property
    def _batches(self) -> dict[TopicPartition, list[Batch]]:
        """What has not left, by partition."""
        return {
            tp: unsent
            for tp, queue in self.queues.items()
            if (unsent := [batch for batch in queue if not batch.sent])
        }

    def _append_batch(self, builder: Builder, tp: TopicPartition) -> Batch:
        loop = asyncio.get_running_loop()
        batch = Batch(*tp, builder, loop.create_future(), loop.create_future())
        if not self.closed:
            self.queues.setdefault(tp, deque()).append(batch)
        return batch

    def create_batch(self) -> Builder:
        return Builder()

    async def send_batch(
        self, builder: Builder, topic: str, *, partition: int
    ) -> asyncio.Future[Metadata]:
        queue = self.queues.setdefault((topic, partition), deque())
        while queue and not queue[-1].sent:
            await asyncio.shield(queue[-1].drained)
        return asyncio.shield(self._append_batch(builder, (topic, partition)).future)

    # ---------------------------------------------------------------- what the network does

    def advance(self) -> bool:
        """Something happens to one batch: it is sent, or it lands."""
        busy = [queue for queue in self.queues.values() if queue]
        if not busy:
            return False
        queue = busy[int(self.rng.random() * len(busy))]
        batch = queue[0]
        if not batch.sent:
            if self.stopped:
                return False
            batch.sent = True
            batch.builder.close()
            batch.drained.set_result(None)
            return True
        queue.popleft()
        key = (batch.topic, batch.partition)
        if key in self._broken:
            batch.future.set_exception(RefusedError("out of order sequence"))
            return True
        self._known.add(key)
        self.broker.land(batch)
        self.unacknowledged.append(batch)
        return True

    def acknowledge(self) -> bool:
        """One landed batch is acknowledged."""
        waiting = self.unacknowledged
        if not waiting:
            return False
        batch = waiting.pop(int(self.rng.random() * len(waiting)))
        if not batch.future.done():
            batch.future.set_result(Metadata(batch.base, batch.base_ms))
        return True

    def refuse(self) -> bool:
        """The broker refuses a batch for good.

        It refuses those behind it too, for their sequence numbers, but only where it has seen this
        producer before: a broker takes the first batch of a producer at any sequence number.
        """
        busy = [(key, queue) for key, queue in self.queues.items() if queue and queue[0].sent]
        if not busy:
            return False
        key, queue = busy[self.rng.randrange(len(busy))]
        queue.popleft().future.set_exception(RefusedError("invalid record"))
        if key in self._known:
            self._broken.add(key)
        return True

    def writes(self, topic_suffix: str) -> bool:
        """Whether a batch for such a topic has not landed yet."""
        return any(
            queue and topic.endswith(topic_suffix) for (topic, _), queue in self.queues.items()
        )

    def die(self) -> None:
        """The worker is dead: what is on its way may land later."""
        self.closed = True
        for key, queue in self.queues.items():
            if key in self._broken:
                continue
            # one after the other on one connection: a batch never lands without those before it
            on_the_way = deque(
                takewhile(lambda batch: batch.sent or self.rng.random() < 0.3, queue)
            )
            if on_the_way and self.rng.random() < 0.6:
                self.broker.late.append(on_the_way)
        self.queues.clear()
        self.unacknowledged.clear()
