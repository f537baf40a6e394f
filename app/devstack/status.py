"""What is known of one local server."""

from dataclasses import dataclass
from pathlib import Path

from app.devstack.server_processes import RunningServer
from app.devstack.servers import SERVERS
from app.server_addresses import read_state


@dataclass(frozen=True)
class ServerStatus:
    """What `fraudstream status` tells of one local server.

    Attributes:
        server: kafka or cassandra.
        state: `running` (answers), `silent` (the process lives and does not answer) or `stopped`.
        address: host:port, None if it does not run and is not recorded.
        pid: of the live process.
        uptime_seconds: since the process began.
        memory_bytes: resident memory.
        log: path of its log file.
    """

    server: str
    state: str
    address: str | None
    pid: int | None
    uptime_seconds: float | None
    memory_bytes: int | None
    log: str


def status_of(home: Path, name: str, running: RunningServer | None) -> ServerStatus:
    """Ask one server; `running` is its live process."""
    server = SERVERS[name]
    log = str(server.log(home))
    if running is None:
        record = read_state(home).get(name)
        address = f"{record['host']}:{record['port']}" if record else None
        return ServerStatus(name, "stopped", address, None, None, None, log)
    return ServerStatus(
        name,
        "running" if server.answers(running.host, running.port) else "silent",
        f"{running.host}:{running.port}",
        running.pid,
        running.uptime_seconds(),
        running.memory_bytes(),
        log,
    )
