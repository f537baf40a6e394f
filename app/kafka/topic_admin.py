"""Topics of a deployment at the brokers: created, given partitions, checked, deleted, and asked about."""

import asyncio
from collections.abc import Iterable

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from app.blocks.faust.fatal_errors import forbidden
from app.errors import SchemaError, UnavailableError
from app.kafka.clients import admin, consumer
from app.kafka.topic_checks import check_config, check_counts
from app.kafka.topic_metadata import see_topics
from app.settings import Settings
from app.topics import TopicSpec

#: Until what was changed shows in the metadata of the broker that is asked.
_SHOWN_SECONDS = 30.0


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


async def topic_configs(settings: Settings, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The configuration of topics, as Kafka spells it, by topic.

    Raises:
        UnavailableError: no broker answers, or our user may not ask.
    """
    async with admin(settings) as client:
        return await _configs(client, names)


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
