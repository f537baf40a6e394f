"""Worker processes by name, watched as a deployment's supervisor would: tests kill and pause them."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from app.devstack import ports
from app.errors import StateError, UnavailableError
from app.lab.worker_processes import WorkerProcess, stop_all

#: What runs a worker for as long as its parent lives.
LIFELINE = "app.lab.lifeline"
READY_SECONDS = 120.0
STOP_SECONDS = 60.0
_WATCH_SECONDS = 0.1
#: A worker that ends with 70 again and again does not mend: no supervisor would go on for ever.
_MOST_RESTARTS = 25


def prompt_seconds() -> float:
    """What SIGTERM may take: ten seconds, as long as each processor has one thing to do."""
    return 10.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Fleet:
    """Workers of one deployment, each with a port, a state folder and a log that outlives the folder.

    Args:
        environ: environment of the workers.
        folder: where state folders and logs are.
        say: told of every start and end that nobody asked for.
        module: what runs `fraudstream`; another one, to prepare the process.

    Attributes:
        restarts: last words of each worker that ended with exit code 70 and was started again.
        waits: how often one ended because a server did not answer, and was started again.
        failures: ends that no supervisor would mend.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        folder: Path,
        say: Callable[[str, str], None] = lambda action, target: None,
        module: str = LIFELINE,
    ) -> None:
        self.restarts: list[str] = []
        self.waits = 0
        self.failures: list[str] = []
        self.workers: dict[str, WorkerProcess] = {}
        self._environ = environ
        self._folder = folder
        self._say = say
        self._module = module
        self._wanted: set[str] = set()
        self._taken: set[int] = set()
        self._lock = threading.RLock()  # between a restart and whoever kills or stops
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fleet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._ending.set()
            for worker in self.workers.values():
                worker.send(signal.SIGCONT)
                if error is not None:
                    worker.kill()
            stop_all(self.workers.values(), STOP_SECONDS)
        self._thread.join()

    def __getitem__(self, name: str) -> WorkerProcess:
        return self.workers[name]

    @property
    def running(self) -> list[str]:
        """Names of the workers that are meant to run."""
        return sorted(self._wanted)

    def prefer(self, code: Path, *names: str) -> None:
        """Run the code in a folder from the next start of some workers on."""
        with self._lock:
            for name in names:
                self._made(name).code = code

    def start(self, *names: str, environ: Mapping[str, str] | None = None) -> None:
        """Start workers, new ones or again; returns at once.

        Args:
            names: which.
            environ: further environment of new ones.
        """
        with self._lock:
            for name in names:
                self._made(name, environ)
                self.workers[name].start()
                self._wanted.add(name)

    def _made(self, name: str, environ: Mapping[str, str] | None = None) -> WorkerProcess:
        if name not in self.workers:
            port = ports.free_run(1, self._taken)
            self._taken.add(port)
            environ = {**self._environ, **(environ or {})}
            self.workers[name] = _Worker(port, self._folder / name, environ, self._module)
        return self.workers[name]

    def kill(self, name: str) -> None:
        """End one at once, as a crash would; it stays down."""
        with self._asked(name) as worker:
            worker.kill()

    def terminate(self, name: str) -> float:
        """Ask one to end and wait for it; returns the seconds that it took.

        Raises:
            AssertionError: it did not end in time.
        """
        with self._asked(name) as worker:
            began = time.monotonic()
            worker.send(signal.SIGTERM)
            if not worker.await_end(STOP_SECONDS):
                worker.kill()
                msg = f"{name} did not end within {STOP_SECONDS:g} s of SIGTERM: {worker.log}"
                raise AssertionError(msg)
            return time.monotonic() - began

    def wipe(self, name: str) -> None:
        """Delete the state folder of one that is down."""
        shutil.rmtree(self.workers[name].datadir, ignore_errors=True)  # it may not be there yet

    def pause(self, name: str) -> None:
        """Stop one with SIGSTOP: to the group it falls silent."""
        self.workers[name].send(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a paused one go on."""
        self.workers[name].send(signal.SIGCONT)

    def await_ready(self, *names: str, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until workers say that they are ready; all that run, by default.

        Raises:
            AssertionError: one is not in time, or has ended for good.
        """
        deadline = time.monotonic() + timeout_seconds
        for name in names or self.running:
            while (reasons := self.workers[name].reasons()) != []:
                self.check()
                if time.monotonic() > deadline:
                    msg = f"{name} is not ready: {reasons}; log: {self.workers[name].log}"
                    raise AssertionError(msg)
                time.sleep(_WATCH_SECONDS)

    def check(self) -> None:
        """Fail if a worker has ended for good and nobody asked for it.

        Raises:
            AssertionError: one has.
        """
        assert not self.failures, "; ".join(self.failures)

    @contextmanager
    def _asked(self, name: str) -> Iterator[WorkerProcess]:
        with self._lock:
            self._wanted.discard(name)
            yield self.workers[name]

    def _watch(self) -> None:
        while not self._ending.wait(_WATCH_SECONDS):
            with self._lock:
                for name in self.running:
                    worker = self.workers[name]
                    code = worker.exit_code()
                    if code is not None and not self._ending.is_set():
                        self._ended(name, worker, code)

    def _ended(self, name: str, worker: WorkerProcess, code: int) -> None:
        words = worker.last_words()
        self._say("exited", f"{name} with {code}: {words.splitlines()[0]}")
        if code == StateError.exit_code and len(self.restarts) < _MOST_RESTARTS:
            self.restarts.append(f"{name}: {words}")
            worker.start()
            return
        if code == UnavailableError.exit_code:
            self.waits += 1
            worker.start()
            return
        self._wanted.discard(name)
        self.failures.append(f"{name} ended with exit code {code}: {words}")


class _Worker(WorkerProcess):
    """Its log is beside its state folder, which may be deleted."""

    def __init__(self, port: int, datadir: Path, environ: Mapping[str, str], module: str) -> None:
        super().__init__(port, datadir, environ=environ)
        self.log = datadir.with_suffix(".log")
        self._module = module

    def command(self) -> list[str]:
        """As any worker's, run by the module that was asked for."""
        return [self._module if part == LIFELINE else part for part in super().command()]
