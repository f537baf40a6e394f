"""The histogram of latencies: its bounds, and quantiles of the last minutes."""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

#: Ten bounds a decade, 1 ms to 2.8 hours: catching up after an outage is latency too.
_PER_DECADE = 10
LATENCY_BOUNDS_MS = tuple(10.0 ** (step / _PER_DECADE) for step in range(7 * _PER_DECADE + 1))
#: Twice as fine up to ten seconds, where a live stream is: 12 % from one bound to the next.
FINE_BOUNDS_MS = (
    *(10.0 ** (step / 20) for step in range(4 * 20)),
    *(10.0 ** (step / 5) for step in range(4 * 5, 7 * 5 + 1)),
)
#: Prometheus gets every second bound of the histogram since the append.
EXPOSED_STEP = 2
#: Quantiles speak of the last one to two of these, seconds.
_RECENT_SECONDS = 60.0


class LatencyHistogram:
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
