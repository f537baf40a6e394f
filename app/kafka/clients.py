"""Kafka as this project meets it: connection arguments, topic creation and checks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from app.blocks.faust import connections  # noqa: F401  bounds what every client reads
from app.blocks.faust.fetching import watch
from app.blocks.faust.halt import forbidden
from app.blocks.faust.unreadable_batches import UnreadableBatchPolicy
from app.endpoints import resolve_broker
from app.errors import NotAnsweringError, SchemaError, UnavailableError
from app.kafka.access import refusal, security
from app.kafka.murmur import murmur2
from app.kafka.topic_checks import check_config, check_counts
from app.kafka.topic_metadata import see_topics
from app.settings import Settings
from app.topics import Topics, TopicSpec

#: What the records of one compressed batch may take, as a multiple of the largest record.
_EXPANSION = 64
T = TypeVar("T")

#: What commands wait for an answer of Kafka's that has no deadline of its own, and for the end of a client.
ANSWER_SECONDS, _CLOSE_SECONDS = 60.0, 10.0
#: Until what was changed shows in the metadata of the broker that is asked.
_SHOWN_SECONDS = 30.0


def partition_of(partitions: int) -> Callable[[bytes], int]:
    """The partitioner of Java clients as a function of the key: murmur2, positive, modulo."""

    def partition(key: bytes) -> int:
        return (murmur2(key) & 0x7FFFFFFF) % partitions

    return partition


def client_kwargs(settings: Settings) -> dict[str, Any]:
    """Arguments that every aiokafka client of this deployment takes."""
    return {"bootstrap_servers": resolve_broker(settings), **security(settings)}


@asynccontextmanager
async def started(client: Any, settings: Settings) -> AsyncIterator[Any]:
    """Start an aiokafka client, stop it afterwards.

    Raises:
        UnavailableError: no broker answers, or it refuses us; the text says why.
    """
    logger = logging.getLogger("aiokafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # one line of ours instead of a line a retry
    try:
        await client.start()
    except (KafkaError, OSError) as error:
        addresses = advertised(client)
        await _close(client)
        raise await unavailable(settings, error, addresses) from error
    finally:
        logger.setLevel(level)
    try:
        yield client
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
        expansion_bytes=_EXPANSION * settings.max_message_bytes,
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
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A started admin client.

    Raises:
        UnavailableError: no broker answers.
    """
    kwargs = client_kwargs(settings)
    client = AIOKafkaAdminClient(**kwargs, request_timeout_ms=30_000)
    async with started(client, settings) as ready:
        yield ready


async def ensure_topics(
    settings: Settings, topics: Iterable[TopicSpec], *, add_partitions: bool = False
) -> list[str]:
    """Create the topics that are missing; returns their names.

    Args:
        settings: the deployment's settings.
        topics: its topics.
        add_partitions: give existing ones that others share the partitions that they lack.

    Raises:
        SchemaError: the broker refuses one, or an existing one differs.
        UnavailableError: no broker answers.
    """
    specs = list(topics)
    async with admin(settings) as client:
        existing = set(await client.list_topics())
        there = [spec for spec in specs if spec.name in existing]
        counts = await _counts(client, there)
        short = [s for s in there if s.use != "internal" and counts[s.name] < s.partitions]
        if add_partitions:
            counts |= {spec.name: spec.partitions for spec in short}
        # first: what is refused must leave nothing behind
        check_counts(counts, specs, settings)
        missing = [spec for spec in specs if spec.name not in existing]
        if missing:
            await _refuse_forbidden(client, [spec.name for spec in missing])
            new = [
                NewTopic(
                    spec.name, spec.partitions, settings.replication, topic_configs=spec.config
                )
                for spec in missing
            ]
            response = await client.create_topics(new, timeout_ms=30_000)
            for name, code, *text in response.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    detail = text[0] if text and text[0] else error.__name__
                    msg = f"Kafka refuses topic {name}: {detail}"
                    raise SchemaError(msg)
        if add_partitions and short:
            await _grow(client, short)
        await _configured(client, there, settings)
    return [spec.name for spec in missing]


async def _grow(client: AIOKafkaAdminClient, short: list[TopicSpec]) -> None:
    """Give topics the partitions that they lack; returns when metadata shows them."""
    names = ", ".join(spec.name for spec in short)
    try:
        await client.create_partitions({s.name: NewPartitions(s.partitions) for s in short})
        async with asyncio.timeout(_SHOWN_SECONDS):
            while await _counts(client, short) != {s.name: s.partitions for s in short}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except KafkaError as error:
        msg = f"Kafka refuses to add partitions to {names}: {error}"
        raise SchemaError(msg) from error
    except TimeoutError:
        msg = f"Kafka does not show the partitions added to {names}: try again"
        raise UnavailableError(msg) from None


