"""Our servers among all processes. The command line is the proof: a number in a file never is."""

import signal
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.devstack.ports import HOST, is_free

_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.02
_PREFIX = "-Dfraudstream."


def marks(home: Path, server: str, port: int, host: str = HOST) -> list[str]:
    """Java options that tell whose server a process is; Java itself ignores them."""
    return [
        f"{_PREFIX}server={server}",
        f"{_PREFIX}home={home}",
        f"{_PREFIX}host={host}",
        f"{_PREFIX}port={port}",
    ]


@dataclass(frozen=True)
class RunningServer:
    """A live server process of one home."""

    process: psutil.Process
    port: int
    host: str = HOST

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid)

    def alive(self) -> bool:
        """Whether it still runs; a zombie that waits for its parent does not."""
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def uptime_seconds(self) -> float | None:
        """Seconds since it began, None if it just ended."""
        try:
            return time.time() - float(self.process.create_time())
        except psutil.Error:
            return None

    def memory_bytes(self) -> int | None:
        """Resident memory, None if it just ended."""
        try:
            return int(self.process.memory_info().rss)
        except psutil.Error:
            return None


def find(home: Path, server: str, pid: int | None = None) -> RunningServer | None:
    """The live server of a home, whatever stack.json says.

    Args:
        home: the absolute folder that was given to `marks`.
        server: kafka or cassandra.
        pid: the recorded one, looked at first. It may be stale: its number may be a stranger's now.
    """
    if pid is not None and (known := _match(pid, home, server)):
        return known
    for candidate in psutil.pids():
        if found := _match(candidate, home, server):
            return found
    return None


def _match(pid: int, home: Path, server: str) -> RunningServer | None:
    try:
        process = psutil.Process(pid)
        arguments = process.cmdline()
        if not {f"{_PREFIX}server={server}", f"{_PREFIX}home={home}"} <= set(arguments):
            return None
        port, host = (_marked(arguments, name) for name in ("port", "host"))
        found = RunningServer(process, int(port), host or HOST)
    except (psutil.Error, ValueError):
        return None
    return found if found.alive() else None


def _marked(arguments: list[str], name: str) -> str:
    mark = f"{_PREFIX}{name}="
    return next((a.removeprefix(mark) for a in arguments if a.startswith(mark)), "")


def stop(servers: Collection[RunningServer], timeout_seconds: float) -> list[RunningServer]:
    """Ask processes to end and wait; those that have not ended at the deadline are killed.

    Returns:
        The ones that had to be killed.
    """
    for server in servers:
        with suppress(psutil.Error):
            server.process.terminate()
            server.process.send_signal(signal.SIGCONT)  # a stopped process hears nothing before
    late = _await_end(servers, timeout_seconds)
    for server in late:
        kill(server)
    return late


def kill(server: RunningServer) -> None:
    """End a process at once, as a crash would, and wait until it is gone."""
    with suppress(psutil.Error):
        server.process.kill()
    _await_end([server], _KILL_SECONDS)


def _await_end(servers: Collection[RunningServer], timeout_seconds: float) -> list[RunningServer]:
    """Wait until processes have ended and let go of their ports; returns those that have not.

    Polls, where `psutil.wait_procs` would wait for a zombie to be reaped: in a container without an
    init process nobody does that, ever.
    """
    deadline = time.monotonic() + timeout_seconds
    while waiting := [s for s in servers if s.alive() or not is_free(s.port, s.host)]:
        if time.monotonic() > deadline:
            return [server for server in waiting if server.alive()]
        time.sleep(_POLL_SECONDS)
    for server in servers:
        with suppress(psutil.Error):
            server.process.wait(0)  # reaps it if it was our child
    return []
