"""Settings of tests on real servers: topics, app and keyspace of its own for each test, few features, simple model."""

import asyncio
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import SecretStr

from app.durations import is_duration
from app.settings import ENV_PREFIX, NOT_SETTINGS, Settings
from tests.keyspaces import Keyspaces
from tests.real_servers import Servers


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
    from app.cassandra.schema_migration import migrate
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
