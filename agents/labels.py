"""labels -> enriched: what is known of transactions afterwards, on its way to their terminals; Cassandra."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from mode.supervisors import CrashingSupervisor

from app.adapters.kafka import partition_of
from app.adapters.labels import LabelStore
from app.blocks.batches import OutputSender
from app.blocks.pipeline import Pipeline
from app.faust_app import app, batch_bytes, source, waiting_bytes
from app.handlers.labels import LabelBlock, LabelsHandler

settings, topics = app.settings, app.fraud_topics
labelled = source(app, topics.labels.name)
handler = LabelsHandler(
    topics,
    partition_of=partition_of(settings.partitions),
    max_future_skew_ms=settings.max_future_skew,
    time_unit=settings.event_time_unit,
)
store = LabelStore(settings, topics.labels.name, lambda: time.time_ns() // 1_000_000)
sender = OutputSender(batch_bytes(settings), app.pass_on)


async def deliver(_partition: int, block: LabelBlock) -> Awaitable[Any]:
    """Look up what the labels do not say, then send them on and store them, in source order."""
    lost = await store.complete(block.labels)
    outputs = handler.outputs(block, lost)
    sent = await sender.send(app.producer._producer, outputs)  # noqa: SLF001
    known = [label for label in block.labels if label.offset not in lost]
    return asyncio.gather(sent, store.store(block.partition, known))


pipeline = Pipeline(
    app,
    labelled,
    handler,
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    waiting_bytes=waiting_bytes(settings),
    deliver=deliver,
)


@app.agent(labelled, name="labels", supervisor_strategy=CrashingSupervisor)
async def labels(stream: Any) -> None:
    """One block of labels at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
