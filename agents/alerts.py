"""alerts -> Cassandra: acknowledged to Kafka only after Cassandra has acknowledged."""

from typing import Any

from mode.supervisors import CrashingSupervisor

from app.blocks.faust.pipeline import Pipeline
from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.cassandra.sink_delivery import TableWriters
from app.faust_app import app, batch_bytes, source, waiting_bytes
from app.metrics.counters import alert_status
from app.stages.score_callers import ObservedHandler
from app.stages.sink_stage import SinkHandler

settings = app.settings
raised = source(app, app.fraud_topics.alerts.name)
pipeline = Pipeline(
    app,
    raised,
    ObservedHandler(
        SinkHandler(AlertPacker(settings.minor_unit_digits, settings.deployment)),
        app.recent_alerts.heard,
    ),
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    waiting_bytes=waiting_bytes(settings),
    deliver=TableWriters(settings, alert_status).deliver(ALERTS),
)


@app.agent(raised, name="alerts", supervisor_strategy=CrashingSupervisor)
async def alerts(stream: Any) -> None:
    """One block of alerts at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
