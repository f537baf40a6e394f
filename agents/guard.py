"""The guard's task: checks twenty times per second, and writes the reverts that it proposes to `control`."""

import asyncio
import logging
import time
from uuid import uuid4

from agents.scoring import guard, handler, pipeline
from app.blocks.faust.fatal_errors import is_away
from app.blocks.faust.output_sender import OutputSender, OutRecord
from app.faust_app import app, batch_bytes
from app.wire.control_records import encode_change

settings, topics = app.settings, app.fraud_topics
sender = OutputSender(batch_bytes(settings))
#: At 1,000 transactions per second, a second more is a thousand more that a harmful model decides.
_LOOK_SECONDS = 0.05
#: A name of its own, because the logs of Faust's services are silenced.
logger = logging.getLogger("fraudstream")


@app.task
async def watch_changes() -> None:
    """Revert a change that does harm; see `app.stages.guard_proposals`."""
    while settings.guard_time and not app.should_stop:
        await asyncio.sleep(_LOOK_SECONDS)
        here = [handler.in_force[n] for n in pipeline.partitions if n in handler.in_force]
        for since, change in guard.proposals(here, time.time_ns() // 1_000_000):
            # a key of its own: compaction keeps each change
            record: OutRecord = (f"revert/{uuid4()}".encode(), encode_change(change), [])
            outputs = {(topics.control.name, since.partition): [record]}
            try:
                sent = await sender.send(app.producer._producer, outputs)  # noqa: SLF001
                await sent
            except Exception as error:
                if not is_away(error):
                    raise
                logger.warning("the guard's change is not written yet: %s; trying again", error)
