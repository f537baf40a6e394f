"""Servers, topics and tables are there when this is done."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from app.devstack import ports
from app.devstack.cluster import cluster_of
from app.devstack.progress import ConsoleProgress
from app.devstack.servers import SERVERS
from app.devstack.stack import Stack
from app.errors import UnavailableError
from app.folder_locks import require_unlocked
from app.kafka.topic_admin import ensure_topics
from app.lab.worker_processes import WorkerProcess
from app.machine_requirements import require_disk
from app.settings import Settings
from app.topics import Topics

#: What a transaction takes on disk, in topics, state and Cassandra together, bytes.
_BYTES_A_TRANSACTION = 4_096


def start_servers(
    settings: Settings, *, free_ports: bool, events: int, say: Callable[[str], None]
) -> None:
    """Start what the settings do not name elsewhere and does not run yet.

    Args:
        settings: the deployment.
        free_ports: take free ports.
        events: how many transactions the disk must hold.
        say: told each step.

    Raises:
        UnavailableError: a port is taken, the disk is full, Java is missing, or a server fails.
    """
    elsewhere = {"kafka": settings.broker, "cassandra": settings.cassandra}
    names = [name for name in SERVERS if not elsewhere[name]]
    for name, address in elsewhere.items():
        if address:
            say(f"{SERVERS[name].title} is at {address}, as the settings say")
    if not names:
        return
    require_disk(settings.home, events * _BYTES_A_TRANSACTION, "this demo")
    if cluster := cluster_of(settings.home, progress=ConsoleProgress(say)):
        cluster.up(names)
        return
    stack = Stack(settings.home, progress=ConsoleProgress(say))
    if not free_ports:
        for name in names:
            if stack.running(name) is None:
                _require_free(name)
    stack.up(names, free_ports=free_ports)


def prepare(settings: Settings) -> tuple[list[str], list[str]]:
    """Create the topics and tables that are missing; returns the names of both.

    Raises:
        FraudstreamError: a server does not answer, or what exists differs.
    """
    from app.cassandra import schema_migration
    from app.cassandra.session import connected

    made = asyncio.run(ensure_topics(settings, Topics(settings).all))
    with connected(settings) as session:
        return made, schema_migration.migrate(session, settings).applied


def takes_free_ports(settings: Settings, free_ports: bool) -> bool:
    """Whether workers take any port that is free, by the option or by FRAUDSTREAM_WEB_PORT=0."""
    return free_ports or settings.web_port == 0


def make_workers(settings: Settings, count: int, *, free_ports: bool) -> list[WorkerProcess]:
    """The workers, not started: on the port of the settings and those behind it, or on free ones.

    Raises:
        UnavailableError: a port is taken.
    """
    free = takes_free_ports(settings, free_ports)
    first = ports.free_run(count) if free else settings.web_port
    workers = []
    for number in range(count):
        port = first + number
        if not free and not ports.is_free(port):
            raise UnavailableError(_taken("a worker", port, _worker_at(settings, port)))
        # a free port is another one next time: the state stays where it is; deployments that
        # share the home must not share state
        name = settings.topic_prefix + (f"free-{number}" if free else str(port))
        folder = settings.home / "workers" / name
        if settings.datadir is not None:
            folder = settings.datadir / name if count > 1 else settings.datadir
        require_unlocked(folder)
        workers.append(WorkerProcess(port, folder, host=settings.web_host))
    return workers


def _require_free(name: str) -> None:
    server = SERVERS[name]
    for port in server.ports(server.port):
        if not ports.is_free(port):
            raise UnavailableError(_taken(server.title, port, None))


def _worker_at(settings: Settings, port: int) -> str | None:
    """The worker of this home that has a port, if it is one: a demo's, or a person's own."""
    for file in (settings.home / "workers").glob("*/worker.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(file.read_bytes())
            if urlsplit(str(said["url"])).port == port:
                return f"pid {int(said['pid'])} (a worker of this home)"
    return None


def _taken(who: str, port: int, holder: str | None) -> str:
    holder = holder or ports.holder(port) or "another process"
    return (
        f"{who} cannot use port {port}: it is in use by {holder}; stop that, or take free ports: "
        "`fraudstream demo --free-ports`"
    )
