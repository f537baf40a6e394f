"""What a dashboard shows: this worker's last hour and present, and those of the others.

Counters are looked at once a second, whether somebody watches or not; that takes some 30 us. Everything else is done
only while somebody watches, and once for all who do.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from app.metrics.last_hour import (
    KEPT,
    MINUTE_SECONDS,
    NOW_SECONDS,
    STEP_SECONDS,
    CounterSpan,
    LastHour,
    merged,
    together,
)
from app.metrics.prometheus import release
from app.metrics.worker_reading import PartitionReading
from app.web.access.checks import AccessChecks
from app.web.forwarding import ask, said_within
from app.web.live_precision import together as together_labelled
from app.web.roles import Role, Viewer
from app.web.worker_protocol import Worker

T = TypeVar("T")
logger = logging.getLogger(__name__)

#: How often a page is told what is new.
REFRESH_SECONDS = 1.0
#: What another worker says is worth little later.
_PEER_SECONDS = 2.0
#: A point is shown when all workers that answer have told theirs.
_SETTLED_SECONDS = 3.0
_ALERTS_SHOWN = 10
_ASKER = Viewer("dashboard", Role.ANALYST)


@dataclass
class _KnownWorker:
    """What is known of one worker.

    Attributes:
        points: its last hour.
        now: its newest snapshot; None: it never answered.
        fault: why it does not answer; None: it does.
    """

    points: deque[CounterSpan] = field(default_factory=lambda: deque(maxlen=KEPT))
    now: dict[str, Any] | None = None
    fault: str | None = None


class DashboardData:
    """Samples this worker, and collects what the others say.

    Args:
        worker: this one.
        access: signs what others are asked.

    Attributes:
        tick: how often all workers were asked.
    """

    def __init__(self, worker: Worker, access: AccessChecks) -> None:
        self._worker, self._access = worker, access
        self._history = LastHour()
        self._lag: int | None = None
        self._known: dict[str, _KnownWorker] = {}
        self._refreshed = float("-inf")
        self._frames: dict[Any, Any] = {}
        self.tick = 0
        self._lock = asyncio.Lock()

    async def running(self, _application: web.Application) -> AsyncIterator[None]:
        """Samples while the application runs; for `cleanup_ctx`."""
        task = asyncio.create_task(self._sample())
        yield
        task.cancel()
        await asyncio.wait({task})

    async def _sample(self) -> None:
        while True:
            now = time.time()
            try:
                if int(now) % STEP_SECONDS == 0:
                    self._lag = await self._worst_lag()
                self._history.tick(now, self._worker.totals(), self._lag)
                self._worker.labelled()  # reads what was decided about new labels
            except Exception:  # a chart has a gap; the stream goes on
                logger.exception("the dashboard's counters could not be read")
            await asyncio.sleep(1 - time.time() % 1)

    async def _worst_lag(self) -> int | None:
        return worst_lag((await self._worker.reading(sizes=False)).partitions)

    async def own(self, since: float) -> dict[str, Any]:
        """What this worker says: points behind a moment (epoch seconds), and how it is now."""
        reading = await self._worker.reading(sizes=False)
        return {
            "release": release(),
            "ready": not reading.reasons,
            "reasons": reading.reasons,
            "waits": reading.waits,
            "model": None if reading.model is None else reading.model[0],
            "lag": worst_lag(reading.partitions),
            "partitions": _partitions(reading.partitions),
            "now": self._history.last(NOW_SECONDS).as_dict(),
            "minute": self._history.last(MINUTE_SECONDS).as_dict(),
            "points": [point.as_dict() for point in self._history.since(since)],
            "alerts": self._worker.recent_alerts(),
            "labelled": self._worker.labelled(),
        }

    async def refresh(self) -> None:
        """Ask all workers for what is new, unless somebody just did."""
        async with self._lock:
            if time.monotonic() - self._refreshed < REFRESH_SECONDS * 0.9:
                return
            own = self._worker.url
            others = [url for url in self._worker.owners() if url.rstrip("/") != own]
            for url in self._known.keys() - {own, *others}:
                del self._known[url]
            said = await asyncio.gather(self._say(own), *(self._ask(url) for url in others))
            for url, answer in zip((own, *others), said, strict=True):
                known = self._known.setdefault(url, _KnownWorker())
                if isinstance(answer, str):
                    known.fault = answer
                    continue
                known.fault, known.now = None, answer
                known.points.extend(CounterSpan.read(point) for point in answer["points"])
            self._refreshed = time.monotonic()
            self._frames, self.tick = {}, self.tick + 1

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What pages are told of the newest look, made by the first that asks for it."""
        if key not in self._frames:
            self._frames[key] = make()
        made: T = self._frames[key]
        return made

    def _since(self, url: str) -> int:
        known = self._known.get(url)
        return known.points[-1].at if known and known.points else 0

    async def _say(self, url: str) -> dict[str, Any]:
        return await self.own(self._since(url))

    async def _ask(self, url: str) -> dict[str, Any] | str:
        path = f"/live.json?since={self._since(url)}"
        headers = {"Accept": "application/json"}
        asking = ask(self._access, self._worker, _ASKER, url, path, "GET", headers)
        return await said_within(_PEER_SECONDS, asking)

    def board(self, *, may_see_cards: bool, since: float = 0.0) -> dict[str, Any]:
        """What a page shows of all workers, as plain values.

        Args:
            may_see_cards: whether alerts are for whoever asks.
            since: points of the charts that end behind this moment, epoch seconds.
        """
        answering = {
            url: one.now for url, one in self._known.items() if one.now and one.fault is None
        }
        now = together(
            [CounterSpan.read(one["now"]) for one in answering.values()] or [CounterSpan(0, 0.0)]
        )
        minute = together(
            [CounterSpan.read(one["minute"]) for one in answering.values()] or [CounterSpan(0, 0.0)]
        )
        lags = [one["lag"] for one in answering.values() if one["lag"] is not None]
        return {
            "workers": len(self._known),
            "ready": sum(one["ready"] for one in answering.values()),
            "faults": {url: one.fault for url, one in self._known.items() if one.fault},
            "reasons": {url: one["reasons"] for url, one in answering.items() if one["reasons"]},
            "waits": [line for one in answering.values() for line in one["waits"]],
            "models": sorted({one["model"] for one in answering.values() if one["model"]}),
            "rate": now.rate,
            "lag": max(lags, default=None),
            "dead_share": minute.dead_share,
            "alerts_per_minute": minute.alerts_per_minute,
            "labelled": together_labelled(
                [one["labelled"] for one in answering.values() if "labelled" in one]
            ),
            "latency": {f"p{q}": minute.quantile(q / 100) for q in (50, 95, 99)},
            "partitions": sorted(
                ({**one, "worker": url} for url, said in answering.items() for one in said["partitions"]),
                key=lambda one: one["partition"],
            ),
            "may_see_cards": may_see_cards,
            "alerts": _newest(answering.values()) if may_see_cards else [],
            "digits": self._worker.settings.minor_unit_digits,
            "points": self.points(since),
        }  # fmt: skip

    def points(self, since: float) -> list[list[float | None]]:
        """Points of the charts that end behind a moment, epoch seconds."""
        known = time.time() - _SETTLED_SECONDS
        points = merged(
            (point for point in one.points if since < point.at <= known)
            for one in self._known.values()
        )
        return [_drawn(point) for point in points]


