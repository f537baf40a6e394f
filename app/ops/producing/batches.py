"""Write records into one topic by record batches made by hand, a few in flight a partition.

aiokafka's own `send` costs about ten times as much a record. Order within a partition is the order
of `append`: only one coroutine writes, and an idempotent producer keeps one request a broker.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from app.errors import SchemaError, UnavailableError, UsageError

#: Without one acknowledgement for this long, producing ends; a restarting broker takes less.
STALL_SECONDS = 60
#: Bytes of a record batch: a larger one gains nothing measurable.
BATCH_BYTES = 256 * 1024
#: Bytes that the frame of a batch adds to its records.
BATCH_FRAME_BYTES = 61
#: Cards whose partition is remembered (the hash is Python and takes 1.5 us).
REMEMBERED_KEYS = 1_000_000

Headers = list[tuple[str, bytes]]


@dataclass
class AcknowledgedRecords:
    """What one partition has acknowledged.

    Attributes:
        records: how many.
        first_offset: offset of the first one, -1 before it.
        last_offset: offset of the last one, -1 before it.
    """

    records: int = 0
    first_offset: int = -1
    last_offset: int = -1


class BatchWriter:
    """Appends records to batches and sends those that are full.

    Attributes:
        appended: records appended so far.
        value_bytes: bytes of their values.
        written: acknowledged so far, by partition.
        failed: Kafka has failed us: nothing more can be sent.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        *,
        broker: str,
        topic: str,
        partitions: list[int],
        largest: int,
    ) -> None:
        """`partitions` are all of the topic, in order; `largest` is what it takes, bytes."""
        self.appended = 0
        self.value_bytes = 0
        self.written: dict[int, AcknowledgedRecords] = {}
        self.failed = False
        self._producer = producer
        self._broker = broker
        self._topic = topic
        self._partitions = partitions
        self._largest = largest
        self._open: dict[int, Any] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._places: dict[bytes, int] = {}

    async def append(self, key: bytes | None, value: bytes, now_ms: int, headers: Headers) -> None:
        """Add one record; waits only when its batch is full and earlier ones are on their way.

        Args:
            key: says which partition; None takes the partitions in turn.
            value: the record.
            now_ms: its timestamp (topics with LogAppendTime replace it).
            headers: Kafka headers.

        Raises:
            UsageError: the record is larger than the topic takes.
            UnavailableError: Kafka has stopped answering.
        """
        if key is None:
            partition = self._partitions[self.appended % len(self._partitions)]
        else:
            found = self._places.get(key)
            partition = self._place(key) if found is None else found
        if len(value) > self._largest // 2:
            self._check_size(key, value, headers)
        batch = self._open.get(partition) or self._begin(partition)
        added = batch.append(timestamp=now_ms, key=key, value=value, headers=headers)
        if added is None:
            await self.send(partition)
            self._begin(partition).append(timestamp=now_ms, key=key, value=value, headers=headers)
        self.appended += 1
        self.value_bytes += len(value)

    async def send_open(self) -> None:
        """Send every batch that has records."""
        for partition in list(self._open):
            await self.send(partition)

    async def send(self, partition: int) -> None:
        """Send the open batch of a partition; waits while the one before has not left."""
        batch = self._open.pop(partition)
        count = batch.record_count()
        try:
            sent = await self._producer.send_batch(batch, self._topic, partition=partition)
        except KafkaError as error:
            raise self._explain(error) from error
        task = asyncio.ensure_future(self._acknowledged(sent, partition, count))
        self._waiting.add(task)
        done = [task for task in self._waiting if task.done()]
        self._collect(done)

    async def finish(self) -> None:
        """Send what is open and wait until everything is acknowledged.

        Raises:
            UnavailableError: no acknowledgement for `STALL_SECONDS`, or Kafka refuses.
        """
        await self.send_open()
        while self._waiting:
            done, _ = await asyncio.wait(
                self._waiting, timeout=STALL_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise self._explain(KafkaTimeoutError())
            self._collect(list(done))

    async def _acknowledged(self, sent: asyncio.Future[Any], partition: int, count: int) -> None:
        first = (await sent).offset  # of the batch's first record
        written = self.written.setdefault(partition, AcknowledgedRecords())
        if written.first_offset < 0:
            written.first_offset = first
        written.records += count
        written.last_offset = max(written.last_offset, first + count - 1)

    def _collect(self, done: list[asyncio.Future[None]]) -> None:
        for task in done:
            self._waiting.discard(task)
            error = task.exception()
            if isinstance(error, KafkaError):
                raise self._explain(error) from error
            if error is not None:
                raise error

    def _begin(self, partition: int) -> Any:
        batch = self._producer.create_batch()
        self._open[partition] = batch
        return batch

    def _place(self, key: bytes) -> int:
        if len(self._places) >= REMEMBERED_KEYS:
            self._places.clear()
        partition: int = DefaultPartitioner()(key, self._partitions, self._partitions)
        self._places[key] = partition
        return partition

    def _check_size(self, key: bytes | None, value: bytes, headers: Headers) -> None:
        # an empty batch takes any record, and the broker's refusal names none
        size = BATCH_FRAME_BYTES + DefaultRecordBatchBuilder.estimate_size_in_bytes(
            key, value, headers
        )
        if size > self._largest:
            msg = (
                f"record {self.appended + 1} has {size:,} bytes, more than the {self._largest:,} of "
                "FRAUDSTREAM_MAX_MESSAGE_BYTES"
            )
            raise UsageError(msg)

    @property
    def acknowledged(self) -> int:
        """Records that Kafka has for certain."""
        return sum(part.records for part in self.written.values())

    def _explain(self, error: KafkaError) -> Exception:
        self.failed = True
        so_far = f"{self.acknowledged:,} of {self.appended:,} records are acknowledged"
        if isinstance(error, KafkaTimeoutError):
            fault = f"has acknowledged no record for {STALL_SECONDS} s"
            return UnavailableError(f"Kafka at {self._broker} {fault}; {so_far}")
        if isinstance(error, MessageSizeTooLargeError):
            hint = "set FRAUDSTREAM_MAX_MESSAGE_BYTES to the topic's max.message.bytes"
            return UsageError(
                f"topic {self._topic} refuses batches of {BATCH_BYTES:,} bytes: {hint}"
            )
        if isinstance(error, UnknownTopicOrPartitionError):
            return SchemaError(f"topic {self._topic} no longer exists; {so_far}")
        name = type(error).__name__
        return UnavailableError(f"Kafka at {self._broker} refuses: {name} {error}; {so_far}")
