"""control -> enriched: each change, for every partition."""

import asyncio
import logging
from typing import Any

from faust.types import TP
from mode.supervisors import CrashingSupervisor

from app.blocks.faust.fatal_errors import is_away
from app.blocks.faust.output_sender import OutputSender, OutRecord
from app.blocks.faust.pipeline import Pipeline
from app.errors import NotAnsweringError
from app.faust_app import app, batch_bytes, source
from app.repeated_warnings import RepeatedWarning
from app.stages.change_forwarding import ControlHandler, first_rules

settings, topics = app.settings, app.fraud_topics
changes = source(app, topics.control.name)
sender = OutputSender(batch_bytes(settings))
pipeline = Pipeline(
    app,
    changes,
    ControlHandler(topics),
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
)
_LOOK_SECONDS = 1.0
reminder = RepeatedWarning()
logger = logging.getLogger(__name__)


@app.agent(changes, name="control", supervisor_strategy=CrashingSupervisor)
async def control(stream: Any) -> None:
    """One block of changes at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)


@app.task
async def begin() -> None:
    """If there is no change yet, record the model that the deployment started with: a rollback can then restore it."""
    while not app.should_stop:
        await asyncio.sleep(_LOOK_SECONDS)
        if 0 not in pipeline.partitions:
            continue
        try:
            if await _has_begun():
                return
        except Exception as error:
            if not (is_away(error) or isinstance(error, NotAnsweringError)):
                raise
            if reminder.due():
                logger.warning("the first change is not written yet: %s; trying again", error)


async def _has_begun() -> bool:
    tp = TP(topics.control.name, 0)
    if (await app.consumer.highwaters(tp))[tp] > 0:
        return True
    in_force = list(app.in_force.values())
    if not in_force:  # no partition of `enriched` is bound to a model here yet
        return False
    change = await app.starting_model.change(settings.threshold)
    if change is not None:
        records: list[OutRecord] = [(b"start", change, [])]
        if settings.default_rules:
            records += first_rules(app.catalogue, max(settings.alert_losses), in_force)
        sent = await sender.send(app.producer._producer, {tuple(tp): records})  # noqa: SLF001
        await sent
    return False
