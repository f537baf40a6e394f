"""enriched -> predictions: the terminal's features, then the model."""

import time
from typing import Any

from faust.types import TP
from mode.supervisors import CrashingSupervisor

from app.blocks.pipeline import Pipeline
from app.domain.terminal_stage import TerminalStage
from app.faust_app import app, batch_bytes, source
from app.handlers.rows import PINS_KEY, Pins, Position, row_rules, state_settings
from app.handlers.scoring import ScoringHandler
from models.holder import ModelHolder, registry_of
from tables.terminals import terminals as table

settings, topics = app.settings, app.fraud_topics
models = ModelHolder(registry_of(settings), app.catalogue, settings.minor_unit_digits)
champion = models.named(settings.model)
enriched = source(app, topics.enriched.name)


async def pin_model(partition: int, _start: int) -> None:
    """Check the state, then write down from where on the present model scores, before it does."""
    tp = TP(topics.enriched.name, partition)
    ends = await app.consumer.highwaters(tp)
    shape = state_settings(settings)
    state = table.reader(partition)
    Position.read(state, shape).check(f"{tp.topic}/{partition}", shape, ends[tp])
    pins = Pins.read(state.get(PINS_KEY))
    if pins.pin(ends[tp], champion.hash):
        await table.write(partition, [pins.encode()])


pipeline = Pipeline(
    app,
    enriched,
    ScoringHandler(
        TerminalStage(app.catalogue),
        row_rules(settings),
        topics,
        model=models.by_hash,
        clock_ms=lambda: time.time_ns() // 1_000_000,
        reasons_from=settings.reasons_from,
        threshold=settings.threshold,
        state_settings=state_settings(settings),
    ),
    table=table,
    depth=settings.blocks_in_flight,
    batch_bytes=batch_bytes(settings),
    on_start=pin_model,
)


@app.agent(enriched, name="scoring", supervisor_strategy=CrashingSupervisor)
async def scoring(stream: Any) -> None:
    """One block of enriched messages at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
