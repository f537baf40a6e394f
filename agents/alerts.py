"""alerts -> Cassandra: acknowledged to Kafka only after Cassandra has acknowledged."""

from typing import Any

from mode.supervisors import CrashingSupervisor

from app.blocks.faust.pipeline import Pipeline
from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.cassandra.delivery import TableWriters
from app.faust_app import app, batch_bytes, source
from app.metrics.recorders import alert_status
from app.stages.sink import SinkHandler

settings = app.settings
raised = source(app, app.fraud_topics.alerts.name)
writers = TableWriters(settings, alert_status)


async def deliver(_partition: int, rows: list[bytes]) -> Any:
    """Submit the rows of one block; the result resolves once Cassandra has them all."""
    return await writers.submit(ALERTS, rows)


pipeline = Pipeline(
    app,
    raised,
    SinkHandler(AlertPacker(settings.minor_unit_digits, settings.deployment)),
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    deliver=deliver,
)


@app.agent(raised, name="alerts", supervisor_strategy=CrashingSupervisor)
async def alerts(stream: Any) -> None:
    """One block of alerts at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
