"""Recorders: what the sink tells while it works. Cheap, and without a word of Prometheus."""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Ten bounds a decade, 1 ms to 2.8 hours: catching up after an outage is latency too.
_PER_DECADE = 10
LATENCY_BOUNDS_MS = tuple(10.0 ** (step / _PER_DECADE) for step in range(7 * _PER_DECADE + 1))
#: Twice as fine up to ten seconds, where a live stream is: 12 % from one bound to the next.
FINE_BOUNDS_MS = (
    *(10.0 ** (step / 20) for step in range(4 * 20)),
    *(10.0 ** (step / 5) for step in range(4 * 5, 7 * 5 + 1)),
)
#: Quantiles speak of the last one to two of these, seconds.
_RECENT_SECONDS = 60.0


class Latency:
    """Milliseconds from one point to another: a histogram since start, quantiles of the last minutes.

    Args:
        clock: seconds that never go back, for what `recent` means.
        bounds_ms: upper bounds, rising; what lies above the last is counted apart.

    Attributes:
        bounds_ms: the same.
        total_ms: sum of everything observed.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        bounds_ms: Sequence[float] = LATENCY_BOUNDS_MS,
    ) -> None:
        self._clock = clock
        self.bounds_ms = bounds_ms
        self._older = self._no_counts()
        self._previous = self._no_counts()
        self._current = self._no_counts()
        self._since = clock()
        self.total_ms = 0.0

    def observe_many(self, milliseconds: Sequence[float]) -> None:
        """Record a block's latencies; negative ones (clocks that differ) count as the shortest."""
        self._rotate()
        counts, bounds = self._current, self.bounds_ms
        for value in milliseconds:
            counts[bisect_left(bounds, value)] += 1
        self.total_ms += sum(milliseconds)

    def quantile(self, q: float) -> float | None:
        """The `q` quantile of the last one to two minutes, ms, within some 10 %; None without any."""
        self._rotate()
        return quantile_of(_sum(self._previous, self._current), self.bounds_ms, q)

    def counts(self) -> list[int]:
        """Observations since start by bound, one more for those above the last."""
        return _sum(self._older, _sum(self._previous, self._current))

    def _rotate(self) -> None:
        periods = int((self._clock() - self._since) / _RECENT_SECONDS)
        if periods == 0:
            return
        self._older = _sum(self._older, self._previous)
        if periods > 1:
            self._older = _sum(self._older, self._current)
            self._current = self._no_counts()
        self._previous, self._current = self._current, self._no_counts()
        self._since += periods * _RECENT_SECONDS

    def _no_counts(self) -> list[int]:
        return [0] * (len(self.bounds_ms) + 1)


def quantile_of(counts: Sequence[int], bounds_ms: Sequence[float], q: float) -> float | None:
    """The `q` quantile of a histogram, ms, within the width of a bucket; None without observations.

    Args:
        counts: observations by bound, and of those above the last.
        bounds_ms: upper bounds, rising.
        q: in [0, 1].
    """
    wanted, below = q * sum(counts), 0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            if not 0 < index < len(bounds_ms):
                return bounds_ms[0 if index == 0 else -1]
            low, high = bounds_ms[index - 1 : index + 1]
            inside: float = (high / low) ** ((wanted - below) / count)
            return low * inside
        below += count
    return None


def _sum(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


class SinkStatus:
    """Whether predictions reach Cassandra: the sink says so, health and metrics read it.

    Args:
        now: epoch seconds.

    Attributes:
        rows: rows written since start.
        written_at: epoch seconds at which the last of them was acknowledged, 0 before any.
        failures: attempts that failed since start.
        reason: why it waits, None while it writes.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.rows = 0
        self.written_at = 0.0
        self.failures = 0
        self.reason: str | None = None

    def written(self, rows: int) -> None:
        """Rows were acknowledged by Cassandra."""
        self.rows += rows
        self.written_at = self._now()
        self.reason = None

    def waiting(self, reason: str) -> None:
        """An attempt failed; the sink tries again.

        Args:
            reason: one line for people.
        """
        self.failures += 1
        self.reason = reason

    def idle(self) -> None:
        """Nothing waits any more: what waited was given up together with its partitions."""
        self.reason = None


#: Scores are counted in so many steps of equal width.
SCORE_STEPS = 20
#: Pairs of model and outcome that are counted apart: nobody promotes so many models while a worker runs.
_MOST_DECISIONS = 60


class Decisions:
    """What was decided about stored predictions, and with which scores; since start.

    Attributes:
        counts: by model and outcome: the action, or `flagged` and `passed` in records without one.
        scores: number of scores below each multiple of a twentieth, and of those that are 1.
        total: sum of scores.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.scores = [0] * (SCORE_STEPS + 1)
        self.total = 0.0

    def add(self, record: Mapping[str, Any]) -> None:
        """Count a record of `predictions`."""
        outcome = record.get("action") or ("flagged" if record["is_fraud"] else "passed")
        key = record["model_version"], outcome
        if key not in self.counts and len(self.counts) >= _MOST_DECISIONS:
            key = "other", outcome
        self.counts[key] = self.counts.get(key, 0) + 1
        score = record["score"]
        self.scores[int(score * SCORE_STEPS)] += 1
        self.total += score


#: Filled by the sink.
decisions = Decisions()
#: From the broker's append of a transaction to its acknowledged row; filled by the sink.
append_to_row = Latency()
#: From a transaction's event time to its acknowledged row: what a customer waits; filled by the sink.
event_to_row = Latency(bounds_ms=FINE_BOUNDS_MS)
#: Filled by the sink.
sink_status = SinkStatus()
#: The same of refunds, which have a writer of their own.
refund_status = SinkStatus()
#: Likewise of alerts.
alert_status = SinkStatus()
