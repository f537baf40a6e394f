"""What workers take, sampled from their own metrics: memory, files, threads and tasks must not grow for ever."""

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from app.lab.worker_processes import WorkerProcess

MIB = 1 << 20
#: A worker of a crash test holds some 16 MiB of decoded rows and 16 of RocksDB's cache for each table partition.
MOST_MEMORY_MIB = 700.0
#: More than one that has just started, with the same partitions. RocksDB opens a file for each of its own.
MORE_TASKS, MORE_FILES = 4, 150
#: Threads start when they are first needed: asyncio's pool, five for look-ups and figures of pages, four of the
#: Cassandra driver's session.
MORE_THREADS = min(32, (os.cpu_count() or 1) + 4) + 9
_EVERY_SECONDS = 3.0
#: For an answer: the machine may have much to do.
_ANSWER_SECONDS = 60.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Sample:
    """What one worker takes at one moment.

    Attributes:
        memory_mib: resident.
        files: open ones, sockets included; 0 where the system does not tell.
        tasks: asyncio tasks of all its event loops.
        threads: of Python.
        rebalances: that it has lived through.
        last_row: when Cassandra acknowledged its newest row, epoch seconds; 0 where none was written.
    """

    memory_mib: float
    files: int
    tasks: int
    threads: int
    rebalances: int
    last_row: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.rebalances} rebalances, {self.tasks} tasks, {self.threads} threads, "
            f"{self.files} files, {self.memory_mib:.0f} MiB"
        )


def sample(worker: WorkerProcess) -> Sample:
    """Ask a worker.

    Raises:
        OSError: it does not answer.
    """
    with worker.ask("/metrics") as answer:
        text: str = answer.read().decode()
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            values[one.name] = values.get(one.name, 0.0) + one.value
    return Sample(
        values.get("process_resident_memory_bytes", 0.0) / MIB,
        int(values.get("process_open_fds", 0)),
        int(values["fraudstream_tasks"]),
        int(values["fraudstream_threads"]),
        int(values["fraudstream_rebalances_total"]),
        values.get("fraudstream_sink_last_row_timestamp_seconds", 0.0),
    )


def overview(worker: WorkerProcess) -> dict[str, Any]:
    """The index page of a worker.

    Raises:
        OSError: it does not answer.
    """
    with worker.ask("/index.json") as answer:
        page: dict[str, Any] = json.load(answer)
    return page


def patiently(ask: Callable[[WorkerProcess], Answer], worker: WorkerProcess) -> Answer:
    """Ask a worker until it answers.

    Raises:
        OSError: it has not for a minute.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            return ask(worker)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def grown(old: Sample, fresh: Sample, servers: int = 2) -> list[str]:
    """What a worker has too much of, compared with one that has just started and holds the same partitions.

    Args:
        old: of the worker.
        fresh: of the other one.
        servers: brokers and nodes: each connection has a task, and is made when it is first needed.
    """
    limits = {
        "asyncio tasks": (old.tasks, fresh.tasks, MORE_TASKS * (servers - 1)),
        "threads": (old.threads, fresh.threads, MORE_THREADS),
        "open files": (old.files, fresh.files, MORE_FILES),
    }
    return [
        f"{have} {what} after {old.rebalances} rebalances, one that has just started has {few} (at most {more} more)"
        for what, (have, few, more) in limits.items()
        if have > few + more
    ]


class Watch:
    """Samples workers now and then, in a thread of its own.

    Args:
        workers: gives those that run, by name.

    Attributes:
        samples: how many were taken.
        highest: the sample with the most memory.
        most_tasks: the most tasks that any had.
        rows_at: moments at which rows were acknowledged, epoch seconds, one per sample at most.
    """

    def __init__(self, workers: Callable[[], dict[str, WorkerProcess]]) -> None:
        self.samples = 0
        self.highest: tuple[str, Sample] | None = None
        self.most_tasks = 0
        self.rows_at: set[float] = set()
        self._workers = workers
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def too_much(self) -> str | None:
        """Which worker took too much memory; None while none did."""
        if self.highest is None or self.highest[1].memory_mib <= MOST_MEMORY_MIB:
            return None
        name, taken = self.highest
        return f"{name} takes {taken.memory_mib:.0f} MiB, at most {MOST_MEMORY_MIB:g} are right: {taken}"

    def _run(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            for name, worker in self._workers().items():
                with suppress(OSError, ValueError, KeyError):  # stopped, killed, or not there yet
                    self._take(name, sample(worker))

    def _take(self, name: str, taken: Sample) -> None:
        self.samples += 1
        self.most_tasks = max(self.most_tasks, taken.tasks)
        if taken.last_row:
            self.rows_at.add(taken.last_row)
        if self.highest is None or taken.memory_mib > self.highest[1].memory_mib:
            self.highest = name, taken
