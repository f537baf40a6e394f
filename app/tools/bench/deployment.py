"""A deployment of its own for a measurement: topics, keyspace, state; nothing of the user's is touched."""

import asyncio
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from app.adapters.cassandra import connected
from app.adapters.kafka import admin, ensure_topics, log_ends
from app.adapters.schema import migrate
from app.devstack.endpoints import read_state, resolve
from app.settings import ENV_PREFIX, NOT_SETTINGS, Settings, load_settings
from app.topics import Topics

#: Committed this often while measuring, so that the end of a run is seen at once.
_COMMIT_INTERVAL = "200ms"


@contextmanager
def deployment(settings: Settings, name: str) -> Iterator[Settings]:
    """Settings of a deployment that lives for the length of the block, on the same servers.

    Args:
        settings: whose servers and model are used.
        name: lower case letters, digits and underscores; no other run may use it now.
    """
    home = settings.home / "bench" / name
    where = resolve(settings)
    own = load_settings(
        {
            **settings.model_dump(exclude_unset=True),
            "home": home,
            "broker": where.broker,
            "cassandra": ",".join(f"{host}:{port}" for host, port in where.cassandra),
            "topic_prefix": f"{name}-",
            "keyspace": name,
            "commit_interval": _COMMIT_INTERVAL,
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
    """The environment in which a child process finds this deployment."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(ENV_PREFIX) or key in NOT_SETTINGS
    }
    own = {
        "home": settings.home,
        "broker": settings.broker,
        "cassandra": settings.cassandra,
        "topic_prefix": settings.topic_prefix,
        "keyspace": settings.keyspace,
        "model": settings.model,
        "partitions": settings.partitions,
        "commit_interval": _COMMIT_INTERVAL,
    }
    return kept | {ENV_PREFIX + key.upper(): str(value) for key, value in own.items()} | more


async def _delete_topics(settings: Settings) -> None:
    async with admin(settings) as client:
        ours = [
            name for name in await client.list_topics() if name.startswith(settings.topic_prefix)
        ]
        if ours:
            await client.delete_topics(ours)


async def committed(settings: Settings, topic: str) -> int:
    """Records of a topic that the deployment's group has finished."""
    async with admin(settings) as client:
        group = settings.topic_prefix + settings.app_id
        offsets = await client.list_consumer_group_offsets(group)
        return sum(at.offset for tp, at in offsets.items() if tp.topic == topic and at.offset > 0)


async def records_in(settings: Settings, topic: str) -> int:
    """Records that a topic holds."""
    return sum((await log_ends(settings, topic)).values())


class CpuClock:
    """CPU seconds of processes: the worker's and those of the local servers, apart.

    Args:
        pids: by name; unknown ones (an external server) are left out.
    """

    def __init__(self, pids: Mapping[str, int | None]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items() if pid}
        self._started = self._read()

    def seconds(self) -> dict[str, float]:
        """CPU seconds since this clock was made."""
        return {name: now - self._started[name] for name, now in self._read().items()}

    def memory_mib(self) -> dict[str, float]:
        """Resident memory, MiB."""
        return {name: one.memory_info().rss / 2**20 for name, one in self._processes.items()}

    def _read(self) -> dict[str, float]:
        times = {name: one.cpu_times() for name, one in self._processes.items()}
        return {name: one.user + one.system for name, one in times.items()}


def server_pids(home: Path) -> dict[str, int | None]:
    """Pids of the local servers, empty for external ones."""
    return {name: one.get("pid") for name, one in read_state(home).items()}
