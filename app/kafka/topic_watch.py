"""Stops a worker whose topics are deleted and created again, or given partitions, while it reads them."""

import logging
from typing import Any

from app.blocks.faust.fatal_errors import halt
from app.errors import SchemaError
from app.kafka.topic_checks import changed
from app.kafka.topic_metadata import see_topics

logger = logging.getLogger(__name__)

#: How often to look whether topics are still those that they were.
_LOOK_SECONDS = 20.0


async def watch_topics(app: Any) -> None:
    """Look until the app (`app.faust_app.FraudApp`) stops; two looks in a row that find a change stop the worker."""
    found: SchemaError | None = None
    while not app.should_stop:
        await app.sleep(_LOOK_SECONDS)
        before, found = found, await _look(app)
        # twice: a broker that has just started may answer with what was
        if before is not None and found is not None:
            halt("its topics", found)


async def _look(app: Any) -> SchemaError | None:
    topics = app.fraud_topics
    producer = app.producer._producer  # noqa: SLF001 -- its connection serves
    if producer is None or not app.assignor.assigned_actives():
        return None
    try:
        seen = await see_topics(producer.client, [spec.name for spec in topics.all])
    except Exception as error:  # Kafka is away: nothing is known
        logger.debug("the topics cannot be listed: %r", error)
        return None
    return None if seen is None else changed(seen, app.topic_ids, topics, app.settings)
