"""Rows and latency of a phase, from the workers' own /metrics, summed over all workers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from app.lab.worker_processes import WorkerProcess

_ROWS = "fraudstream_sink_rows"
_LATENCY = "fraudstream_append_to_row_seconds"
_LAG = "fraudstream_consumer_lag_messages"
_STARTED = "process_start_time_seconds"


@dataclass
class _Snapshot:
    started: float = 0.0
    rows: float = 0.0
    lag: float | None = None
    #: observations below each bound (seconds), not summed up
    buckets: Counter[float] = field(default_factory=Counter)


class Meters:
    """Adds up what the workers tell, from the moment it is made; a restarted worker counts on.

    Attributes:
        rows: rows that Cassandra acknowledged.
        lag: records that the workers have not finished; None: unknown.
        buckets: latencies from the broker's append to the row: observations by upper bound, seconds.
    """

    def __init__(self, workers: Iterable[WorkerProcess]) -> None:
        self.rows = 0
        self.lag: int | None = None
        self.buckets: Counter[float] = Counter()
        self._workers = list(workers)
        self._last: dict[WorkerProcess, _Snapshot] = {}
        self.read()
        self.rows = 0
        self.buckets = Counter()

    def read(self) -> None:
        """Ask every worker; one that does not answer is asked again next time. Blocks."""
        lags: list[float | None] = []
        for worker in self._workers:
            try:
                with worker.ask("/metrics") as answer:
                    snapshot = parse(answer.read().decode())
            except OSError:
                lags.append(None)
                continue
            lags.append(snapshot.lag)
            last = self._last.get(worker, _Snapshot())
            if snapshot.started != last.started or snapshot.rows < last.rows:  # began anew
                last = _Snapshot()
            self.rows += int(snapshot.rows - last.rows)
            self.buckets += snapshot.buckets - last.buckets
            self._last[worker] = snapshot
        self.lag = None if None in lags else int(sum(lag for lag in lags if lag is not None))

    def latency_ms(self, q: float, since: Mapping[float, int] | None = None) -> float | None:
        """A quantile of the latencies, milliseconds, within some 20 %; None without any.

        Args:
            q: 0.5 for the median.
            since: buckets that an earlier `read` left, to leave out.
        """
        seconds = quantile(self.buckets - Counter(since or {}), q)
        return None if seconds is None else round(seconds * 1000, 1)


def parse(text: str) -> _Snapshot:
    """The numbers of one worker's /metrics."""
    snapshot = _Snapshot()
    below: list[tuple[float, float]] = []
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == _STARTED:
                snapshot.started = sample.value
            elif sample.name == f"{_ROWS}_total":
                snapshot.rows = sample.value
            elif sample.name == _LAG:
                snapshot.lag = (snapshot.lag or 0.0) + sample.value
            elif sample.name == f"{_LATENCY}_bucket":
                below.append((float(sample.labels["le"]), sample.value))
    before = 0.0
    for bound, count in sorted(below):
        snapshot.buckets[bound] = int(count - before)
        before = count
    return snapshot


def quantile(buckets: Mapping[float, int], q: float) -> float | None:
    """A quantile of a histogram whose bounds rise by a factor; evenly spread within each bucket.

    Args:
        buckets: observations by upper bound.
        q: from 0 to 1.
    """
    wanted = q * sum(buckets.values())
    low = below = 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if count and below + count >= wanted:
            if not low or bound == float("inf"):
                return low or bound
            inside: float = (bound / low) ** ((wanted - below) / count)
            return low * inside
        low, below = bound, below + count
    return None
