"""stack.json: the addresses of local servers, for everybody else (`endpoints` reads it).

ports.json beside it outlives them: servers that are started again on the same data come back to their ports.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from app.devstack.ports import HOST
from app.file_writing import write_whole
from app.server_addresses import read_state, state_file


def record(home: Path, server: str, port: int, pid: int, log: Path, host: str = HOST) -> None:
    """Remember where a server is."""
    write_whole(_ports_file(home), json.dumps({**known_ports(home), server: port}) + "\n")
    entry = {"host": host, "port": port, "pid": pid, "log": str(log)}
    _write(home, {**read_state(home), server: entry})


def known_ports(home: Path) -> dict[str, int]:
    """The ports that servers of this home last had, by name."""
    try:
        found = json.loads(_ports_file(home).read_bytes())
    except (OSError, ValueError):
        return {}
    ports = found if isinstance(found, dict) else {}
    return {name: port for name, port in ports.items() if isinstance(port, int)}


def forget_ports(home: Path) -> None:
    """Data is gone: nothing ties servers to their ports any more."""
    _ports_file(home).unlink(missing_ok=True)


def mark_stopped(home: Path, server: str) -> None:
    """Keep the address of a server that will come back to it."""
    state = read_state(home)
    if server in state:
        state[server]["pid"] = None
        _write(home, state)


def forget(home: Path, servers: Iterable[str]) -> None:
    """Drop the addresses of servers; the file goes with the last one."""
    gone = set(servers)
    state = {name: entry for name, entry in read_state(home).items() if name not in gone}
    if state:
        _write(home, state)
    else:
        state_file(home).unlink(missing_ok=True)


def _ports_file(home: Path) -> Path:
    return home / "ports.json"


def _write(home: Path, state: dict[str, dict[str, object]]) -> None:
    write_whole(state_file(home), json.dumps(state, indent=2) + "\n")
