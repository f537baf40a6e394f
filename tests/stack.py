"""Real servers for tests: one Kafka and one Cassandra a session, names of its own for each test.

`FRAUDSTREAM_TEST_BROKER` and `FRAUDSTREAM_TEST_CASSANDRA` (host:port) name servers that are there
already; both or neither. Otherwise local ones start on free ports, and are wiped at the end. They
are durable, so that a test may kill Cassandra and hold it to what it acknowledged.
"""

import asyncio
import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from app.addresses import CASSANDRA_PORT, parse_addresses
from app.devstack.stack import Stack
from app.durations import is_duration
from app.endpoints import Endpoints
from app.settings import ENV_PREFIX, NOT_SETTINGS, Settings

# Taken out of the environment: commands under test refuse FRAUDSTREAM_ names that are no settings.
_BROKER = os.environ.pop("FRAUDSTREAM_TEST_BROKER", None)
_CASSANDRA = os.environ.pop("FRAUDSTREAM_TEST_CASSANDRA", None)


@dataclass(frozen=True)
class Servers:
    """The servers of the session.

    Attributes:
        endpoints: where they are.
        local: starts, stops and kills them; None when they are not ours.
    """

    endpoints: Endpoints
    local: Stack | None

    @property
    def broker(self) -> str:
        """Kafka's bootstrap servers."""
        return self.endpoints.broker

    @property
    def cassandra(self) -> str:
        """Cassandra's contact points as the setting has them."""
        return ",".join(f"{host}:{port}" for host, port in self.endpoints.cassandra)

    def require_local(self) -> Stack:
        """The stack, for a test that stops or kills servers; skips where they are not ours."""
        if self.local is None:
            pytest.skip("needs servers that it may stop; unset FRAUDSTREAM_TEST_BROKER")
        return self.local


@pytest.fixture(scope="session")
def stack() -> Iterator[Servers]:
    """Kafka and Cassandra that answer."""
    if bool(_BROKER) != bool(_CASSANDRA):
        pytest.fail("set both FRAUDSTREAM_TEST_BROKER and FRAUDSTREAM_TEST_CASSANDRA, or neither")
    if _BROKER and _CASSANDRA:
        yield Servers(Endpoints(_BROKER, parse_addresses(_CASSANDRA, CASSANDRA_PORT)), None)
        return
    with tempfile.TemporaryDirectory(prefix="fraudstream-test-") as home:
        local = Stack(Path(home), quick=True, durable=True)
        endpoints = local.up(free_ports=True)
        assert endpoints
        try:
            yield Servers(endpoints, local)
        finally:
            local.wipe()


@pytest.fixture
def settings(stack: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of one test: topic prefix, app id, keyspace and home are its own.

    The topics and the keyspace go when the test ends. `environ_of` gives them to a subprocess.
    """
    for name in [n for n in os.environ if n.startswith(ENV_PREFIX) and n not in NOT_SETTINGS]:
        monkeypatch.delenv(name)  # a developer's settings are not the test's
    unique = uuid.uuid4().hex[:10]
    made = Settings(
        _env_file=None,  # type: ignore[call-arg]
        home=tmp_path / "home",
        broker=stack.broker,
        cassandra=stack.cassandra,
        app_id=f"t{unique}",
        topic_prefix=f"t{unique}-",
        keyspace=f"t{unique}",
        web_port=0,
        # few features, so that workers start fast; tests of the defaults say so
        features=("basic",),
        model="default@1",
    )
    yield made
    with suppress(Exception), ThreadPoolExecutor(1) as pool:  # a test may leave servers stopped
        pool.submit(asyncio.run, _delete_topics(made)).result()
    with suppress(Exception):
        _drop_keyspace(made, stack.endpoints)


@pytest.fixture
def session(settings: Settings) -> Iterator[Any]:
    """A session of the driver, with the test's tables."""
    from app.cassandra.schema import migrate
    from app.cassandra.session import close_shared_sessions, connect, disconnect

    session = connect(settings)
    migrate(session, settings)
    yield session
    close_shared_sessions()
    disconnect(session)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment under the settings' prefix, for commands that run in this process."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


def environ_of(settings: Settings) -> dict[str, str]:
    """The environment under which a subprocess reads the same settings."""
    values = settings.model_dump(mode="json", include=settings.model_fields_set)
    for name in values:
        if isinstance(secret := getattr(settings, name), SecretStr):
            values[name] = secret.get_secret_value()
    environment = {k: v for k, v in os.environ.items() if k in NOT_SETTINGS or ENV_PREFIX not in k}
    for name, value in values.items():
        if value is not None:
            unit = "ms" if is_duration(Settings.model_fields[name]) else ""
            environment[ENV_PREFIX + name.upper()] = _spell(value) + unit
    return environment


def _spell(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return ",".join(f"{part}ms" if isinstance(part, int) else part for part in value)


async def _delete_topics(settings: Settings) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=settings.broker, request_timeout_ms=5_000)
    async with asyncio.timeout(10):
        await client.start()
        try:
            own = (settings.topic_prefix, settings.app_id)
            topics = [name for name in await client.list_topics() if name.startswith(own)]
            if topics:
                await client.delete_topics(topics)
        finally:
            await client.close()


def _drop_keyspace(settings: Settings, endpoints: Endpoints) -> None:
    from cassandra.cluster import Cluster

    hosts = [host for host, _ in endpoints.cassandra]
    cluster = Cluster(hosts, port=endpoints.cassandra[0][1], connect_timeout=5)
    try:
        # A long timeout: dropping flushes and deletes every table.
        cluster.connect().execute(f"DROP KEYSPACE IF EXISTS {settings.keyspace}", timeout=20)
    finally:
        cluster.shutdown()
