"""Real servers for tests: one Kafka and one Cassandra per session; their data lie in memory where there is room.

`FRAUDSTREAM_TEST_BROKER` and `FRAUDSTREAM_TEST_CASSANDRA` (host:port) name servers that are there
already; both or neither. Otherwise local ones start on free ports, and are wiped at the end. They
are durable, so that a test may kill Cassandra and hold it to what it acknowledged.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.address_syntax import CASSANDRA_PORT, parse_addresses
from app.devstack.stack import Stack
from app.server_addresses import Endpoints
from app.settings import Settings
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
