"""The phases of a run: a first wave, a gentle one, and the account of both."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from itertools import islice
from typing import Any

from app.lab.demo.catching_up import all_ends, drain
from app.lab.demo.feed import Feed, Pair, send_astray
from app.lab.demo.meters import Meters
from app.lab.demo.record_account import take_account
from app.lab.demo.screen import Screen
from app.lab.demo.summary import Gentle, Summary
from app.lab.supervisor import Workers
from app.ops.produce import produce_on_schedule, produce_with_labels, quiet_client
from app.ops.verification.topic_log import Log, Offsets, open_log
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from models.artifact_folders import artifact_folders

#: Open loop: transactions a second, and for how long. Enough of them for a p99, far from any limit.
GENTLE_RATE = 100.0
GENTLE_SECONDS = 8.0
_LOOK_SECONDS = 0.25
#: The workers are asked for their metrics no more often: it costs them some 15 ms.
_METER_SECONDS = 0.5
#: Waiting that takes longer is explained.
_PATIENCE_SECONDS = 3.0

#: Makes the feed: takes the number of records that `transactions` holds already.
MakeFeed = Callable[[int], Feed]


class Run:
    """One run through all phases.

    Args:
        settings: the deployment.
        workers: ready.
        screen: told what happens.
        rate: transactions a second after the summary; the gentle phase is no slower.
    """

    def __init__(self, settings: Settings, workers: Workers, screen: Screen, rate: float) -> None:
        self._settings = settings
        self._workers = workers
        self._screen = screen
        self._gentle_rate = max(rate, GENTLE_RATE)

    async def measure(self, make_feed: MakeFeed, run: str | None) -> tuple[Summary, Feed]:
        """Send, wait, measure, count.

        Args:
            make_feed: see `MakeFeed`.
            run: prefix of transaction ids, for the summary.

        Raises:
            FraudstreamError: a server or a worker failed, or an input is wrong.
        """
        with quiet_client():
            async with open_log(self._settings) as log:
                with self._screen.phase("catching_up"):
                    await self._catch_up(log)
                begins = await all_ends(log)
                with self._screen.phase("history"):
                    feed = make_feed(sum(begins[log.topics.transactions.name]))
                    meters = await asyncio.to_thread(Meters, self._workers.all)
                    records, labels, seconds = await self._wave(feed, log, meters)
                with self._screen.phase("latency"):
                    gentle, read_to = await self._gentle(feed, log, meters)
                with self._screen.phase("summary"):
                    ends = await all_ends(log)
                    ends[log.topics.transactions.name] = read_to
                    account = await take_account(log, begins, ends, feed.kind_of)
        summary = Summary(
            run,
            feed.text,
            account,
            records,
            seconds,
            gentle,
            self._workers.all[0].url,
            self._workers.restarts,
            feed.rounded,
            labels,
            takes_labels(self._settings),
        )
        return summary, feed

    async def _catch_up(self, log: Log) -> None:
        """Wait for what an earlier run left, so that it is neither counted nor timed."""
        began, told = time.monotonic(), False

        async def look() -> None:
            nonlocal told
            if not told and time.monotonic() - began > _PATIENCE_SECONDS:
                told = True
                self._screen.step("Waiting for the workers to finish what an earlier run left")

        await self._watched(drain(log, self._explain, self._screen.step), look)

    async def _wave(self, feed: Feed, log: Log, meters: Meters) -> tuple[int, int, float]:
        """Send the history as fast as it goes; returns records, labels, and seconds up to the last row."""
        self._screen.step(f"Sending {feed.text}")
        began = time.monotonic()
        sent, last_row_at, seen_rows, asked_at = 0, began, 0, 0.0
        with self._screen.wave(feed.rows) as show:

            def count(records: int) -> None:
                nonlocal sent
                sent = records

            async def look() -> None:
                nonlocal last_row_at, seen_rows, asked_at
                if time.monotonic() - asked_at < _METER_SECONDS:
                    return
                asked_at = time.monotonic()
                await asyncio.to_thread(meters.read)
                if meters.rows > seen_rows:
                    seen_rows, last_row_at = meters.rows, time.monotonic()
                show(*feed.progress(sent), meters.rows)

            async def work() -> tuple[int, int]:
                report, labels = await produce_with_labels(
                    feed.history(), settings=self._settings, stamp=False, on_progress=count
                )
                astray = await send_astray(self._settings, feed.astray())
                await drain(log, self._explain, self._screen.step)
                return report.records + astray, labels.records

            before = sum(await log.ends(log.topics.predictions))
            records, labels = await self._watched(work(), look)
            asked_at = 0.0
            await look()
            rows = sum(await log.ends(log.topics.predictions)) - before
        if meters.rows < rows:  # others wrote them, or a worker that was restarted: not seen by us
            last_row_at = time.monotonic()
        return records, labels, last_row_at - began

    async def _gentle(self, feed: Feed, log: Log, meters: Meters) -> tuple[Gentle, Offsets]:
        """Send at a gentle rate, each record at its time; returns latencies and where it ended."""
        before, rate = Counter(meters.buckets), self._gentle_rate
        self._screen.step(
            f"Measuring latency: {rate:,.0f} transactions per second for {GENTLE_SECONDS:.0f} s"
        )
        some = islice(feed.payments(), int(rate * GENTLE_SECONDS))

        async def work() -> tuple[int, Offsets]:
            report = await produce_on_schedule(
                scheduled(some, rate), settings=self._settings, stamp=False
            )
            return report.records, await drain(log, self._explain, self._screen.step)

        records, read_to = await self._watched(work())
        await asyncio.to_thread(meters.read)
        return (
            Gentle(
                records,
                rate,
                meters.latency_ms(0.5, since=before),
                meters.latency_ms(0.99, since=before),
            ),
            read_to,
        )

    async def _watched(
        self, work: Coroutine[Any, Any, Any], look: Callable[[], Awaitable[None]] | None = None
    ) -> Any:
        """Run `work`, look now and then, and end when a worker has ended."""
        return await watched(work, self._workers, look)

    def _explain(self) -> str:
        return explain(self._workers)


async def watched(
    work: Coroutine[Any, Any, Any],
    workers: Workers,
    look: Callable[[], Awaitable[None]] | None = None,
) -> Any:
    """Run `work`, look now and then, and end it when a worker has ended for good.

    Raises:
        UnavailableError: one has.
    """
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            workers.check()
            if look is not None:
                await look()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def scheduled(pairs: Iterator[Pair], rate: float) -> Iterator[tuple[float, bytes | None, bytes]]:
    """Each record with the second at which it is due."""
    for number, (key, value) in enumerate(pairs):
        yield number / rate, key, value


def explain(workers: Workers) -> str:
    """What the workers say of themselves, in one line. Blocks."""
    said = []
    for worker in workers.all:
        reasons = worker.reasons()
        text = "does not answer" if reasons is None else f"says: {'; '.join(reasons) or 'ready'}"
        said.append(f"the worker on port {worker.port} {text} (log: {worker.log})")
    return "; ".join(said)


def takes_labels(settings: Settings) -> bool:
    """Whether the model takes any feature that labels make."""
    features = artifact_folders(settings).find(settings.model).manifest.features
    of_labels = {feature.name for feature in catalogue_of(settings).columns if feature.labels}
    return not of_labels.isdisjoint(features)
