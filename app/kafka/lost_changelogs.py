"""Finds changelogs that lost everything although their source was read: no state can be rebuilt from them."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from app.blocks.faust.fatal_errors import forbidden
from app.errors import UnavailableError
from app.kafka.clients import admin, consumer
from app.kafka.topic_checks import recreated
from app.settings import Settings
from app.topics import Topics, TopicSpec

#: Until the group has a coordinator: a new Kafka makes the topic for it first, or its broker has just stopped.
_COORDINATOR_SECONDS, _AGAIN_SECONDS = 60.0, 0.5


async def refuse_lost_changelogs(settings: Settings, topics: Topics) -> None:
    """Refuse to start on changelogs that were deleted and created again.

    A partition that a worker has opened has a record in its changelog. So an empty changelog of a partition that was
    read is another one. The stores of workers are the only state that is left then: nothing may be deleted.

    Raises:
        SchemaError: one is such; the text says what to do.
        UnavailableError: no broker answers.
    """
    lost = []
    async with consumer(settings) as reader, admin(settings) as client:
        done: Mapping[Any, Any] | None = None
        for changelog, source in topics.changelogs:
            ends = await reader.end_offsets(_partitions(changelog))
            empty = [
                TopicPartition(source.name, tp.partition) for tp, end in ends.items() if not end
            ]
            if not empty:
                continue
            if done is None:
                done = await _committed(client, settings)
            begins = await reader.beginning_offsets(empty)
            if any(tp in done and done[tp].offset > begins[tp] for tp in empty):
                lost.append(changelog.name)
    if lost:
        raise recreated(lost, settings)


async def _committed(client: AIOKafkaAdminClient, settings: Settings) -> Mapping[Any, Any]:
    """Empty would say that nothing was read, so this waits for an answer."""
    deadline = asyncio.get_running_loop().time() + _COORDINATOR_SECONDS
    while True:
        try:
            found: Mapping[Any, Any] = await client.list_consumer_group_offsets(settings.deployment)
        except KafkaError as error:
            if not error.retriable or asyncio.get_running_loop().time() > deadline:
                msg = f"Kafka does not return the offsets of {settings.deployment} ({error}): try again"
                raise forbidden(error) or UnavailableError(msg) from error
        else:
            return found
        await asyncio.sleep(_AGAIN_SECONDS)


def _partitions(topic: TopicSpec) -> list[TopicPartition]:
    return [TopicPartition(topic.name, number) for number in range(topic.partitions)]
