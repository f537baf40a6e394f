"""A deployment of its own for each figure, on the same servers."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.devstack.stack import Stack
from app.server_addresses import Endpoints
from app.settings import Settings
from tests.crash.run import end_when_told, remove
from tests.deployment import Deployment


@dataclass(frozen=True)
class Servers:
    """A Kafka and a Cassandra.

    Attributes:
        endpoints: where they are.
        home: for what is written meanwhile.
    """

    endpoints: Endpoints
    home: Path

    @contextmanager
    def deployment(self, name: str, **settings: Any) -> Iterator[tuple[Deployment, Path]]:
        """Topics, tables, and a folder."""
        folder = self.home / name
        folder.mkdir()
        made = Settings(
            _env_file=None,  # type: ignore[call-arg]
            home=folder / "home",
            broker=self.endpoints.broker,
            cassandra=",".join(f"{host}:{port}" for host, port in self.endpoints.cassandra),
            app_id=name,
            topic_prefix=f"{name}-",
            keyspace=name,
            web_port=0,
            **settings,
        )
        deployment = Deployment(made)
        deployment.prepare()
        yield deployment, folder


@contextmanager
def own_servers(name: str) -> Iterator[Servers]:
    """Servers for the length of a block, also where SIGTERM ends it; nothing of them is left."""
    end_when_told()
    home = Path(tempfile.mkdtemp(prefix=f"fraudstream-{name}-"))
    stack = Stack(home, quick=True)
    try:
        endpoints = stack.up(free_ports=True)
        assert endpoints is not None
        yield Servers(endpoints, home)
    finally:
        stack.wipe()
        remove(home)


def quantiles(milliseconds: list[float]) -> str:
    """Median, 95th and 99th percentile and the most, as text."""
    ordered = sorted(milliseconds)
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return ", ".join(
        f"{name} {ordered[min(len(ordered) - 1, int(q * len(ordered)))]:.0f} ms"
        for name, q in at.items()
    )
