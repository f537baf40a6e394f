"""labels -> enriched (each label goes to the terminal of its transaction) and Cassandra."""

import time
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP
from mode.supervisors import CrashingSupervisor

from app.blocks.core.interfaces import SentOutputs
from app.blocks.faust.fatal_errors import is_away
from app.blocks.faust.output_sender import Outputs, OutputSender
from app.blocks.faust.pipeline import Pipeline
from app.cassandra.label_store import MOST_BLOCKS_WAITING, LabelStore
from app.errors import NotAnsweringError
from app.faust_app import app, batch_bytes, source, waiting_bytes
from app.kafka.partitioner import partition_of
from app.metrics.counters import label_counts
from app.metrics.labelled_flags import labelled_flags
from app.stages.label_stage import LabelBlock, LabelsHandler
from app.stages.parked_label_retries import LabelRetries, look_up_with
from app.stages.partition_start import check_labels, check_topics_known
from app.wire.input_records import privacy_of
from tables.labels import labels as table

settings, topics = app.settings, app.fraud_topics
labelled = source(app, topics.labels.name)
store = LabelStore(settings, topics.labels.name)
sender = OutputSender(batch_bytes(settings), app.pass_on)


async def deliver(_partition: int, block: LabelBlock) -> SentOutputs:
    """Send labels to their terminals, and store them."""
    sent = await sender.send(app.producer._producer, block.outputs)  # noqa: SLF001
    label_counts.add(block.labels)
    labelled_flags.add(block.partition, block.labels)
    return SentOutputs.of(sent, store.store(block.partition, block.labels))


async def send_copies(outputs: Outputs) -> None:
    """Send copies of parked labels, and wait until they are acknowledged."""
    try:
        await (await sender.send(app.producer._producer, outputs))  # noqa: SLF001
    except KafkaError as error:
        if not is_away(error):
            raise
        raise NotAnsweringError(str(error)) from error


async def check_position(partition: int, start: int) -> None:
    """Refuse a state that does not fit the topics."""
    await check_topics_known(
        table, partition, app.topic_ids, app.recreated, changelog=topics.labels_changelog.name
    )
    await check_labels(app.consumer, table, TP(topics.labels.name, partition))
    labelled_flags.assigned(partition, start, time.time_ns() // 1_000_000)


retries = app.retries = LabelRetries(
    topics.labels.name,
    table,
    find=store.find,
    send=send_copies,
    clock_ms=lambda: time.time_ns() // 1_000_000,
    label_wait_ms=settings.label_wait,
    max_future_skew_ms=settings.max_future_skew,
    time_unit=settings.event_time_unit,
)
table.on_stored = retries.stored
table.on_ready = retries.hold
pipeline = Pipeline(
    app,
    labelled,
    LabelsHandler(
        topics,
        partition_of=partition_of(settings.partitions),
        max_future_skew_ms=settings.max_future_skew,
        time_unit=settings.event_time_unit,
        max_parked=settings.max_parked_labels,
        look_up=look_up_with(store.find),
        privacy=privacy_of(settings),
    ),
    table=table,
    depth=MOST_BLOCKS_WAITING,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    waiting_bytes=waiting_bytes(settings),
    deliver=deliver,
    on_start=check_position,
)


@app.agent(labelled, name="labels", supervisor_strategy=CrashingSupervisor)
async def labels(stream: Any) -> None:
    """One block of labels at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)


@app.task
async def retry() -> None:
    """Look up the transactions of parked labels again."""
    await retries.run()
