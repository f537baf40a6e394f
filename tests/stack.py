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
from contextlib import contextmanager, suppress
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
from tests.keyspaces import Keyspaces

# Taken out of the environment: commands under test refuse FRAUDSTREAM_ names that are no settings.
_BROKER = os.environ.pop("FRAUDSTREAM_TEST_BROKER", None)
_CASSANDRA = os.environ.pop("FRAUDSTREAM_TEST_CASSANDRA", None)


#: Files in memory, where there is so much room: servers start and make tables in half the time, because nothing waits
#: for a disk. What a killed server wrote is there all the same.
_MEMORY, _MEMORY_BYTES = Path("/dev/shm"), 8 << 30  # noqa: S108 -- each folder below it has a name of its own


@contextmanager
def servers_folder(prefix: str) -> Iterator[Path]:
    """A folder for the data of servers, deleted afterwards."""
    where = None
    with suppress(OSError):
        at = os.statvfs(_MEMORY)
        if at.f_bavail * at.f_frsize > _MEMORY_BYTES and not at.f_flag & os.ST_NOEXEC:
            where = _MEMORY  # servers unpack libraries there, and run them
    with tempfile.TemporaryDirectory(prefix=prefix, dir=where) as home:
        yield Path(home)


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
    with servers_folder("fraudstream-test-") as home:
        local = Stack(home, quick=True, durable=True)
        endpoints = local.up(free_ports=True)
        assert endpoints
        try:
            yield Servers(endpoints, local)
        finally:
            local.wipe()


@pytest.fixture(scope="session")
def keyspaces(stack: Servers) -> Iterator[Keyspaces]:
    """Keyspaces with tables, for one test after the other."""
    made = Keyspaces(Settings(_env_file=None, cassandra=stack.cassandra))  # type: ignore[call-arg]
    yield made
    made.close()


@pytest.fixture
def settings(
    stack: Servers,
    keyspaces: Keyspaces,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Settings]:
    """Settings of one test: topic prefix, app id and home are its own, and so is, meanwhile, the keyspace.

    The topics go when the test ends; the keyspace is emptied. `environ_of` gives them to a subprocess.
    """
    for name in [n for n in os.environ if n.startswith(ENV_PREFIX) and n not in NOT_SETTINGS]:
        monkeypatch.delenv(name)  # a developer's settings are not the test's
    unique = uuid.uuid4().hex[:10]
    own_keyspace = request.node.get_closest_marker("own_keyspace") is not None
    made = Settings(
        _env_file=None,  # type: ignore[call-arg]
        home=tmp_path / "home",
        broker=stack.broker,
        cassandra=stack.cassandra,
        app_id=f"t{unique}",
        topic_prefix=f"t{unique}-",
        keyspace=f"t{unique}" if own_keyspace else keyspaces.take(),
        web_port=0,
        # few features, so that workers start fast; tests of the defaults say so
        features=("basic",),
        model="default@1",
    )
    yield made
    with suppress(Exception), ThreadPoolExecutor(1) as pool:  # a test may leave servers stopped
        pool.submit(asyncio.run, _delete_topics(made)).result()
    with suppress(Exception):
        if own_keyspace:
            keyspaces.drop(made.keyspace)
        else:
            keyspaces.give_back(made.keyspace)


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
