"""What a dashboard that somebody watches costs a worker, by load, and how soon it is painted."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp
import psutil

from app.lab.bench.histogram import WorkerPage
from app.lab.bench.latency import live_load, offer
from app.lab.worker_processes import WorkerProcess
from tests.browser import CHROMIUM, browser
from tests.figures.servers import Servers
from tests.fleet import Fleet
from tests.worker_settings import environ_of

#: The goal is for 5,000/s; a worker that shares two cores with both servers and the producer sustains 1,000.
RATES = (1_000.0, 5_000.0)
SECONDS, ROUNDS = 20.0, 4
#: A worker that stores less than this share of the load has fallen behind.
_SUSTAINED = 0.97
_LEAD_SECONDS = 10.0
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def measure(servers: Servers, part: float) -> Iterator[str]:
    """Two lines for each load."""
    for rate in RATES:
        yield from _measure(servers, rate, SECONDS * part)


def _measure(servers: Servers, rate: float, seconds: float) -> Iterator[str]:
    settings = {"features": ("basic",), "model": "default@1"}
    with (
        servers.deployment(f"dashboard{rate:.0f}", **settings) as (deployment, folder),
        Fleet(environ_of(deployment.settings), folder / "fleet") as fleet,
    ):
        fleet.start("a")
        fleet.await_ready()
        length = _LEAD_SECONDS + 2 * ROUNDS * (seconds + 1) + 30
        load = live_load(rate, length, seed=1)
        sender = threading.Thread(target=offer, args=(deployment.settings, load), daemon=True)
        sender.start()
        time.sleep(_LEAD_SECONDS)
        rounds: dict[bool, list[_Round]] = {False: [], True: []}
        for number in range(2 * ROUNDS):
            watched = bool(number % 2)  # in turn: the machine's other load falls on both
            rounds[watched].append(_round(fleet["a"], seconds, watched=watched))
        painted = asyncio.run(_painted(fleet["a"].url, folder)) if CHROMIUM else None
        sender.join()
    stored = min(one.rows for group in rounds.values() for one in group)
    behind = (
        "" if stored >= _SUSTAINED * rate else f"; NOT SUSTAINED, {stored:,.0f} rows per second"
    )
    cpu = [median(one.cpu for one in rounds[watched]) for watched in (False, True)]
    p99 = [" ".join(f"{one.p99:.0f}" for one in rounds[watched]) for watched in (False, True)]
    updates = sum(one.updates for one in rounds[True]) / ROUNDS / seconds
    yield (
        f"dashboard at {rate:,.0f}/s: worker {cpu[0]:.1f} % of a core unwatched, {cpu[1]:.1f} % watched "
        f"({cpu[1] - cpu[0]:+.1f}, medians), p99 to row in each round, ms: {p99[0]} unwatched, {p99[1]} watched; "
        f"{updates:.1f} updates per second{behind}"
    )
    paint = "no chromium here" if painted is None else f"{painted:.0f} ms"
    yield f"dashboard at {rate:,.0f}/s: first contentful paint {paint}"


@dataclass(frozen=True)
class _Round:
    """What one round showed: CPU in percent of a core, p99 in ms, rows per second, updates that a viewer got."""

    cpu: float
    p99: float
    rows: float
    updates: int


def _round(worker: WorkerProcess, seconds: float, *, watched: bool) -> _Round:
    process = psutil.Process(worker.pid)
    with _viewer(worker.url, on=watched) as seen:
        before, cpu, began = WorkerPage.of(worker), sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(seconds)
        spent = sum(process.cpu_times()[:2]) - cpu
        passed = time.monotonic() - began
        page = WorkerPage.of(worker)
        p99 = page.quantiles_ms(before)["p99"]
        return _Round(100 * spent / passed, p99, (page.rows - before.rows) / passed, len(seen))


@contextmanager
def _viewer(url: str, *, on: bool) -> Iterator[list[bytes]]:
    """A client of the stream of updates, which costs this machine less than a browser."""
    seen: list[bytes] = []
    loop = asyncio.new_event_loop()

    async def look() -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=timeout) as client:
            while True:  # a stream ends now and then: a browser comes back
                async with client.get(f"{url}/live") as reply:
                    async for line in reply.content:
                        if line.startswith(b"data:"):
                            seen.append(line)

    def run() -> None:
        asyncio.set_event_loop(loop)
        task = loop.create_task(look())
        try:
            loop.run_forever()
        finally:
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    if on:
        thread.start()
    try:
        yield seen
    finally:
        if on:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


async def _painted(url: str, folder: Path) -> float:
    async with browser(folder / "profile") as page:
        await page.open(f"{url}/")  # the first one warms up the browser itself
        await page.open(f"{url}/")
        await page.until(_PAINT)
        painted: float = await page.run(_PAINT)
        return painted
