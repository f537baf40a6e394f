"""Every metric of /metrics, once: its name, labels and help."""

from collections.abc import Iterator, Mapping
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

from app.domain.alert_policy import SEVERITIES
from app.domain.guard_limits import CAUSES
from app.metrics.counters import SCORE_STEPS, DecisionCounts, LabelCounts
from app.metrics.latency_histogram import EXPOSED_STEP, LatencyHistogram
from app.metrics.metric_series import counter, gauge
from app.metrics.partition_metrics import of_copies, of_parked, of_partitions
from app.metrics.worker_reading import WorkerReading


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
        yield from of_partitions(reading.partitions, reading.lost)
        yield of_copies(reading.copies)
        yield from of_parked(reading.parked)
        yield from _servers(reading)
        yield _histogram(
            reading.latency,
            "fraudstream_append_to_row_seconds",
            "From the broker's append of a transaction to its acknowledged row in Cassandra.",
            EXPOSED_STEP,
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
    yield counter(
        "fraudstream_outcomes{stage,outcome}",
        "Outcomes of transactions (stages cards, scoring) and labels (stage labels; in scoring: labelled, expired), "
        "computed since this worker started, including repeated work. Unit: transactions or labels.",
        reading.outcomes,
    )
    yield counter(
        "fraudstream_dead_letters{stage,reason}",
        "Dead-lettered records by the stage that refused them and the reason (docs/dead-letters.md), since this worker "
        "started, including repeated work. Unit: transactions or labels.",
        reading.refused,
    )
    yield counter(
        "fraudstream_messages{stage}",
        "Records of the stage's input topic processed since this worker started. One record of enriched contains "
        "many transactions. Unit: Kafka records.",
        reading.records,
    )
    yield counter(
        "fraudstream_score_answers{status}",
        "Answers of POST /score since this worker started, by HTTP status. Unit: requests.",
        reading.score_answers,
    )
    yield gauge(
        "fraudstream_waiting_bytes{stage}",
        "Memory used by records between fetch and acknowledgement, by stage; see FRAUDSTREAM_MAX_WAITING_BYTES.",
        reading.waiting_bytes,
    )


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
    yield counter(
        "fraudstream_alerts{severity}",
        "Scored transactions that raised alerts, by severity. Unit: transactions.",
        {severity: reading.raised.get(severity, 0) for severity in SEVERITIES},
    )
    yield counter(
        "fraudstream_challenger_failures{model}",
        "Transactions that a challenger returned no score for, by its name and version. Unit: transactions.",
        reading.unscored,
    )
    yield CounterMetricFamily(
        "fraudstream_model_failures",
        "Transactions without a score by the current model; an earlier one decided. Unit: transactions.",
        reading.fell_back,
    )
    yield counter(
        "fraudstream_guard_reverts{cause}",
        "The guard's reverts of a model or threshold that took effect on this worker, by cause; each worker counts "
        "them. Unit: reverts.",
        {cause: reading.reverts.get(cause, 0) for cause in CAUSES},
    )
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
    yield gauge("fraudstream_state_bytes{table,partition}", "State on disk.", reading.state_bytes)


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
    yield counter(
        "fraudstream_decisions{model,outcome}",
        "Predictions on their way to Cassandra, by model and outcome: the action, or flagged and passed in records "
        "without one. Includes repeated work, as after a rebalance. Unit: transactions.",
        decisions.counts,
    )
    yield counter(
        "fraudstream_challenger_scores{model,outcome}",
        "Transactions that a challenger scored, too, by its name and version: it would have flagged or passed them, or "
        "gave no score. Unit: transactions.",
        {
            (name, outcome): number
            for name, counts in decisions.challengers.items()
            for outcome, number in counts.items()
        },
    )
    below = list(accumulate(decisions.scores))
    buckets = [(f"{step / SCORE_STEPS:g}", below[step - 1]) for step in range(1, SCORE_STEPS)]
    scores = HistogramMetricFamily("fraudstream_score", "Scores of these predictions.")
    scores.add_metric([], [*buckets, ("1", below[-1]), ("+Inf", below[-1])], decisions.total)
    yield scores


def _labels(labels: LabelCounts) -> Iterator[Metric]:
    yield counter(
        "fraudstream_labels{verdict}",
        "Labels on their way to Cassandra, by verdict. Unit: labels.",
        {"genuine": labels.genuine, "fraud": labels.fraud},
    )
    yield GaugeMetricFamily(
        "fraudstream_last_label_timestamp_seconds",
        "When the newest label of this worker was appended to its topic, epoch seconds; 0 before the first.",
        labels.received_ms / 1000,
    )


def _drift(drift: Mapping[str, Any]) -> Iterator[Metric]:
    # None: the model has no training distribution
    known = {model: one for model, one in drift.items() if one is not None}
    yield gauge(
        "fraudstream_drift_transactions{model}",
        "Newest predictions that are compared with the model's training data. Unit: transactions.",
        {model: one["transactions"] for model, one in known.items()},
    )
    for name, column, text in (
        (
            "psi",
            "psi",
            "Population stability index of a feature, or of the score, against training: above the limit is drift.",
        ),
        ("psi_limit", "limit", "Population stability index above which it is drift."),
        ("missing_ratio", "missing", "Share of transactions without a value of the feature."),
    ):
        yield gauge(
            f"fraudstream_drift_{name}{{model,feature}}",
            text,
            {
                (model, found["name"]): found[column]
                for model, one in known.items()
                for found in one["columns"]
            },
        )
    yield gauge(
        "fraudstream_drift_found{model,detector,subject}",
        "1 for everything that differs from training now, by detector (docs/drift.md); absent otherwise.",
        {
            (model, finding["detector"], finding["subject"]): 1
            for model, one in known.items()
            for finding in one["findings"]
        },
    )


def _work(reading: WorkerReading) -> Iterator[Metric]:
    """What must not grow without bound, in addition to the memory and files of the process collector."""
    yield gauge("fraudstream_tasks{loop}", "Running asyncio tasks.", reading.tasks)
    yield GaugeMetricFamily("fraudstream_threads", "Python threads.", reading.threads)
    yield CounterMetricFamily(
        "fraudstream_rebalances",
        "Rebalances of the consumer group since this worker started.",
        reading.rebalances,
    )


def _identity(reading: WorkerReading) -> Iterator[Metric]:
    yield gauge("fraudstream_build_info{version}", "The release.", {release(): 1})
    if reading.model is not None:
        yield gauge(
            "fraudstream_model_info{version,hash}",
            "The model that scores new transactions; absent while this worker has no partition.",
            {tuple(reading.model): 1},
        )


def release() -> str:
    """The installed version of this package."""
    try:
        return version("fraudstream")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
