"""Every metric of /metrics, once: its name, labels and help."""

import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.domain.alerts import SEVERITIES
from app.domain.guard import CAUSES
from app.metrics.latency_histogram import LatencyHistogram
from app.metrics.reading import PartitionReading, StandbyReading, WorkerReading
from app.metrics.recorders import SCORE_STEPS, DecisionCounts, LabelCounts

#: Prometheus gets every second bound of the histogram since the append.
_EXPOSED_STEP = 2


class WorkerMetrics(Collector):
    """Turns a reading into Prometheus text. One a worker: it has its own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._reading = WorkerReading()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def text(self, reading: WorkerReading) -> bytes:
        """The exposition of a reading."""
        self._reading = reading
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        reading = self._reading
        yield from _flow(reading)
        yield from _partitions(reading.partitions)
        yield _copies(reading.copies)
        yield from _parked(reading.parked)
        yield from _servers(reading)
        yield _histogram(
            reading.latency,
            "fraudstream_append_to_row_seconds",
            "From the broker's append of a transaction to its acknowledged row in Cassandra.",
            _EXPOSED_STEP,
        )
        yield _histogram(
            reading.event_latency,
            "fraudstream_event_to_row_seconds",
            "From a transaction's event time to its acknowledged row in Cassandra.",
        )
        yield from _decisions(reading.decisions)
        yield from _labels(reading.labels)
        yield from _drift(reading.drift)
        yield from _work(reading)
        yield from _identity(reading)


def _flow(reading: WorkerReading) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "fraudstream_outcomes",
        "Outcomes of transactions (stages cards, scoring) and labels (stage labels; in scoring: labelled, given up), "
        "computed since this worker started, including repeated work. Unit: transactions or labels.",
        labels=["stage", "outcome"],
    )
    for labels, number in sorted(reading.outcomes.items()):
        outcomes.add_metric(labels, number)
    yield outcomes
    records = CounterMetricFamily(
        "fraudstream_messages",
        "Records of the stage's input topic processed since this worker started. One record of enriched contains "
        "many transactions. Unit: Kafka records.",
        labels=["stage"],
    )
    for stage, number in sorted(reading.records.items()):
        records.add_metric([stage], number)
    yield records
    answers = CounterMetricFamily(
        "fraudstream_score_answers",
        "Answers of POST /score since this worker started, by HTTP status. Unit: requests.",
        labels=["status"],
    )
    for status, number in sorted(reading.score_answers.items()):
        answers.add_metric([str(status)], number)
    yield answers
    waiting = GaugeMetricFamily(
        "fraudstream_waiting_bytes",
        "Memory used by records between fetch and acknowledgement, by stage; see FRAUDSTREAM_MAX_WAITING_BYTES.",
        labels=["stage"],
    )
    for stage, size in sorted(reading.waiting_bytes.items()):
        waiting.add_metric([stage], size)
    yield waiting


def _partitions(partitions: list[PartitionReading]) -> Iterator[Metric]:
    labels = ["stage", "partition"]
    done = CounterMetricFamily(
        "fraudstream_partition_messages",
        "Records of the stage's input topic processed since the partition was assigned to this worker. Unit: "
        "Kafka records.",
        labels=labels,
    )
    gauges: dict[str, tuple[str, Callable[[PartitionReading], float | None]]] = {
        "records_waiting": (
            "Records fetched but not computed yet. Unit: Kafka records.",
            lambda reading: reading.records_waiting,
        ),
        "blocks_in_flight": (
            "Micro-batches computed but not durable yet.",
            lambda reading: reading.blocks_in_flight,
        ),
        "consumer_lag_messages": (
            "Offsets between the last one processed and the end of the readable log (its end, or an open Kafka "
            "transaction). "
            "Unit: Kafka offsets.",
            lambda reading: reading.lag,
        ),
        "open_transaction_seconds": (
            "How long the partition has waited for a producer's open Kafka transaction; 0 if there is none.",
            lambda reading: reading.open_seconds,
        ),
        "open_transaction_messages": (
            "Offsets after the beginning of an open Kafka transaction, which cannot be read yet.",
            lambda reading: reading.open_offsets,
        ),
        "event_time_seconds": (
            "Newest event time processed, epoch seconds; for labels, their labelled_at.",
            lambda reading: _seconds(reading.event_time_ms),
        ),
        "held": (
            "1 while the partition is paused for alignment with partitions that are behind it in event time.",
            lambda reading: (
                None
                if reading.event_time_ms is None and reading.held_ms is None
                else int(reading.held_ms is not None)
            ),
        ),
        "schema_waiting": (
            "1 while the partition's next record waits for a schema from the registry.",
            lambda reading: None if reading.stage != "cards" else int(reading.needs is not None),
        ),
        "event_time_ahead_seconds": (
            "How far the paused partition is ahead of the slowest one in event time; 0 while it is not paused.",
            lambda reading: (
                None if reading.event_time_ms is None else _seconds(reading.ahead_ms or 0)
            ),
        ),
    }
    lost = CounterMetricFamily(
        "fraudstream_lost_records",
        "Offsets that were deleted from the stage's topic before they were read, since this worker started.",
        labels=labels,
    )
    for reading in partitions:
        done.add_metric([reading.stage, str(reading.partition)], reading.records_done)
        lost.add_metric([reading.stage, str(reading.partition)], reading.lost)
    yield done
    yield lost
    for name, (text, value) in gauges.items():
        gauge = GaugeMetricFamily(f"fraudstream_{name}", text, labels=labels)
        for reading in partitions:
            number = value(reading)
            if number is not None:
                gauge.add_metric([reading.stage, str(reading.partition)], number)
        yield gauge


def _parked(parked: list[Any]) -> Iterator[Metric]:
    count = GaugeMetricFamily(
        "fraudstream_parked_labels",
        "Labels that wait for unknown transactions, by partition of the topic of labels.",
        labels=["partition"],
    )
    oldest = GaugeMetricFamily(
        "fraudstream_parked_label_oldest_seconds",
        "How long the oldest parked label has waited; 0 if there is none.",
        labels=["partition"],
    )
    for one in parked:
        count.add_metric([str(one.partition)], one.labels)
        waited = 0.0 if one.oldest_ms is None else max(0.0, time.time() - one.oldest_ms / 1000)
        oldest.add_metric([str(one.partition)], waited)
    yield count
    yield oldest


def _copies(copies: list[StandbyReading]) -> Metric:
    lag = GaugeMetricFamily(
        "fraudstream_standby_lag_messages",
        "Changelog records that a standby replica lacks. Unit: Kafka records.",
        labels=["table", "partition"],
    )
    for copy in copies:
        if copy.lag is not None:
            lag.add_metric([copy.table, str(copy.partition)], copy.lag)
    return lag


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _servers(reading: WorkerReading) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "fraudstream_kafka_up", "1 if Kafka answered the last request.", int(reading.kafka_answers)
    )
    yield GaugeMetricFamily(
        "fraudstream_sink_up",
        "0 while predictions, refunds or alerts wait for Cassandra.",
        int(all(one.reason is None for one in (reading.sink, reading.refunds, reading.alerts))),
    )
    yield CounterMetricFamily(
        "fraudstream_sink_rows",
        "Rows of predictions and conflicting_predictions acknowledged by Cassandra. Unit: rows, one per scored "
        "transaction.",
        reading.sink.rows,
    )
    yield CounterMetricFamily(
        "fraudstream_refund_rows",
        "Rows of refunds acknowledged by Cassandra. Unit: rows written, one per refund.",
        reading.refunds.rows,
    )
    yield CounterMetricFamily(
        "fraudstream_alert_rows",
        "Rows of alerts acknowledged by Cassandra. Unit: rows written, one per alert record.",
        reading.alerts.rows,
    )
    raised = CounterMetricFamily(
        "fraudstream_alerts",
        "Scored transactions that raised alerts, by severity. Unit: transactions.",
        labels=["severity"],
    )
    for severity in SEVERITIES:
        raised.add_metric([severity], reading.raised.get(severity, 0))
    yield raised
    unscored = CounterMetricFamily(
        "fraudstream_challenger_failures",
        "Transactions that a challenger returned no score for, by its name and version. Unit: transactions.",
        labels=["model"],
    )
    for model, number in sorted(reading.unscored.items()):
        unscored.add_metric([model], number)
    yield unscored
    yield CounterMetricFamily(
        "fraudstream_model_failures",
        "Transactions without a score by the current model; an earlier one decided. Unit: transactions.",
        reading.fell_back,
    )
    reverts = CounterMetricFamily(
        "fraudstream_guard_reverts",
        "The guard's reverts of a model or threshold that took effect on this worker, by cause; each worker counts "
        "them. Unit: reverts.",
        labels=["cause"],
    )
    for cause in CAUSES:
        reverts.add_metric([cause], reading.reverts.get(cause, 0))
    yield reverts
    yield CounterMetricFamily(
        "fraudstream_sink_failures",
        "Failed writes to Cassandra, which are repeated. Unit: batches and connection attempts.",
        reading.sink.failures + reading.refunds.failures + reading.alerts.failures,
    )
    yield GaugeMetricFamily(
        "fraudstream_sink_last_row_timestamp_seconds",
        "When Cassandra acknowledged the newest row, epoch seconds; 0 before the first.",
        reading.sink.written_at,
    )
    yield GaugeMetricFamily(
        "fraudstream_ready", "1 if /health/ready answers 200.", int(not reading.reasons)
    )
    state = GaugeMetricFamily(
        "fraudstream_state_bytes", "State on disk.", labels=["table", "partition"]
    )
    for (table, partition), size in sorted(reading.state_bytes.items()):
        state.add_metric([table, str(partition)], size)
    yield state


def _histogram(latency: LatencyHistogram, name: str, text: str, step: int = 1) -> Metric:
    counts, bounds = latency.counts(), latency.bounds_ms
    below = list(accumulate(counts))
    buckets = [
        (f"{bounds[index] / 1000:.6g}", below[index]) for index in range(0, len(bounds), step)
    ]
    buckets.append(("+Inf", below[-1]))
    histogram = HistogramMetricFamily(name, text)
    histogram.add_metric([], buckets=buckets, sum_value=latency.total_ms / 1000)
    return histogram


def _decisions(decisions: DecisionCounts) -> Iterator[Metric]:
    made = CounterMetricFamily(
        "fraudstream_decisions",
        "Predictions on their way to Cassandra, by model and outcome: the action, or flagged and passed in records "
        "without one. Unit: transactions.",
        labels=["model", "outcome"],
    )
    for labels, number in sorted(decisions.counts.items()):
        made.add_metric(labels, number)
    yield made
    beside = CounterMetricFamily(
        "fraudstream_challenger_scores",
        "Transactions that a challenger scored, too, by its name and version: it would have flagged or passed them, or "
        "gave no score. Unit: transactions.",
        labels=["model", "outcome"],
    )
    for name, counts in sorted(decisions.challengers.items()):
        for outcome, number in counts.items():
            beside.add_metric([name, outcome], number)
    yield beside
    below = list(accumulate(decisions.scores))
    buckets = [(f"{step / SCORE_STEPS:g}", below[step - 1]) for step in range(1, SCORE_STEPS)]
    scores = HistogramMetricFamily("fraudstream_score", "Scores of these predictions.")
    scores.add_metric([], [*buckets, ("1", below[-1]), ("+Inf", below[-1])], decisions.total)
    yield scores


def _labels(labels: LabelCounts) -> Iterator[Metric]:
    counts = CounterMetricFamily(
        "fraudstream_labels",
        "Labels on their way to Cassandra, by verdict. Unit: labels.",
        labels=["verdict"],
    )
    counts.add_metric(["genuine"], labels.genuine)
    counts.add_metric(["fraud"], labels.fraud)
    yield counts
    yield GaugeMetricFamily(
        "fraudstream_last_label_timestamp_seconds",
        "When the newest label of this worker was appended to its topic, epoch seconds; 0 before the first.",
        labels.received_ms / 1000,
    )


def _drift(drift: Mapping[str, Any]) -> Iterator[Metric]:
    rows = GaugeMetricFamily(
        "fraudstream_drift_transactions",
        "Newest predictions that are compared with the model's training data. Unit: transactions.",
        labels=["model"],
    )
    gauges = {
        "psi": GaugeMetricFamily(
            "fraudstream_drift_psi",
            "Population stability index of a feature, or of the score, against training: above the limit is drift.",
            labels=["model", "feature"],
        ),
        "limit": GaugeMetricFamily(
            "fraudstream_drift_psi_limit",
            "Population stability index above which it is drift.",
            labels=["model", "feature"],
        ),
        "missing": GaugeMetricFamily(
            "fraudstream_drift_missing_ratio",
            "Share of transactions without a value of the feature.",
            labels=["model", "feature"],
        ),
    }
    found = GaugeMetricFamily(
        "fraudstream_drift_found",
        "1 for everything that differs from training now, by detector (docs/drift.md); absent otherwise.",
        labels=["model", "detector", "subject"],
    )
    for model, one in drift.items():
        if one is None:  # it has no training distribution
            continue
        rows.add_metric([model], one["transactions"])
        for column in one["columns"]:
            for name, gauge in gauges.items():
                gauge.add_metric([model, column["name"]], column[name])
        for finding in one["findings"]:
            found.add_metric([model, finding["detector"], finding["subject"]], 1)
    yield from (rows, *gauges.values(), found)


def _work(reading: WorkerReading) -> Iterator[Metric]:
    """What must not grow without bound, in addition to the memory and files of the process collector."""
    tasks = GaugeMetricFamily("fraudstream_tasks", "Running asyncio tasks.", labels=["loop"])
    for loop, number in sorted(reading.tasks.items()):
        tasks.add_metric([loop], number)
    yield tasks
    yield GaugeMetricFamily("fraudstream_threads", "Python threads.", reading.threads)
    yield CounterMetricFamily(
        "fraudstream_rebalances",
        "Rebalances of the consumer group since this worker started.",
        reading.rebalances,
    )


def _identity(reading: WorkerReading) -> Iterator[Metric]:
    build = GaugeMetricFamily("fraudstream_build_info", "The release.", labels=["version"])
    build.add_metric([release()], 1)
    yield build
    if reading.model is not None:
        model = GaugeMetricFamily(
            "fraudstream_model_info",
            "The model that scores new transactions; absent while this worker has no partition.",
            labels=["version", "hash"],
        )
        model.add_metric(list(reading.model), 1)
        yield model


def release() -> str:
    """The installed version of this package."""
    try:
        return version("fraudstream")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
