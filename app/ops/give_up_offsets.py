"""Gives up offsets that Kafka cannot give: workers and `verify` then go on behind them."""

import time
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from app.change_author import author
from app.errors import DamagedLogError, UnavailableError, UsageError
from app.kafka.clients import client_kwargs, consumer, started
from app.kafka.dead_letter_list import partition_in
from app.kafka.skip_records import skip_record
from app.kafka.topic_admin import check_topics
from app.settings import Settings
from app.topics import Topics

#: An offset that gives nothing for so long cannot be read.
_PROBE_MS = 2_000


@dataclass(frozen=True)
class Skipped:
    """What was given up: offsets `first` to `last` of one partition."""

    topic: str
    partition: int
    first: int
    last: int


async def skip(
    settings: Settings, source: str, *, to: int | None, why: str, dry_run: bool = False
) -> Skipped:
    """Give up offsets that cannot be read, from the one of a position on.

    Args:
        settings: the deployment.
        source: `topic/partition/offset`, as the worker's line names it.
        to: the last offset to give up; None: all up to the next one that can be read.
        why: stored beside it.
        dry_run: give nothing up; say what would be.

    Raises:
        UsageError: it is no position of `transactions` or `labels`, or it can be read.
        UnavailableError: Kafka does not answer.
    """
    topics = Topics(settings)
    partition = partition_in(source)
    topic, _, offset = source.rsplit("/", 2)
    first = int(offset)
    if topic not in (topics.transactions.name, topics.labels.name):
        msg = (
            f"offsets of {topics.transactions.name} and {topics.labels.name} can be skipped, "
            f"but not those of {topic}"
        )
        raise UsageError(msg)
    if partition >= settings.partitions:
        msg = f"{topic} has the partitions 0 to {settings.partitions - 1}"
        raise UsageError(msg)
    await check_topics(settings, [topics.dead_letters])
    tp = TopicPartition(topic, partition)
    async with consumer(settings) as reader:
        reader.assign([tp])
        end = (await reader.end_offsets([tp]))[tp]
        if not first < end or (to is not None and not first <= to < end):
            msg = f"{topic}/{partition} ends before offset {end}: skip only existing offsets"
            raise UsageError(msg)
        if await _is_readable(reader, tp, first):
            raise UsageError(f"{source} can be read: there is nothing to skip")
        last = await _last_unreadable(reader, tp, first, end) if to is None else to
    made = Skipped(topic, partition, first, last)
    if not dry_run:
        await _write(settings, made, why)
    return made


async def _last_unreadable(
    reader: AIOKafkaConsumer, tp: TopicPartition, first: int, end: int
) -> int:
    """By ever larger steps, then by halves: what is damaged is in one piece."""
    bad, step = first, 1
    while True:
        good = bad + step
        if good >= end:
            msg = (
                f"nothing from offset {first} to the end of {tp.topic}/{tp.partition} can be read: "
                "wait for the next records, or give the last offset with --to"
            )
            raise UsageError(msg)
        if await _is_readable(reader, tp, good):
            break
        bad, step = good, 2 * step
    while good - bad > 1:
        middle = (good + bad) // 2
        if await _is_readable(reader, tp, middle):
            good = middle
        else:
            bad = middle
    return bad


async def _is_readable(reader: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> bool:
    reader.seek(tp, offset)
    try:
        fetched = await reader.getmany(tp, timeout_ms=_PROBE_MS, max_records=1)
    except DamagedLogError:
        return False
    return bool(fetched) or await reader.position(tp) > offset


async def _write(settings: Settings, made: Skipped, why: str) -> None:
    key, headers = skip_record(
        made.topic, made.partition, made.first, made.last,
        by=author(), at_ms=int(time.time() * 1000), why=why,
    )  # fmt: skip
    kwargs = client_kwargs(settings)
    producer = AIOKafkaProducer(**kwargs, acks="all")
    async with started(producer, settings):
        try:
            await producer.send_and_wait(
                Topics(settings).dead_letters.name, b"", key=key,
                partition=made.partition, headers=headers,
            )  # fmt: skip
        except KafkaError as error:
            raise UnavailableError(f"Kafka refuses: {error!r}; nothing was skipped") from error
