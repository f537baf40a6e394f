"""Clients of Kafka: how they connect, what they wait for an answer, and what a failure means to a person."""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, NodeNotReadyError, for_code

from app.blocks.faust import kafka_connections  # noqa: F401  bounds what every client reads
from app.blocks.faust.decompression import EXPANSION
from app.blocks.faust.fatal_errors import forbidden
from app.blocks.faust.fetch_parsing import watch
from app.blocks.faust.unreadable_batches import UnreadableBatchPolicy
from app.errors import NotAnsweringError, UnavailableError
from app.kafka.admin_client import AdminClient
from app.kafka.credentials import refusal, security
from app.server_addresses import resolve_broker
from app.settings import Settings
from app.topics import Topics

logger = logging.getLogger("fraudstream")
T = TypeVar("T")

#: What commands wait for an answer of Kafka's that has no deadline of its own, and for the end of a client.
ANSWER_SECONDS, _CLOSE_SECONDS = 60.0, 10.0


def client_kwargs(settings: Settings) -> dict[str, Any]:
    """Arguments that every aiokafka client of this deployment takes."""
    return {"bootstrap_servers": resolve_broker(settings), **security(settings)}


_logger = logging.getLogger("aiokafka")
#: The level that the log had before the first of the clients that are starting.
_levels: list[int] = []


@contextmanager
def _one_line_of_ours() -> Iterator[None]:
    """Instead of a line a retry. Several clients may start at once: the last one that has started restores the log."""
    _levels.append(_levels[0] if _levels else _logger.level)
    _logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        level = _levels.pop()
        if not _levels:
            _logger.setLevel(level)


@asynccontextmanager
async def started(client: Any, settings: Settings) -> AsyncIterator[Any]:
    """Start an aiokafka client, stop it afterwards.

    Raises:
        UnavailableError: no broker answers, or it refuses us; the text says why.
    """
    try:
        with _one_line_of_ours():
            await client.start()
    except (KafkaError, OSError) as error:
        addresses = advertised(client)
        await _close(client)
        raise await unavailable(settings, error, addresses) from error
    try:
        yield client
    except NodeNotReadyError as error:
        # bootstrap servers answer, a broker that they advertise does not
        reason = await refusal(settings, resolve_broker(settings), advertised(client))
        raise UnavailableError(
            reason or f"Kafka answers, but a broker that is needed does not: try again ({error})"
        ) from error
    finally:
        await _close(client)


def advertised(client: Any) -> list[tuple[str, int]]:
    """The addresses that brokers have told a client."""
    cluster = getattr(client, "client", None) or client._client  # noqa: SLF001 -- two of three have no property
    return [(broker.host, broker.port) for broker in cluster.cluster.brokers()]


async def unavailable(
    settings: Settings, error: BaseException, addresses: Iterable[tuple[str, int]] = ()
) -> UnavailableError:
    """What it means that a client cannot start: Kafka is away, or will not have us."""
    if forbids := forbidden(error):
        return forbids
    broker = resolve_broker(settings)
    if reason := await refusal(settings, broker, addresses):
        return UnavailableError(reason)
    return UnavailableError(
        f"no Kafka at {broker}: run `fraudstream up`, or set FRAUDSTREAM_BROKER ({type(error).__name__})"
    )


def watch_of(settings: Settings, **options: Any) -> UnreadableBatchPolicy:
    """How a consumer of this deployment treats unreadable batches; options as of `UnreadableBatchPolicy`."""
    topics = Topics(settings)
    refused = (topics.transactions, topics.labels, topics.dead_letters)
    return UnreadableBatchPolicy(
        [topic.name for topic in refused],
        expansion_bytes=EXPANSION * settings.max_message_bytes,
        **options,
    )


@asynccontextmanager
async def consumer(
    settings: Settings, by: UnreadableBatchPolicy | None = None, **options: Any
) -> AsyncIterator[AIOKafkaConsumer]:
    """A started consumer of no group, which reads what the workers read.

    Args:
        settings: the deployment.
        by: what it makes of batches that cannot be read; None: what the deployment does.
        options: further arguments of aiokafka.

    Raises:
        UnavailableError: no broker answers.
    """
    kwargs = client_kwargs(settings) | {
        "isolation_level": settings.isolation_level,
        "client_rack": settings.kafka_rack,
    }
    client = AIOKafkaConsumer(**kwargs, enable_auto_commit=False, group_id=None, **options)
    async with started(client, settings):
        watch(client, by or watch_of(settings))
        yield client


