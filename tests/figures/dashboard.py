"""What a dashboard that somebody watches costs a worker at 5,000/s, and how soon it is painted."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil

from app.lab.bench.histogram import WorkerPage
from app.lab.bench.latency import live_load, offer
from app.lab.processes import WorkerProcess
from tests.browser import CHROMIUM, browser
from tests.figures.servers import Servers
from tests.fleet import Fleet
from tests.stack import environ_of

RATE, SECONDS, ROUNDS = 5_000.0, 30.0, 4
_LEAD_SECONDS = 10.0
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def measure(servers: Servers, part: float) -> Iterator[str]:
    """Two lines."""
    seconds = SECONDS * part
    settings = {"features": ("basic",), "model": "default@1"}
    with (
        servers.deployment("dashboard", **settings) as (deployment, folder),
        Fleet(environ_of(deployment.settings), folder / "fleet") as fleet,
    ):
        fleet.start("a")
        fleet.await_ready()
        length = _LEAD_SECONDS + 2 * ROUNDS * (seconds + 1) + 30 * part
        load = live_load(RATE, length, seed=1)
        sender = threading.Thread(target=offer, args=(deployment.settings, load), daemon=True)
        sender.start()
        time.sleep(_LEAD_SECONDS)
        used: dict[bool, list[float]] = {False: [], True: []}
        slow: dict[bool, list[float]] = {False: [], True: []}
        events = 0
        for number in range(2 * ROUNDS):
            watched = bool(number % 2)  # in turn: the machine's other load falls on both
            cpu, p99, seen = _round(fleet["a"], seconds, watched=watched)
            used[watched].append(cpu)
            slow[watched].append(p99)
            events += seen
        painted = asyncio.run(_painted(fleet["a"].url, folder)) if CHROMIUM else None
        sender.join()
    means = {watched: sum(values) / len(values) for watched, values in used.items()}
    worst = {watched: sum(values) / len(values) for watched, values in slow.items()}
    yield (
        f"dashboard at {RATE:,.0f}/s: worker {means[False]:.1f} % of a core unwatched, {means[True]:.1f} % watched "
        f"({means[True] - means[False]:+.1f}), p99 to row {worst[False]:.0f} ms unwatched, {worst[True]:.0f} ms "
        f"watched, {events / ROUNDS / seconds:.1f} updates per second"
    )
    paint = "no chromium here" if painted is None else f"{painted:.0f} ms"
    yield f"dashboard under this load: first contentful paint {paint}"


def _round(worker: WorkerProcess, seconds: float, *, watched: bool) -> tuple[float, float, int]:
    """CPU in percent of a core, p99 in milliseconds, and updates that a viewer got."""
    process = psutil.Process(worker.pid)
    with _viewer(worker.url, on=watched) as seen:
        before, cpu, began = WorkerPage.of(worker), sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(seconds)
        spent = sum(process.cpu_times()[:2]) - cpu
        passed = time.monotonic() - began
        p99 = WorkerPage.of(worker).quantiles_ms(before)["p99"]
        return 100 * spent / passed, p99, len(seen)


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