def worst_lag(partitions: Iterable[PartitionReading]) -> int | None:
    """Records to do in the partition that has most; None while that cannot be told."""
    return max((one.lag for one in partitions if one.lag is not None), default=None)


def _partitions(readings: Iterable[PartitionReading]) -> list[dict[str, Any]]:
    """The partitions of a worker: lag by stage, and what they wait for."""
    found: dict[int, dict[str, Any]] = {}
    for one in readings:
        here = found.setdefault(one.partition, {"partition": one.partition, "lag": {}, "waits": []})
        here["lag"][one.stage] = one.lag
        here["waits"] += _waits(one)
    return list(found.values())


def _waits(one: PartitionReading) -> list[str]:
    if one.held_ms is not None:
        return [f"{one.stage}: paused for alignment with {one.waits_for or 'other partitions'}"]
    if one.needs is not None:
        return [f"{one.stage}: waits for {one.needs}"]
    if one.open_since is not None:
        return [f"{one.stage}: waits for a producer's open Kafka transaction"]
    if one.stalled:
        return [f"{one.stage}: waits for Cassandra"]
    return []


def _newest(workers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The newest alerts of all workers, one per card and window."""
    rows = [row for one in workers for row in one["alerts"]]
    newest: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: -(row["received_at"] or 0)):
        newest.setdefault(row["alert_id"], row)
    return list(newest.values())[:_ALERTS_SHOWN]


def _drawn(point: CounterSpan) -> list[float | None]:
    """A point of the charts: moment, records per second, p50, p95, p99 (ms), lag, alerts per minute."""
    quantiles = (point.quantile(q) for q in (0.5, 0.95, 0.99))
    return [point.at, point.rate, *quantiles, point.lag, point.alerts_per_minute]


LIVE = web.AppKey("live", DashboardData)