async def check_topics(settings: Settings, topics: Iterable[TopicSpec]) -> dict[str, str]:
    """Check that the topics exist as declared; returns warnings by topic (empty: all is well).

    Raises:
        SchemaError: one is missing or has other partitions; the text names the command.
        UnavailableError: no broker answers.
    """
    specs = list(topics)
    async with admin(settings) as client:
        existing = set(await client.list_topics())
        missing = [spec.name for spec in specs if spec.name not in existing]
        if missing:
            await _refuse_forbidden(client, missing)
            msg = f"Kafka lacks the topics {', '.join(missing)}: run `fraudstream topics`"
            raise SchemaError(msg)
        check_counts(await _counts(client, specs), specs, settings)
        return await _configured(client, specs, settings)


async def partition_counts(settings: Settings, names: Iterable[str]) -> dict[str, int]:
    """Numbers of partitions by topic, of those that exist.

    Raises:
        UnavailableError: no broker answers, or our user may not see one.
    """
    wanted = list(names)
    if not wanted:
        return {}
    async with admin(settings) as client:
        existing = set(await client.list_topics())
        if missing := [name for name in wanted if name not in existing]:
            await _refuse_forbidden(client, missing)
        if missing == wanted:  # Kafka takes none for all
            return {}
        described = await client.describe_topics([name for name in wanted if name in existing])
        return {item["topic"]: len(item["partitions"]) for item in described}


async def delete_topics(settings: Settings, names: Iterable[str]) -> list[str]:
    """Delete topics; returns those that there were, once metadata shows none of them.

    Raises:
        UnavailableError: no broker answers, or it refuses.
    """
    async with admin(settings) as client:
        there = sorted(set(names) & set(await client.list_topics()))
        if not there:
            return []
        response = await client.delete_topics(there, timeout_ms=30_000)
        for name, code in response.topic_error_codes:
            error = for_code(code)
            if code and error is not UnknownTopicOrPartitionError:
                msg = f"Kafka refuses to delete topic {name}: {error.__name__}"
                raise UnavailableError(msg)
        try:
            async with asyncio.timeout(_SHOWN_SECONDS):
                while set(there) & set(await client.list_topics()):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            msg = f"Kafka still shows the deleted topics {', '.join(there)}: try again"
            raise UnavailableError(msg) from None
    return there


async def group_members(settings: Settings) -> int:
    """How many workers are members of the deployment's consumer group.

    Raises:
        UnavailableError: no broker answers, or our user may not ask.
    """
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
    return len(members)


async def topic_configs(settings: Settings, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The configuration of topics, as Kafka spells it, by topic.

    Raises:
        UnavailableError: no broker answers, or our user may not ask.
    """
    async with admin(settings) as client:
        return await _configs(client, names)


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


async def log_ends(settings: Settings, topic: str) -> dict[int, int]:
    """The offset up to which a topic can be read, by partition.

    Raises:
        UnavailableError: no broker answers.
    """
    tps = [TopicPartition(topic, number) for number in range(settings.partitions)]
    async with consumer(settings) as client:
        return {tp.partition: end for tp, end in (await client.end_offsets(tps)).items()}


async def topic_ids(settings: Settings, names: Iterable[str]) -> dict[str, str]:
    """Kafka's ids of topics, as far as the brokers give ids (Kafka 3.1 and later).

    Raises:
        UnavailableError: no broker answers.
    """
    async with admin(settings) as client:
        try:
            seen = await see_topics(client._client, names)  # noqa: SLF001 -- the admin client has no such question
        except KafkaError as error:
            msg = f"Kafka does not list its topics ({error}): try again"
            raise UnavailableError(msg) from error
    return {name: one.id for name, one in (seen or {}).items() if one.id}


async def _refuse_forbidden(client: AIOKafkaAdminClient, names: Iterable[str]) -> None:
    """Topics that our user may not see are left out of Kafka's list: asked for by name, they show.

    Raises:
        UnavailableError: one is such.
    """
    try:
        await see_topics(client._client, names)  # noqa: SLF001 -- the admin client has no such question
    except KafkaError as error:
        if forbids := forbidden(error):
            raise forbids from error


async def _counts(client: AIOKafkaAdminClient, specs: list[TopicSpec]) -> dict[str, int]:
    if not specs:
        return {}
    described = await client.describe_topics([spec.name for spec in specs])
    return {item["topic"]: len(item["partitions"]) for item in described}


async def _configured(
    client: AIOKafkaAdminClient, specs: list[TopicSpec], settings: Settings
) -> dict[str, str]:
    if not specs:
        return {}
    return check_config(await _configs(client, [spec.name for spec in specs]), specs, settings)


async def _configs(client: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    actual: dict[str, dict[str, str]] = {}
    for response in await client.describe_configs(resources):
        for code, _text, _kind, name, entries in response.resources:
            if code and (forbids := forbidden(for_code(code)(name))):
                raise forbids
            actual[name] = {entry[0]: entry[1] for entry in entries}
    return actual
