"""`fraudstream bench --scale takeover`: how long partitions stand still when a worker dies, leaves or comes back.

Two workers, a state that has to be rebuilt, and a steady load. What is measured is what customers see: the longest
time for which no prediction of a partition came.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from aiokafka import TopicPartition

from app.errors import UnavailableError
from app.kafka.clients import admin, consumer
from app.kafka.topic_admin import log_ends
from app.lab.bench import backlog
from app.lab.bench.deployment import committed, deployment
from app.lab.bench.filled_state import fill_cards
from app.lab.bench.histogram import WorkerPage
from app.lab.bench.latency import LiveLoad, live_load
from app.lab.worker_processes import WorkerProcess
from app.ops.produce import produce_on_schedule, quiet_client
from app.settings import Settings
from app.topics import Topics

#: Rows of cards before the load begins, by default.
ROWS = 200_000
#: Transactions a second: little enough that two cores carry it while a worker starts.
_RATE = 200.0
_POLL_SECONDS = 0.05
#: Load before and after each blow, and how long everything is down for the catching up.
_CALM_SECONDS, _OUTAGE_SECONDS = 5.0, 20.0
#: Longer than everything takes.
_LOAD_SECONDS = 900.0
_PATIENCE_SECONDS = 120.0
_TABLES = 2
#: What warm copies may lack, all together, while records come: what two seconds of load write to the changelogs, a
#: row and a position for each transaction and table. A copy is written once a second.
_DUE_RECORDS = 2 * _RATE * 2 * _TABLES


class _Beside(threading.Thread):
    """A thread that works for as long as its context lasts."""

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name=name, daemon=True)
        self._settings = settings
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self.join()
        self._ended(error)

    def _ended(self, error: BaseException | None) -> None:
        """It is over; `error` is what ended the context."""


class Timeline(_Beside):
    """When each partition of `predictions` had how many records, looked at twenty times a second."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("timeline", settings)
        self.seen: list[tuple[float, dict[int, int]]] = []

    def run(self) -> None:
        """Look until told to stop."""
        with quiet_client():
            asyncio.run(self._look())

    async def _look(self) -> None:
        topic = Topics(self._settings).predictions
        tps = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        async with consumer(self._settings) as reader:
            while not self._over.is_set():
                ends = await reader.end_offsets(tps)
                self.seen.append(
                    (time.monotonic(), {tp.partition: end for tp, end in ends.items()})
                )
                await asyncio.sleep(_POLL_SECONDS)

    def await_all(self, since: float) -> None:
        """Wait until every partition has had a record since a moment.

        Raises:
            UnavailableError: one has not, for long.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while min(self._grown(since).values(), default=0) < 1:
            if time.monotonic() > deadline:
                msg = f"a partition has made no progress for {_PATIENCE_SECONDS:.0f} s"
                raise UnavailableError(msg)
            time.sleep(_POLL_SECONDS)

    def _grown(self, since: float) -> dict[int, int]:
        after = [ends for at, ends in list(self.seen) if at >= since]
        if not after:
            return {}
        return {number: after[-1][number] - first for number, first in after[0].items()}

    def standstill(self, since: float, until: float) -> dict[int, float]:
        """By partition, the longest time without a record between two moments, seconds."""
        longest: dict[int, float] = {}
        grew: dict[int, tuple[float, int]] = {}
        for at, ends in list(self.seen):
            if at > until:
                break
            for number, end in ends.items():
                last, before = grew.get(number, (at, end))
                if end > before or number not in grew or at < since:
                    if at >= since:
                        longest[number] = max(longest.get(number, 0.0), at - max(last, since))
                    grew[number] = (at, end)
        return longest


class Load(_Beside):
    """A steady load for as long as the context lasts.

    Without an end of its own it would go on into topics that are deleted behind a part that failed.
    """

    def __init__(self, settings: Settings, load: LiveLoad) -> None:
        super().__init__("load", settings)
        self._load = load
        self._error: Exception | None = None

    def _ended(self, error: BaseException | None) -> None:
        # what was in the way of sending may be why nothing came of it: it is said first
        if self._error is not None and (error is None or isinstance(error, Exception)):
            raise self._error

    def run(self) -> None:
        """Send."""
        try:
            with quiet_client():
                asyncio.run(
                    produce_on_schedule(self._items(), settings=self._settings, stamp=False)
                )
        except Exception as error:
            self._error = error

    def _items(self) -> Iterator[tuple[float, bytes | None, bytes]]:
        for item in self._load.items():
            if self._over.is_set():
                return
            yield item


def takeover(settings: Settings, rows: int | None) -> Iterator[dict[str, Any]]:
    """A line without standbys, and one with a warm copy of each partition.

    Args:
        settings: whose servers are used.
        rows: of cards in the state; None: `ROWS`.
    """
    for standbys in (0, 1):
        name = f"scale_{time.strftime('%H%M%S')}_s{standbys}"
        with deployment(settings, name, standby_replicas=standbys) as own:
            yield {"standbys": standbys, **_one(own, rows or ROWS, standbys)}


def _one(settings: Settings, rows: int, standbys: int) -> dict[str, Any]:
    fill_cards(settings, rows)
    a, b = (backlog.new_worker(settings) for _ in range(2))
    try:
        a.start()
        _await_ready(a)
        b.start()
        _await_ready(a, b)
        load = live_load(_RATE, _LOAD_SECONDS, seed=1)
        with Timeline(settings) as timeline, Load(settings, load):
            timeline.await_all(time.monotonic())
            return {"rows": rows, **_blows(settings, timeline, a, b, standbys)}
    finally:
        for worker in (a, b):
            worker.kill()


def _blows(
    settings: Settings, timeline: Timeline, a: WorkerProcess, b: WorkerProcess, standbys: int
) -> dict[str, Any]:
    """Under load: one is killed and comes back, both leave in turn, both are killed."""
    line: dict[str, Any] = {}
    if standbys:
        _await_copies(settings, (a, b))
    time.sleep(_CALM_SECONDS)

    killed = time.monotonic()
    a.kill()
    line["after SIGKILL s"] = _settled(timeline, killed, b)
    back = time.monotonic()
    a.start()
    line["when it is back s"] = _settled(timeline, back, a, b)

    took, left, returned = [], [], []
    for leaving, staying in ((a, b), (b, a)):
        if standbys:
            _await_copies(settings, (a, b))
        asked = time.monotonic()
        leaving.stop()
        took.append(time.monotonic() - asked)
        left.append(_settled(timeline, asked, staying))
        back = time.monotonic()
        leaving.start()
        returned.append(_settled(timeline, back, a, b))
    line["SIGTERM to exit s"] = round(max(took), 1)
    line["after SIGTERM s"] = max(left)
    line["when that is back s"] = max(returned)
    return line | _outage(settings, timeline, a, b)


def _outage(
    settings: Settings, timeline: Timeline, a: WorkerProcess, b: WorkerProcess
) -> dict[str, Any]:
    """Both are killed while the load goes on; from when the first prediction comes to the last of the backlog."""
    for worker in (a, b):
        worker.kill()
    before = dict(timeline.seen[-1][1])
    time.sleep(_OUTAGE_SECONDS)
    began = time.monotonic()
    for worker in (a, b):
        worker.start()
    timeline.await_all(began)
    first = next(at for at, ends in timeline.seen if at > began and ends != before)
    asyncio.run(_await_caught_up(settings))
    caught = time.monotonic()
    done = sum(timeline.seen[-1][1].values()) - sum(before.values())
    return {
        "outage s": _OUTAGE_SECONDS,
        "start to first s": round(first - began, 1),
        "start to caught up s": round(caught - began, 1),
        "catching up, events/s": round(done / max(0.1, caught - first)),
    }


async def _await_caught_up(settings: Settings) -> None:
    """Until less than a second of the load is left to be scored.

    Raises:
        UnavailableError: it is not, for long.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    topic = Topics(settings).transactions.name
    async with admin(settings) as client:
        while True:
            left = sum((await log_ends(settings, topic)).values())
            left -= await committed(client, settings, topic)
            if left < 2 * _RATE:  # commits are a second apart
                return
            if time.monotonic() > deadline:
                msg = f"{left:,} transactions are left after {_PATIENCE_SECONDS:.0f} s"
                raise UnavailableError(msg)
            await asyncio.sleep(_POLL_SECONDS)


