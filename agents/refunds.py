"""refunds -> Cassandra: acknowledged to Kafka only after Cassandra has acknowledged."""

from typing import Any

from mode.supervisors import CrashingSupervisor

from app.blocks.faust.pipeline import Pipeline
from app.cassandra.refund_rows import REFUNDS, RefundPacker
from app.cassandra.sink_delivery import TableWriters
from app.faust_app import app, batch_bytes, source, waiting_bytes
from app.metrics.counters import refund_status
from app.stages.sink_stage import SinkHandler

settings = app.settings
refunded = source(app, app.fraud_topics.refunds.name)
pipeline = Pipeline(
    app,
    refunded,
    SinkHandler(RefundPacker(settings.currency, settings.minor_unit_digits)),
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    waiting_bytes=waiting_bytes(settings),
    deliver=TableWriters(settings, refund_status).deliver(REFUNDS),
)


@app.agent(refunded, name="refunds", supervisor_strategy=CrashingSupervisor)
async def refunds(stream: Any) -> None:
    """One block of refunds at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
