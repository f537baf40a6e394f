"""`fraudstream bench --scale PART`: what more cards, longer histories, windows, partitions and workers cost.

Also the parts that need a load of their own: `takeover` and `score`.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.errors import StateError
from app.kafka.topic_admin import log_ends
from app.lab.bench import backlog, growth
from app.lab.bench.deployment import deployment
from app.lab.bench.filled_state import fill_cards
from app.lab.bench.run import Tell
from app.lab.bench.score_load import score_load
from app.lab.bench.takeover import takeover
from app.lab.supervisor import Workers
from app.lab.worker_processes import WorkerProcess
from app.ops.temporary_stores import open_store
from app.settings import Settings
from app.topics import Topics

_EVENTS = 60_000
_POPULATIONS = ((5_000, 10_000), (1_000_000, 100_000))
_PARTITIONS = (4, 32, 128)
_WORKERS = (1, 2, 4)


def measure_scale(
    settings: Settings, part: str, events: int | None, tell: Tell
) -> list[dict[str, Any]]:
    """Lines of one table.

    Args:
        settings: whose servers are used.
        part: of `PARTS`.
        events: backlog of each run, rows of a rebuild, or requests; None: a number that takes some minutes in all.
        tell: is told in one line what happens.
    """
    lines = []
    for line in PARTS[part](settings, events):
        tell("  " + ", ".join(f"{name} {value}" for name, value in line.items()))
        lines.append(line)
    return lines


def scale_text(lines: list[dict[str, Any]]) -> str:
    """A table for people."""
    heads = list(lines[0])
    cells = [heads, *([f"{line[head]:,}" for head in heads] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def _cards(settings: Settings, events: int | None) -> Iterator[dict[str, Any]]:
    """Throughput, memory, state on disk, and the time of a start with and without the disk; all have a past."""
    number = events or 2 * _EVENTS
    for cards, terminals in _POPULATIONS:
        with deployment(settings, f"scale_{_stamp()}_{cards}") as own:
            backlog.fill(own, number, 1, cards=cards, terminals=terminals, past=True)
            ran = backlog.measure(own, number)
            topics = Topics(own)
            rows = sum(
                sum(asyncio.run(log_ends(own, topic.name)).values())
                for topic in (topics.cards_changelog, topics.terminals_changelog)
            )
            (folder,) = (own.home / "workers").iterdir()
            disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            worker = backlog.new_worker(own)
            shutil.rmtree(worker.datadir, ignore_errors=True)
            worker.datadir.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, worker.datadir)
            warm = _start_seconds(worker)
            shutil.rmtree(worker.datadir)
            cold = _start_seconds(worker)
            yield {
                "cards": cards,
                "terminals": terminals,
                "events": number,
                "events/s": round(ran.rate),
                "worker CPU us": round(ran.cpu_us["worker"]),
                "worker MiB": round(ran.memory_mib["worker"]),
                "state MiB": round(disk / 2**20),
                "changelog rows": rows,
                "start s": round(warm, 1),
                "start without disk s": round(cold, 1),
            }


def _rebuild(settings: Settings, events: int | None) -> Iterator[dict[str, Any]]:
    """Rows of 60 entries a second from the changelog into an empty disk."""
    number = events or 200_000
    with deployment(settings, f"scale_{_stamp()}_empty") as own:
        empty = _start_seconds(backlog.new_worker(own))
    with deployment(settings, f"scale_{_stamp()}_rebuild") as own:
        row_bytes = fill_cards(own, number)
        worker = backlog.new_worker(own)
        full = _start_seconds(worker)
        held = _stored_rows(worker.datadir)
        if held < number:
            msg = f"the worker was ready with {held:,} of {number:,} rows"
            raise StateError(msg)
        yield {
            "rows": number,
            "bytes per row": row_bytes,
            "empty start s": round(empty, 1),
            "start s": round(full, 1),
            "rows/s": round(number / max(0.1, full - empty)),
        }


def _stored_rows(datadir: Path) -> int:
    """Rows of cards in a worker's stores; it does not run."""
    count = 0
    for folder in datadir.rglob("*.db"):
        with open_store(folder) as database:
            count += sum(1 for key in database.keys() if key.startswith(b"hC"))  # noqa: SIM118
    return count


def _partitions(settings: Settings, events: int | None) -> Iterator[dict[str, Any]]:
    for count in _PARTITIONS:
        with deployment(settings, f"scale_{_stamp()}_p{count}", partitions=count) as own:
            yield {"partitions": count, **_run(own, events or _EVENTS)}


def _workers(settings: Settings, events: int | None) -> Iterator[dict[str, Any]]:
    for count in _WORKERS:
        with deployment(settings, f"scale_{_stamp()}_w{count}") as own:
            yield {"workers": count, **_run(own, events or _EVENTS, count)}


def _run(settings: Settings, events: int, workers: int = 1) -> dict[str, Any]:
    backlog.fill(settings, events, 1)
    ran = backlog.measure(settings, events, workers=workers)
    return {
        "events": events,
        "events/s": round(ran.rate),
        "worker CPU us": round(ran.cpu_us["worker"]),
        "worker MiB": round(ran.memory_mib["worker"]),
        "cassandra CPU us": round(ran.cpu_us.get("cassandra", 0)),
    }


def _start_seconds(worker: WorkerProcess) -> float:
    """From the start of a process to its being ready."""
    began = time.monotonic()
    with Workers([worker]) as workers:
        workers.await_ready()
        return time.monotonic() - began


def _stamp() -> str:
    return time.strftime("%H%M%S")


#: What can be asked for, and how it is measured: those of `growth` need no server.
PARTS: dict[str, Callable[[Settings, int | None], Iterator[dict[str, Any]]]] = {
    "history": lambda settings, _: growth.by_history(settings),
    "windows": lambda settings, _: growth.by_windows(settings),
    "cards": _cards,
    "rebuild": _rebuild,
    "partitions": _partitions,
    "workers": _workers,
    "takeover": takeover,
    "score": score_load,
}