def _settled(timeline: Timeline, since: float, *workers: WorkerProcess) -> float:
    """Wait until workers are ready and all partitions have gone on; the longest that one stood still, seconds."""
    _await_ready(*workers)
    timeline.await_all(time.monotonic())
    time.sleep(_CALM_SECONDS)
    return round(max(timeline.standstill(since, time.monotonic()).values()), 1)


def _await_ready(*workers: WorkerProcess) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for worker in workers:
        while worker.reasons() != []:
            if time.monotonic() > deadline or not worker.alive():
                msg = f"a worker is not ready: {worker.last_words()}"
                raise UnavailableError(msg)
            time.sleep(_POLL_SECONDS)


def _await_copies(settings: Settings, workers: tuple[WorkerProcess, ...]) -> None:
    """Wait until there is a warm copy of every partition that is as far as can be expected under load.

    The workers say so themselves: on disk a copy is behind, because it is written past RocksDB's log.

    Raises:
        UnavailableError: they are not, for long: standbys do not work.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    wanted = _TABLES * settings.partitions
    while True:
        lags: dict[tuple[str, int], float] = {}
        for worker in workers:
            lags |= WorkerPage.of(worker).copies
        if len(lags) == wanted and sum(lags.values()) <= _DUE_RECORDS:
            return
        if time.monotonic() > deadline:
            msg = (
                f"after {_PATIENCE_SECONDS:.0f} s there are standby replicas of {len(lags)} of {wanted} partitions, "
                f"and they still lack {sum(lags.values()):,.0f} changelog records"
            )
            raise UnavailableError(msg)
        time.sleep(1)
