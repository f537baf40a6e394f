"""Connect a producer: every failure is told within seconds, in one line."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.errors import SchemaError, UnavailableError
from app.kafka.clients import advertised, client_kwargs, unavailable
from app.ops.producing.batches import BATCH_BYTES, STALL_SECONDS, BatchWriter
from app.settings import Settings

#: How long a server may take to answer at all.
CONNECT_SECONDS = 5
#: How long a new topic may take to be seen by every broker.
TOPIC_SECONDS = 2


@contextmanager
def quiet_client() -> Iterator[None]:
    """Silence aiokafka's own log while the context lasts: a command speaks one line itself."""
    logger = logging.getLogger("aiokafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@asynccontextmanager
async def open_writer(settings: Settings, topic: str) -> AsyncIterator[BatchWriter]:
    """Connect an idempotent producer that waits for all replicas.

    Raises:
        UnavailableError: no broker answers, or it refuses us.
        SchemaError: the topic does not exist.
    """
    kwargs = client_kwargs(settings)
    producer = AIOKafkaProducer(
        **kwargs,
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=min(BATCH_BYTES, settings.max_message_bytes),
        request_timeout_ms=STALL_SECONDS * 1000,
    )
    broker = kwargs["bootstrap_servers"]
    try:
        await _start(producer, settings, broker)
        partitions = await _partitions(producer, broker, topic)
        yield BatchWriter(
            producer,
            broker=broker,
            topic=topic,
            partitions=partitions,
            largest=settings.max_message_bytes,
        )
    finally:
        await _stop(producer)


async def _start(producer: AIOKafkaProducer, settings: Settings, broker: str) -> None:
    try:
        with quiet_client():
            async with asyncio.timeout(CONNECT_SECONDS):
                await producer.start()
    except TimeoutError as error:
        msg = f"no Kafka at {broker}: no answer within {CONNECT_SECONDS} s"
        raise UnavailableError(msg) from error
    except (KafkaError, OSError) as error:
        raise await unavailable(settings, error, advertised(producer)) from error


async def _partitions(producer: AIOKafkaProducer, broker: str, topic: str) -> list[int]:
    """All partitions, without asking for the topic by name: that could create it."""
    deadline = time.monotonic() + TOPIC_SECONDS
    while True:
        try:
            metadata = await producer.client.fetch_all_metadata()
        except KafkaError as error:
            msg = f"no Kafka at {broker}: {type(error).__name__} {error}"
            raise UnavailableError(msg) from error
        if topic in metadata.unauthorized_topics:
            msg = f"Kafka at {broker} forbids topic {topic} to this user: grant WRITE and DESCRIBE on it"
            raise UnavailableError(msg)
        found = metadata.partitions_for_topic(topic)
        if found:
            return sorted(found)
        if time.monotonic() > deadline:
            msg = f"Kafka at {broker} has no topic {topic}: run `fraudstream topics`"
            raise SchemaError(msg)
        await asyncio.sleep(0.2)


async def _stop(producer: AIOKafkaProducer) -> None:
    """Close; an idempotent aiokafka producer would retry for ever what it still holds."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await producer.stop()
    except TimeoutError:
        await producer.client.close()
