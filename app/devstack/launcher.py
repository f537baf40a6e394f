"""Starting one server process and watching it until it answers, or telling why it did not."""

import re
import ssl
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.devstack import ports, recorded_addresses, server_logs
from app.devstack.environment import environment
from app.devstack.progress import Progress
from app.devstack.server import LaunchSettings, Server
from app.devstack.server_processes import RunningServer
from app.devstack.servers import SERVERS
from app.errors import UnavailableError

_POLL_SECONDS = 0.1
_PORT_IN_USE = re.compile(
    r"Address already in use|is in use by another process|Failed to bind port"
)
_NO_MEMORY = re.compile(r"OutOfMemoryError|Cannot allocate memory|Could not reserve enough space")


class PortStolenError(UnavailableError):
    """Somebody took a port between our look and the server's start; `--free-ports` tries others."""


@dataclass
class _Child:
    server: Server
    process: subprocess.Popen[bytes]
    host: str
    port: int
    log_offset: int
    elsewhere: bool
    tls: ssl.SSLContext | None

    def answers(self) -> bool:
        """Whether it, and not a stranger on the same port, serves; in another network there are no strangers."""
        ours = self.elsewhere or ports.listens(psutil.Process(self.process.pid), self.port)
        return ours and self.server.answers(self.host, self.port, self.tls)


class Launcher:
    """Starts the server processes of one home.

    Args:
        home: absolute folder of the deployment.
        progress: where steps are told.
        enter: what runs a server's command elsewhere, such as in another network.
    """

    def __init__(self, home: Path, progress: Progress, enter: Sequence[str] = ()) -> None:
        self._home = home
        self._enter = enter
        self._progress = progress
        self._children: dict[str, _Child] = {}

    def spawn(self, name: str, version: str, launch: LaunchSettings) -> None:
        """Start a process of its own session, which outlives this one, and record it.

        Raises:
            UnavailableError: its data folder cannot be prepared.
        """
        server = SERVERS[name]
        log = server.log(self._home)
        self._progress.step(
            f"Starting {server.title} {version} at {launch.host}:{launch.port}, log {log}"
        )
        command = [*self._enter, *server.command(launch)]
        offset = server_logs.rotate(log)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=server.folder(self._home),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[name] = _Child(
            server, process, launch.host, launch.port, offset, bool(self._enter), launch.extra.tls
        )
        recorded_addresses.record(self._home, name, launch.port, process.pid, log, launch.host)

    def await_started(self, names: list[str], began: float, timeout_seconds: float) -> None:
        """Wait until all answer.

        Args:
            names: of servers that `spawn` started.
            began: monotonic time from which seconds are told.
            timeout_seconds: from now.

        Raises:
            UnavailableError: one ended, or did not answer in time; with the end of its log.
            PortStolenError: one ended because somebody took its port.
        """
        deadline = time.monotonic() + timeout_seconds
        waiting = [self._children[name] for name in names]
        while waiting:
            for child in list(waiting):
                if (code := child.process.poll()) is not None:
                    raise self._death(child, code)
                if child.answers():
                    seconds = time.monotonic() - began
                    self._progress.step(f"{child.server.title} answers after {seconds:.1f} s")
                    waiting.remove(child)
            if waiting and time.monotonic() > deadline:
                raise self._silence(waiting[0].server, waiting[0].log_offset, timeout_seconds)
            time.sleep(_POLL_SECONDS if waiting else 0)

    def await_running(self, name: str, running: RunningServer, timeout_seconds: float) -> None:
        """Wait for a server that another command started, and record it if nobody did.

        Raises:
            UnavailableError: it does not answer, or ended.
        """
        server = SERVERS[name]
        deadline = time.monotonic() + timeout_seconds
        first = True
        while not server.answers(running.host, running.port):
            if first:
                self._progress.step(
                    f"{server.title} is running (pid {running.pid}) but does not answer yet: waiting"
                )
                first = False
            if not running.alive() or time.monotonic() > deadline:
                msg = (
                    f"{server.title} (pid {running.pid}) does not answer: run `fraudstream down` "
                    f"and `fraudstream up` again; its log is {server.log(self._home)}"
                )
                raise UnavailableError(msg)
            time.sleep(_POLL_SECONDS)
        self._progress.step(
            f"{server.title} is already up at {running.host}:{running.port} (pid {running.pid})"
        )
        recorded_addresses.record(
            self._home, name, running.port, running.pid, server.log(self._home), running.host
        )

    def _death(self, child: _Child, code: int) -> UnavailableError:
        title, log = child.server.title, child.server.log(self._home)
        said = server_logs.since(log, child.log_offset)
        if _PORT_IN_USE.search(said):
            held = [
                port
                for port in child.server.ports(child.port)
                if not ports.is_free(port, child.host)
            ]
            return PortStolenError(ports.taken((held or [child.port])[0], title, child.server.name))
        if "No space left on device" in said:
            return UnavailableError(
                f"{title} cannot start: the disk of {log.parent} is full; free some space"
            )
        if _NO_MEMORY.search(said):
            return UnavailableError(
                f"{title} cannot start: not enough memory; free some, or lower "
                f"--{child.server.name}-heap (log: {log})"
            )
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return UnavailableError(
            f"{title} {end} while starting; {log} ends with:\n{server_logs.telling_lines(said)}"
        )

    def _silence(self, server: Server, offset: int, timeout_seconds: float) -> UnavailableError:
        log = server.log(self._home)
        return UnavailableError(
            f"{server.title} did not answer within {timeout_seconds:g} s and was stopped; {log} "
            f"ends with:\n{server_logs.telling_lines(server_logs.since(log, offset))}"
        )
