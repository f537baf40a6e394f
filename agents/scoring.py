"""enriched -> predictions: the terminal's features, then the model."""

import time
from typing import Any

from faust.types import TP
from mode.supervisors import CrashingSupervisor

from app.blocks.faust.pipeline import Pipeline
from app.faust_app import app, batch_bytes, source, waiting_bytes
from app.stages.scoring import ScoringHandler
from app.stages.start import check_state, check_topics_known, pin_model
from app.stages.state import terminal_settings
from models.holder import ModelHolder, registry_of
from tables.terminals import terminals as table

settings, topics = app.settings, app.fraud_topics
models = ModelHolder(registry_of(settings), app.catalogue, settings.minor_unit_digits)
champion = models.named(settings.model)
enriched = source(app, topics.enriched.name)


async def check_and_pin(partition: int, start: int) -> None:
    """Check the state, then write down from where on the present model scores, before it does.

    What is left from before is scored by the models of its time: they are loaded now, or this start is refused.
    """
    tp = TP(topics.enriched.name, partition)
    await check_topics_known(table, partition, app.topic_ids, app.recreated)
    shape = terminal_settings(settings)
    end = await check_state(app.consumer, table, tp, start, shape, settings.model)
    pins = await pin_model(table, partition, end, champion.hash)
    for model_hash in pins.models_of(start, end):
        models.by_hash(model_hash)


pipeline = Pipeline(
    app,
    enriched,
    ScoringHandler.of(
        settings,
        topics,
        app.catalogue,
        model=models.by_hash,
        clock_ms=lambda: time.time_ns() // 1_000_000,
    ),
    table=table,
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    waiting_bytes=waiting_bytes(settings),
    on_start=check_and_pin,
)


@app.agent(enriched, name="scoring", supervisor_strategy=CrashingSupervisor)
async def scoring(stream: Any) -> None:
    """One block of enriched messages at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
