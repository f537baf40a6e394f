"""Who waits for what at this moment: partitions paused for alignment, servers, labels without transactions."""

import time
from typing import Any

from app.display import age, iso


def read_waits(app: Any) -> list[str]:
    """A line for each partition of this worker that waits, and for those with parked labels; empty without any.

    No line contains an id of a card or transaction: readiness probes need no login.

    Args:
        app: the block app.
    """
    lines = []
    if app.alignment is not None:
        for topic, pipeline in sorted(app.pipelines.items()):
            for number in sorted(pipeline.partitions):
                if app.alignment.aligns(topic):
                    lines += _partition(
                        f"{topic}/{number}", app.alignment.watermark((topic, number))
                    )
    lines += _models(app) + _refused(app)
    return lines + [line for one in app.retries.parked() for line in _parked(app, one)]


def _models(app: Any) -> list[str]:
    """A line for each partition whose next transaction is scored by a model that is not loaded yet."""
    return [
        f"{topic}/{number} waits for {partition.needs}: {app.models.waiting[partition.needs.hash]}"
        for topic, pipeline in sorted(app.pipelines.items())
        for number, partition in sorted(pipeline.partitions.items())
        if getattr(partition.needs, "hash", None) in app.models.waiting
    ]


def _refused(app: Any) -> list[str]:
    """A line for each challenger and earlier model that this worker cannot load."""
    beside: dict[str, str] = {}
    for in_force in app.in_force.values():
        beside |= {one.hash: f"earlier model {one.hash[:16]}" for one in in_force.fallbacks}
        beside |= {one.hash: f"challenger {one.model}" for one in in_force.challengers}
    refused = app.models.refused
    return [
        f"{name} gives no scores here: {refused[model_hash]}"
        for model_hash, name in sorted(beside.items())
        if model_hash in refused
    ]


def _partition(where: str, mark: Any) -> list[str]:
    if mark.held_ms is not None:
        return [
            f"{where} is paused for alignment at event time {iso(mark.held_ms)}{_for_whom(mark)}"
        ]
    return [f"{where} waits for Cassandra, which does not accept labels"] if mark.stalled else []


def _for_whom(mark: Any) -> str:
    slowest = mark.slowest
    if slowest is None:
        return "; the positions of the other partitions are being read"
    at = (
        "at an unknown event time"
        if slowest.position_ms is None
        else f"at {iso(slowest.position_ms)}"
    )
    return f", for {slowest.tp[0]}/{slowest.tp[1]}, which is {at} ({slowest.why})"


def _parked(app: Any, one: Any) -> list[str]:
    if not one.labels:
        return []
    since = age(one.oldest_ms / 1000, time.time())
    away = f"; {app.retries.away}" if app.retries.away else ""
    return [
        f"{one.labels:,} labels of {app.fraud_topics.labels.name}/{one.partition} are parked until their transactions "
        f"are known; the oldest has waited {since}{away}"
    ]
