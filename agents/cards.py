"""transactions -> enriched: card features; dead, moved, duplicate and other outcomes."""

from functools import lru_cache
from typing import Any

from faust.types import TP
from mode.supervisors import CrashingSupervisor

from app.blocks.faust.pipeline import Pipeline
from app.faust_app import app, batch_bytes, source, waiting_bytes
from app.kafka.partitioner import partition_of
from app.kafka.schema_registry import waited_schemas
from app.stages.card_stage import CardsHandler
from app.stages.partition_start import check_state, check_topics_known
from app.stages.score_callers import ObservedHandler
from app.stages.state_settings import state_settings
from app.stages.tracing import traced_cards
from tables.cards import cards as table

settings, topics = app.settings, app.fraud_topics
_partition_of = lru_cache(maxsize=1 << 16)(partition_of(settings.partitions))
schemas = waited_schemas(settings)
transactions = source(app, topics.transactions.name)


async def check_position(partition: int, start: int) -> None:
    """Refuse a state that does not fit the topics or the settings."""
    tp = TP(topics.transactions.name, partition)
    await check_topics_known(
        table, partition, app.topic_ids, app.recreated, changelog=topics.cards_changelog.name
    )
    await check_state(app.consumer, table, tp, start, state_settings(settings), settings.model)


pipeline = Pipeline(
    app,
    transactions,
    traced_cards(
        app.spans,
        topics,
        ObservedHandler(
            CardsHandler.of(settings, topics, app.catalogue, _partition_of, schemas),
            app.answers.repeated,
        ),
    ),
    table=table,
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    waiting_bytes=waiting_bytes(settings),
    on_start=check_position,
    obtain=None if schemas is None else schemas.obtain,
)


@app.agent(transactions, name="cards", supervisor_strategy=CrashingSupervisor)
async def cards(stream: Any) -> None:
    """One block of source records at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)
