"""Quantiles of a worker's latency histogram, between two looks at its /metrics."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from app.errors import UnavailableError
from app.lab.worker_processes import WorkerProcess

#: What a report tells of latencies.
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


class WorkerPage:
    """What one look at the /metrics of a worker showed.

    Args:
        text: the page.
        histogram: name of the histogram that is wanted.

    Attributes:
        counts: cumulative observations by upper bound, seconds.
        values: samples without labels, by name.
        copies: changelog records that its warm copies lack, by table and partition.
    """

    def __init__(self, text: str, histogram: str = "fraudstream_event_to_row_seconds") -> None:
        self.counts: dict[float, float] = {}
        self.values: dict[str, float] = {}
        self.copies: dict[tuple[str, int], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"{histogram}_bucket":
                    self.counts[float(sample.labels["le"])] = sample.value
                elif sample.name == "fraudstream_standby_lag_messages":
                    which = (sample.labels["table"], int(sample.labels["partition"]))
                    self.copies[which] = sample.value
                elif not sample.labels:
                    self.values[sample.name] = sample.value

    @classmethod
    def of(cls, worker: WorkerProcess) -> "WorkerPage":
        """Ask a worker."""
        with worker.ask("/metrics") as answer:
            return cls(answer.read().decode())

    @property
    def rows(self) -> int:
        """Rows that Cassandra acknowledged since the worker's start."""
        return int(self.values["fraudstream_sink_rows_total"])

    @property
    def last_row(self) -> float:
        """When the newest row was acknowledged, epoch seconds."""
        return self.values["fraudstream_sink_last_row_timestamp_seconds"]

    def quantiles_ms(self, before: "WorkerPage") -> dict[str, float]:
        """The quantiles of what came after an earlier look, milliseconds.

        Raises:
            UnavailableError: nothing came.
        """
        counts = {bound: self.counts[bound] - before.counts.get(bound, 0) for bound in self.counts}
        return {name: quantile(counts, q) * 1000 for name, q in QUANTILES.items()}


def quantile(cumulative: Mapping[float, float], q: float) -> float:
    """The `q` quantile of a histogram whose bounds rise by a factor; evenly spread within a bucket.

    Args:
        cumulative: observations at or below each upper bound.
        q: from 0 to 1.

    Raises:
        UnavailableError: there is no observation.
    """
    total = max(cumulative.values(), default=0.0)
    if not total:
        msg = "the worker observed no latency during the load"
        raise UnavailableError(msg)
    below, low = 0.0, 0.0
    for bound in sorted(cumulative):
        count = cumulative[bound]
        if count > below and count >= q * total:
            if bound == float("inf") or not low:
                return low or bound
            inside: float = (bound / low) ** ((q * total - below) / (count - below))
            return low * inside
        below, low = count, bound
    return low
