"""Workers as child processes with a port, a state folder and a log of their own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import app as package
from app.devstack import ports, server_logs

#: Until a worker that was asked to end is killed: it finishes blocks and leaves the group.
KILL_WORKER_SECONDS = 20.0
_ASK_SECONDS = 5.0


class WorkerProcess:
    """One `fraudstream worker` with a port and a state folder of its own.

    Args:
        port: of its web views.
        datadir: its state; the log is `worker.log` in it.
        environ: its environment; None: this process's.
        host: address its web views listen on, as the settings have it.

    Attributes:
        starts: how often it was started.
        code: folder of the project that it runs from its next start on; ours unless somebody sets another one.
    """

    def __init__(
        self,
        port: int,
        datadir: Path,
        *,
        environ: Mapping[str, str] | None = None,
        host: str = ports.HOST,
    ) -> None:
        self.port = port
        self.datadir = datadir
        self.log = datadir / "worker.log"
        self.starts = 0
        self.code = Path(package.__file__).resolve().parents[1]
        self._environ = environ
        self._host = ports.HOST if host in ("0.0.0.0", "::", "") else host  # noqa: S104
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0

    @property
    def url(self) -> str:
        """Where its web views answer."""
        return f"http://{self._host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id, None before the first start."""
        return self._process.pid if self._process else None

    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def exit_code(self) -> int | None:
        """How its process ended: a negative signal number or an exit code; None while it runs."""
        return self._process.poll() if self._process else None

    def command(self) -> list[str]:
        """What is run. Its standard input is closed when we are gone."""
        module = [sys.executable, "-P", "-m", "app.lab.lifeline"]
        return [*module, "worker", "--web-port", str(self.port), "--datadir", str(self.datadir)]

    def start(self) -> None:
        """Start it; returns at once."""
        self._log_offset = server_logs.rotate(self.log)
        root = str(self.code)
        environ = dict(os.environ if self._environ is None else self._environ)
        path = environ.get("PYTHONPATH")
        # -P and the path: the folder that a person stands in may have an `app` of its own
        environ["PYTHONPATH"] = os.pathsep.join([root, path] if path else [root])
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                self.command(),
                env=environ,
                stdin=subprocess.PIPE,  # never written to: see lifeline.py
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who stop it in order
            )
        self.starts += 1

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a crash would, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.await_end()

    def stop(self, timeout_seconds: float = KILL_WORKER_SECONDS) -> bool:
        """Ask it to end, wait, and kill it at the deadline; returns whether it had to be killed."""
        return bool(stop_all([self], timeout_seconds))

    def reasons(self) -> list[str] | None:
        """Why it is not ready; empty when it is, None when it does not answer."""
        try:
            with self.ask("/health/ready") as answer:
                answer.read()
                return []
        except urllib.error.HTTPError as error:
            with suppress(ValueError, KeyError, TypeError):
                return [str(reason) for reason in json.loads(error.read())["reasons"]]
            return [f"it answers {error.code}"]
        except OSError:
            return None

    def ask(self, path: str) -> Any:
        """The answer of its web server to a GET, as `urllib.request.urlopen` gives it.

        Raises:
            OSError: it does not answer (`urllib.error.HTTPError`: it refuses).
        """
        # a proxy cannot reach this machine's ports
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(self.url + path, timeout=_ASK_SECONDS)

    def last_words(self) -> str:
        """What its log tells of its end: the sentence meant for people, else the telling lines."""
        try:
            text = server_logs.since(self.log, self._log_offset)
        except OSError:
            return f"its log {self.log} cannot be read"
        said = [line for line in text.splitlines() if line.startswith("fraudstream: ")]
        if said:
            return f"{said[-1].removeprefix('fraudstream: ')} (log: {self.log})"
        return f"{self.log} says:\n{server_logs.telling_lines(text)}"

    def await_end(self, timeout_seconds: float | None = None) -> bool:
        """Wait until its process is gone; returns whether it is. None: as long as it takes."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        if self._process.stdin:
            self._process.stdin.close()
        return True


def stop_all(
    workers: Iterable[WorkerProcess], timeout_seconds: float = KILL_WORKER_SECONDS
) -> list[WorkerProcess]:
    """Stop workers side by side; returns those that had to be killed.

    An interruption while waiting kills them all: none is left behind.
    """
    running = [worker for worker in workers if worker.alive()]
    deadline = time.monotonic() + timeout_seconds
    late: list[WorkerProcess] = list(running)
    try:
        for worker in running:
            worker.send(signal.SIGTERM)
        late = [w for w in running if not w.await_end(max(0.0, deadline - time.monotonic()))]
    finally:
        for worker in late:
            worker.kill()
    return late
