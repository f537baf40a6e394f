"""What the stages work on when they are timed without servers: rows, a store, a producer that sends nowhere."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import rocksdict
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.structs import TopicPartition

from app.blocks.core.row_groups import RowGroup, chunk_groups
from app.blocks.faust.changelog_append import append_rows
from app.blocks.faust.output_sender import OutputSender


class Record(NamedTuple):
    """As a Kafka record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class MemoryRows:
    """Rows in a dict: see `app.blocks.core.partition.RowReader`."""

    def __init__(self) -> None:
        self.memo: dict[str, Any] = {}
        self._rows: dict[bytes, bytes | None] = {}
        self.get = self._rows.get

    def put(self, groups: Sequence[RowGroup]) -> None:
        """Take changed rows."""
        for group in groups:
            self._rows.update(group)


class Producer:
    """Builds record batches as aiokafka's producer does, and acknowledges them at once."""

    def __init__(self, batch_bytes: int) -> None:
        self._bytes = batch_bytes
        # what app/blocks/faust/unsent_batches.py leans on
        self.client = self._message_accumulator = self
        self._exception, self._closed = None, False
        self._batches: dict[Any, Any] = {}

    async def _wait_on_metadata(self, topic: str) -> None:
        """It knows every topic."""

    def _append_batch(self, builder: BatchBuilder, tp: TopicPartition) -> MessageBatch:
        batch = MessageBatch(tp, builder, ttl=0, linger_time=0)
        batch.future.set_result(_Acknowledged(0))
        return batch

    def create_batch(self) -> BatchBuilder:
        """An empty batch."""
        return BatchBuilder(self._bytes, compression_type=0, is_transactional=False)

    async def send_batch(self, *_: Any, **__: Any) -> "asyncio.Future[Any]":
        """Acknowledge."""
        done = asyncio.get_running_loop().create_future()
        done.set_result(_Acknowledged(0))
        return done


class _Acknowledged(NamedTuple):
    offset: int


def build_changelog(blocks: Sequence[list[RowGroup]], batch_bytes: int) -> None:
    """The changelog batches of each block's rows."""

    async def build() -> None:
        producer = Producer(batch_bytes)
        for groups in blocks:
            for chunk in chunk_groups(groups, batch_bytes):
                await append_rows(producer, "changelog", 0, chunk)

    asyncio.run(build())


def build_outputs(blocks: Sequence[Any], batch_bytes: int) -> None:
    """The output batches of each block."""

    async def build() -> None:
        producer, sender = Producer(batch_bytes), OutputSender(batch_bytes)
        for outputs in blocks:
            await sender.send(producer, outputs)

    asyncio.run(build())


def write_store(database: Any, blocks: Sequence[list[RowGroup]], batch_bytes: int) -> None:
    """Each block's rows, as a table writes them."""
    for groups in blocks:
        for chunk in chunk_groups(groups, batch_bytes):
            batch = rocksdict.WriteBatch(raw_mode=True)
            for key, raw in chunk:
                batch.put(key, raw)
            database.write(batch)
