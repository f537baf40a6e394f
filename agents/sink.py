"""predictions -> Cassandra: acknowledged to Kafka only after Cassandra has acknowledged."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from mode.supervisors import CrashingSupervisor

from app.blocks.faust.early_delivery import EarlyDelivery
from app.blocks.faust.pipeline import Pipeline
from app.cassandra.prediction_rows import RowPacker
from app.cassandra.sink_delivery import Delivery
from app.faust_app import app, batch_bytes, source, waiting_bytes
from app.metrics.counters import append_to_row, decisions, event_to_row, sink_status
from app.metrics.drift_sample import recent_sample
from app.metrics.worker_reading import records_behind
from app.stages.score_callers import ObservedHandler
from app.stages.sink_stage import SinkHandler, has_challengers
from app.stages.tracing import traced_sink

settings = app.settings
predictions = source(app, app.fraud_topics.predictions.name)


delivery = Delivery(
    settings,
    status=sink_status,
    behind=lambda: records_behind(app, pipeline),
    clock_ms=lambda: time.time() * 1000,
    since_append=append_to_row.observe_many,
    since_event=event_to_row.observe_many,
)


def seen(record: dict[str, Any]) -> None:
    """Count a prediction, and keep some as a sample."""
    decisions.add(record)
    recent_sample.add(record)


packer = RowPacker.of(settings, settings.deployment, seen)


def store_early(values: Sequence[Any]) -> asyncio.Future[Any] | None:
    """Send rows to Cassandra while their records are on their way to `predictions`: see docs/adr/0028."""
    if not delivery.ready or any(has_challengers(value) for value in values):
        return None
    return delivery.deliver_now(-1, packer.pack_many(values))


early = EarlyDelivery(store_early)
handler, stored = traced_sink(
    app.spans,
    app.fraud_topics,
    ObservedHandler(SinkHandler(packer, early.take), app.answers.predicted),
)
pipeline: Pipeline = Pipeline(
    app,
    predictions,
    handler,
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    waiting_bytes=waiting_bytes(settings),
    deliver=delivery.deliver,
    deliver_now=delivery.deliver_now,
    early=early,
    finished=stored,
)


@app.agent(predictions, name="sink", supervisor_strategy=CrashingSupervisor)
async def sink(stream: Any) -> None:
    """One block of predictions at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
