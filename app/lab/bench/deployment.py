"""A deployment of its own for a measurement: topics, keyspace, state; nothing of the user's is touched."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import TopicPartition
from pydantic import SecretStr

from app.cassandra.schema_migration import migrate
from app.cassandra.session import connected
from app.durations import is_duration
from app.kafka.clients import admin, consumer
from app.kafka.topic_admin import ensure_topics
from app.server_addresses import resolve
from app.settings import ENV_PREFIX, NOT_SETTINGS, Settings, load_settings
from app.topics import Topics
from models.artifact_folders import artifact_folders


@contextmanager
def deployment(settings: Settings, name: str, **changed: Any) -> Iterator[Settings]:
    """Settings of a deployment that lives for the length of the block, on the same servers.

    Args:
        settings: whose servers and model are used.
        name: lower case letters, digits and underscores; no other run may use it now.
        changed: further settings that differ, by field name.
    """
    # absolute: peers run in a folder of their own
    home = (settings.home / "bench" / name).resolve()
    where = resolve(settings)
    own = load_settings(
        {
            **settings.model_dump(exclude_unset=True),
            "home": home,
            "broker": where.broker,
            "cassandra": ",".join(f"{host}:{port}" for host, port in where.cassandra),
            "topic_prefix": f"{name}-",
            "keyspace": name,
            # by its folder: models below the home that was left have no name here
            "model": str(artifact_folders(settings).find(settings.model).folder),
            **changed,
        }
    )
    try:
        asyncio.run(ensure_topics(own, Topics(own).all))
        with connected(own) as session:
            migrate(session, own)
        yield own
    finally:
        asyncio.run(_delete_topics(own))
        with connected(own) as session:
            session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)
        shutil.rmtree(home, ignore_errors=True)


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """The environment in which a child process finds this deployment.

    Args:
        settings: the deployment's.
        more: further variables, such as BENCH_EVENTS.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(ENV_PREFIX) or key in NOT_SETTINGS
    }
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    own = {
        ENV_PREFIX + name.upper(): _spelled(name, value)
        for name, value in values.items()
        if value is not None
    }
    return kept | own | more


def _spelled(name: str, value: Any) -> str:
    if isinstance(value, tuple):  # windows are numbers, feature sets are names
        return ",".join(f"{part}ms" if isinstance(part, int) else part for part in value)
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return f"{value}ms" if is_duration(Settings.model_fields[name]) else str(value)


async def _delete_topics(settings: Settings) -> None:
    async with admin(settings) as client:
        # a peer's internal topics have the prefix somewhere in their names
        ours = [name for name in await client.list_topics() if settings.topic_prefix in name]
        if ours:
            await client.delete_topics(ours)


async def committed(client: Any, settings: Settings, topic: str) -> int:
    """Records of a topic that the deployment's group has finished; `client` is a started admin client."""
    group = settings.deployment
    offsets = await client.list_consumer_group_offsets(group)
    return sum(at.offset for tp, at in offsets.items() if tp.topic == topic and at.offset > 0)


async def first_record(settings: Settings, topic: str) -> float:
    """Epoch seconds of the oldest record of a topic."""
    async with consumer(settings) as ready:
        wanted = {TopicPartition(topic, number): 0 for number in range(settings.partitions)}
        found = await ready.offsets_for_times(wanted)
        return min(at.timestamp for at in found.values() if at is not None) / 1000
