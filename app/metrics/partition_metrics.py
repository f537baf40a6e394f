"""Metrics of partitions: of each stage, of standby replicas, of parked labels."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import Metric

from app.metrics.metric_series import counter, gauge
from app.metrics.worker_reading import PartitionReading, StandbyReading


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


#: Of each partition of a stage: help and value; None: it has none.
_GAUGES: dict[str, tuple[str, Callable[[PartitionReading], float | None]]] = {
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
        "transaction). Unit: Kafka offsets.",
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
        lambda reading: None if reading.event_time_ms is None else _seconds(reading.ahead_ms or 0),
    ),
}


def of_partitions(
    partitions: list[PartitionReading], lost: Mapping[tuple[str, int], int]
) -> Iterator[Metric]:
    """Of the partitions of each stage.

    Args:
        partitions: those that the worker has.
        lost: see `WorkerReading`.
    """
    by = {(one.stage, one.partition): one for one in partitions}
    yield counter(
        "fraudstream_partition_messages{stage,partition}",
        "Records of the stage's input topic processed since the partition was assigned to this worker. Unit: "
        "Kafka records.",
        {key: one.records_done for key, one in by.items()},
    )
    yield counter(
        "fraudstream_lost_records{stage,partition}",
        "Offsets that were deleted from the stage's topic before they were read, since this worker started.",
        # a counter does not go: one that comes back with its partition would look like a new loss
        {**dict.fromkeys(by, 0), **lost},
    )
    for name, (text, value) in _GAUGES.items():
        numbers = {key: value(one) for key, one in by.items()}
        yield gauge(f"fraudstream_{name}{{stage,partition}}", text, numbers)


def of_parked(parked: list[Any]) -> Iterator[Metric]:
    """Of labels that wait for their transactions (`WorkerReading.parked`)."""
    yield gauge(
        "fraudstream_parked_labels{partition}",
        "Labels that wait for unknown transactions, by partition of the topic of labels.",
        {one.partition: one.labels for one in parked},
    )
    yield gauge(
        "fraudstream_parked_label_oldest_seconds{partition}",
        "How long the oldest parked label has waited; 0 if there is none.",
        {
            one.partition: 0.0
            if one.oldest_ms is None
            else max(0.0, time.time() - one.oldest_ms / 1000)
            for one in parked
        },
    )


def of_copies(copies: list[StandbyReading]) -> Metric:
    """Of standby replicas."""
    return gauge(
        "fraudstream_standby_lag_messages{table,partition}",
        "Changelog records that a standby replica lacks. Unit: Kafka records.",
        {(copy.table, copy.partition): copy.lag for copy in copies},
    )
