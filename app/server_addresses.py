"""Where Kafka and Cassandra are: the settings' word, else the local servers of `fraudstream up`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.address_syntax import CASSANDRA_PORT, parse_addresses
from app.errors import UnavailableError
from app.settings import Settings


@dataclass(frozen=True)
class Endpoints:
    """Addresses of both servers.

    Attributes:
        broker: Kafka bootstrap servers, `host:port[,host:port]`.
        cassandra: Cassandra contact points, each (host, port).
    """

    broker: str
    cassandra: list[tuple[str, int]]


def resolve(settings: Settings) -> Endpoints:
    """Addresses of both servers.

    Raises:
        UnavailableError: one is neither set nor recorded as a local server.
    """
    return Endpoints(resolve_broker(settings), resolve_cassandra(settings))


def resolve_broker(settings: Settings) -> str:
    """Kafka bootstrap servers alone, for commands that need no Cassandra.

    Raises:
        UnavailableError: Kafka is neither set nor recorded as a local server.
    """
    if settings.broker:
        return settings.broker
    found = _recorded(settings.home, "kafka")
    if not found:
        msg = "no Kafka: run `fraudstream up`, or set FRAUDSTREAM_BROKER"
        raise UnavailableError(msg)
    return ",".join(f"{host}:{port}" for host, port in found)


def resolve_cassandra(settings: Settings) -> list[tuple[str, int]]:
    """Cassandra contact points alone, each (host, port).

    Raises:
        UnavailableError: Cassandra is neither set nor recorded as a local server.
    """
    if settings.cassandra:
        return parse_addresses(settings.cassandra, CASSANDRA_PORT)
    found = _recorded(settings.home, "cassandra")
    if not found:
        msg = "no Cassandra: run `fraudstream up`, or set FRAUDSTREAM_CASSANDRA"
        raise UnavailableError(msg)
    return found


def members(home: Path, server: str) -> Path:
    """The folder of a home that has the homes of several brokers (`kafka`) or nodes (`cassandra`)."""
    return home / {"kafka": "brokers", "cassandra": "nodes"}[server]


def _recorded(home: Path, server: str) -> list[tuple[str, int]]:
    """Where the local server is, or each of several."""
    states = (read_state(one) for one in (home, *sorted(members(home, server).glob("*"))))
    return [(state[server]["host"], state[server]["port"]) for state in states if server in state]


def state_file(home: Path) -> Path:
    """The file that records the local servers of a home."""
    return home / "stack.json"


def read_state(home: Path) -> dict[str, dict[str, Any]]:
    """Records of the local servers, by name (`kafka`, `cassandra`): host, port, pid, log.

    A missing or damaged file reads as no servers: `fraudstream up` writes it anew.
    """
    try:
        state = json.loads(state_file(home).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(state, dict):
        return {}
    return {
        name: record
        for name, record in state.items()
        if isinstance(record, dict) and {"host", "port"} <= record.keys()
    }
