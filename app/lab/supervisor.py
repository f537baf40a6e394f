"""A supervisor of workers, as systemd or Kubernetes is for a deployment.

A worker that ends with exit code 70 found something that it cannot explain, has acknowledged nothing
unfinished, and is started again. Any other end is told by `check`, with the last words of its log.
"""

import signal
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from app.devstack import ports
from app.errors import StateError, UnavailableError
from app.lab.worker_processes import KILL_WORKER_SECONDS, WorkerProcess, stop_all

#: Until a worker says that it is ready: it imports, joins the group and rebuilds its tables.
READY_SECONDS = 180.0
#: A worker that ends with 70 more often than this within `_RESTART_WINDOW_SECONDS` is given up.
MOST_RESTARTS = 5
_RESTART_WINDOW_SECONDS = 60.0
_WATCH_SECONDS = 0.1


class Workers:
    """Several workers under one supervisor; as a context it stops them all at its end.

    Args:
        workers: not started yet.

    Attributes:
        restarts: how often one was started again after exit code 70.
    """

    def __init__(self, workers: Iterable[WorkerProcess]) -> None:
        self.all = list(workers)
        self.restarts = 0
        self.ready = False
        self._failed: tuple[WorkerProcess, int] | None = None
        self._recent: list[float] = []
        self._ending = threading.Event()
        self._lock = threading.Lock()  # between a restart and the end
        self._thread = threading.Thread(target=self._watch, name="workers", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all.

        Raises:
            UnavailableError: a port is taken, or a folder cannot be written; none is left running.
        """
        for worker in self.all:
            if not ports.is_free(worker.port):
                holder = ports.holder(worker.port) or "another process"
                msg = f"a worker cannot use port {worker.port}: it is in use by {holder}"
                raise UnavailableError(msg)
        try:
            for worker in self.all:
                worker.start()
        except OSError as error:
            stop_all(self.all)
            msg = f"cannot start a worker: {error}"
            raise UnavailableError(msg) from error
        except BaseException:
            stop_all(self.all)
            raise
        self._thread.start()

    def await_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until all are ready.

        Raises:
            UnavailableError: one ended, or is not ready in time; the text says why.
        """
        deadline = time.monotonic() + timeout_seconds
        for worker in self.all:
            while (reasons := worker.reasons()) != []:
                self.check()
                if time.monotonic() > deadline:
                    why = "; ".join(reasons or ["its web server does not answer"])
                    msg = f"the worker is not ready after {timeout_seconds:g} s: {why} (log: {worker.log})"
                    raise UnavailableError(msg)
                time.sleep(_WATCH_SECONDS)
        self.check()
        self.ready = True

    def check(self) -> None:
        """Tell of a worker that has ended for good.

        Raises:
            UnavailableError: one has; the text has the end of its log.
        """
        if self._failed is None:
            return
        worker, code = self._failed
        how = (
            f"was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with exit code {code}"
        )
        when = "" if self.ready else " while starting"
        if code == StateError.exit_code:
            how = f"ended repeatedly with exit code {code}"
        msg = f"the worker on port {worker.port} {how}{when}: {worker.last_words()}"
        raise UnavailableError(msg)

    def stop(self, timeout_seconds: float = KILL_WORKER_SECONDS) -> list[WorkerProcess]:
        """Stop all; returns those that had to be killed."""
        self._ending.set()
        with self._lock:
            return stop_all(self.all, timeout_seconds)

    def _watch(self) -> None:
        while not self._ending.wait(_WATCH_SECONDS):
            with self._lock:
                for worker in self.all:
                    code = worker.exit_code()
                    if code is not None and not self._ending.is_set() and self._failed is None:
                        self._end_of(worker, code)

    def _end_of(self, worker: WorkerProcess, code: int) -> None:
        now = time.monotonic()
        self._recent = [at for at in self._recent if now - at < _RESTART_WINDOW_SECONDS]
        if code != StateError.exit_code or len(self._recent) >= MOST_RESTARTS:
            self._failed = (worker, code)
            return
        self._recent.append(now)
        self.restarts += 1
        worker.start()
