"""The last hour of a worker, in steps of ten seconds: differences of counters that are there anyway. Pure.

Points begin at multiples of the step, so those of several workers can be added up.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from app.metrics.latency_histogram import LATENCY_BOUNDS_MS, quantile_of

STEP_SECONDS = 10
#: Points that are kept: an hour.
KEPT = 3_600 // STEP_SECONDS
#: Seconds over which a page says what happens now: the rate, and everything else.
NOW_SECONDS, MINUTE_SECONDS = 10, 60


@dataclass(frozen=True, slots=True)
class CounterTotals:
    """What a worker has counted since it started.

    Attributes:
        records: transactions read, whatever became of them.
        dead: those that were dead-lettered.
        alerts: scored transactions that are alerts.
        latency: from append to row, observations by bucket.
    """

    records: int = 0
    dead: int = 0
    alerts: int = 0
    latency: Sequence[int] = ()


@dataclass(frozen=True)
class CounterSpan:
    """What happened in some seconds, of one worker or of several.

    Attributes:
        at: when it ends, epoch seconds.
        seconds: its length.
        records, dead, alerts: as `CounterTotals` has them.
        latency: number of observations by bucket; buckets without any are left out.
        lag: records to do in the worst partition at its end; None: unknown.
    """

    at: int
    seconds: float
    records: int = 0
    dead: int = 0
    alerts: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)
    lag: int | None = None

    @classmethod
    def between(
        cls, at: int, seconds: float, old: CounterTotals, new: CounterTotals, lag: int | None
    ) -> "CounterSpan":
        """What happened from one moment to another."""
        before = old.latency or [0] * len(new.latency)
        moved = (after - was for was, after in zip(before, new.latency, strict=True))
        return cls(
            at,
            seconds,
            new.records - old.records,
            new.dead - old.dead,
            new.alerts - old.alerts,
            {bucket: count for bucket, count in enumerate(moved) if count},
            lag,
        )

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "CounterSpan":
        """What `as_dict` wrote."""
        latency = {int(bucket): count for bucket, count in fields["latency"].items()}
        return cls(**{**fields, "latency": latency})

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "latency": {str(key): n for key, n in self.latency.items()}}

    @property
    def rate(self) -> float:
        """Records per second."""
        return self.records / self.seconds if self.seconds else 0.0

    @property
    def alerts_per_minute(self) -> float:
        """Alerts per minute."""
        return 60 * self.alerts / self.seconds if self.seconds else 0.0

    @property
    def dead_share(self) -> float | None:
        """The share of records that were dead-lettered; None without records."""
        return self.dead / self.records if self.records else None

    def quantile(self, q: float) -> float | None:
        """The `q` quantile of the latency, ms; None without any."""
        counts = [self.latency.get(bucket, 0) for bucket in range(len(LATENCY_BOUNDS_MS) + 1)]
        return quantile_of(counts, LATENCY_BOUNDS_MS, q)


def together(spans: Iterable[CounterSpan]) -> CounterSpan:
    """One span of several workers over the same seconds."""
    parts = list(spans)
    latency: Counter[int] = Counter()
    for part in parts:
        latency.update(part.latency)
    return CounterSpan(
        at=max(part.at for part in parts),
        seconds=max(part.seconds for part in parts),
        records=sum(part.records for part in parts),
        dead=sum(part.dead for part in parts),
        alerts=sum(part.alerts for part in parts),
        latency=latency,
        lag=max((part.lag for part in parts if part.lag is not None), default=None),
    )


def merged(histories: Iterable[Iterable[CounterSpan]]) -> list[CounterSpan]:
    """The points of several workers, one per moment, oldest first."""
    by_moment: dict[int, list[CounterSpan]] = {}
    for history in histories:
        for point in history:
            by_moment.setdefault(point.at, []).append(point)
    return [together(by_moment[at]) for at in sorted(by_moment)]


class LastHour:
    """Keeps the points; whoever has the counters calls `tick` once a second.

    Attributes:
        points: oldest first.
    """

    def __init__(self) -> None:
        self.points: deque[CounterSpan] = deque(maxlen=KEPT)
        self._seconds: deque[tuple[float, CounterTotals]] = deque(maxlen=MINUTE_SECONDS + 1)
        self._begun: tuple[float, CounterTotals] | None = None

    def tick(self, now: float, totals: CounterTotals, lag: int | None) -> None:
        """Take the counters of this second.

        Args:
            now: epoch seconds.
            totals: the counters.
            lag: of the worst partition; None: unknown.
        """
        self._seconds.append((now, totals))
        if self._begun is None:
            self._begun = now, totals
        since, old = self._begun
        at = int(now // STEP_SECONDS) * STEP_SECONDS
        if at > since:
            self.points.append(CounterSpan.between(at, now - since, old, totals, lag))
            self._begun = now, totals

    def last(self, seconds: int) -> CounterSpan:
        """What happened in the last seconds, at most a minute."""
        if not self._seconds:
            return CounterSpan(0, 0.0)
        now, new = self._seconds[-1]
        then, old = self._seconds[max(0, len(self._seconds) - 1 - seconds)]
        return CounterSpan.between(int(now), now - then, old, new, None)

    def since(self, at: float) -> list[CounterSpan]:
        """Points that end behind a moment."""
        return [point for point in self.points if point.at > at]