async def answered(waiting: Awaitable[T], what: str, seconds: float = ANSWER_SECONDS) -> T:
    """Wait for Kafka, but not for ever: several of aiokafka's waits have no deadline of their own.

    Args:
        waiting: what is waited for; it is cancelled when the time is over.
        what: what has not happened then: `Kafka did not accept the records`.
        seconds: how long.

    Raises:
        NotAnsweringError: the time is over.
    """
    try:
        async with asyncio.timeout(seconds):
            return await waiting
    except TimeoutError:
        msg = f"{what} within {seconds:g} s"
        raise NotAnsweringError(msg) from None


async def offsets_at(
    client: Any, ends: Mapping[TopicPartition, int], time_ms: int
) -> dict[TopicPartition, int]:
    """The first offset of each partition whose record was appended at a time or later, else the partition's end.

    Args:
        client: a started consumer.
        ends: the end of each partition.
        time_ms: epoch milliseconds.
    """
    found = await client.offsets_for_times(dict.fromkeys(ends, max(0, time_ms)))
    return {tp: end if found[tp] is None else found[tp].offset for tp, end in ends.items()}


async def _close(client: Any) -> None:
    """Close; an idempotent aiokafka producer would retry for ever what it still holds."""
    close = getattr(client, "close", None) or client.stop
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await close()
    except TimeoutError:
        inner = getattr(client, "client", None)
        if inner is not None:
            await inner.close()


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AdminClient]:
    """A started admin client.

    Raises:
        UnavailableError: no broker answers.
    """
    kwargs = client_kwargs(settings)
    client = AdminClient(**kwargs, request_timeout_ms=30_000)
    async with started(client, settings) as ready:
        yield ready


async def group_members(settings: Settings) -> int:
    """How many workers are members of the deployment's consumer group.

    Raises:
        UnavailableError: no broker answers, or our user may not ask.
    """
    return len(await _members(settings))


async def worker_urls(settings: Settings) -> list[str]:
    """Where the members of the deployment's consumer group say that they answer.

    Raises:
        UnavailableError: as `group_members`.
    """
    found = set()
    for *_, metadata, _assignment in await _members(settings):
        try:
            told = ConsumerProtocolMemberMetadata.decode(metadata)
            found.add(str(orjson.loads(told.user_data)["url"]))
        except (ValueError, KeyError, TypeError, struct.error) as error:
            logger.debug("a member of %s is no worker: %r", settings.deployment, error)
    return sorted(found)


async def _members(settings: Settings) -> list[tuple[Any, ...]]:
    async with admin(settings) as client:
        try:
            (response,) = await client.describe_consumer_groups([settings.deployment])
        except KafkaError as error:
            raise forbidden(error) or UnavailableError(
                f"Kafka does not describe the consumer group ({error}): try again"
            ) from error
    ((code, _group, _state, _kind, _protocol, members, *_),) = response.groups
    if code:
        kind = for_code(code)
        raise forbidden(kind(settings.deployment)) or UnavailableError(
            f"Kafka does not describe the consumer group ({kind.__name__}): try again"
        )
    return list(members)


async def cluster_id(settings: Settings) -> str:
    """Kafka's own name of the cluster: another one has other logs, whatever they are called.

    Raises:
        UnavailableError: no broker answers.
    """
    async with admin(settings) as client:
        return str((await client.describe_cluster())["cluster_id"])


async def check_group(settings: Settings) -> None:
    """Check that our user may be a member of the consumer group: Faust would ask for ever.

    Raises:
        UnavailableError: it may not, or no broker answers.
    """
    async with admin(settings) as client:
        try:
            await client.find_coordinator(settings.deployment)
        except GroupAuthorizationFailedError as error:
            forbids = forbidden(GroupAuthorizationFailedError(settings.deployment))
            assert forbids
            raise forbids from error
        except KafkaError:  # a new cluster has no coordinator yet
            return
