"""Topics as `verify` reads them: where they begin and end, how far the workers are, and the records."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from app.blocks.faust.fatal_errors import forbidden
from app.blocks.faust.unreadable_batches import UnreadableBatchPolicy
from app.errors import DamagedLogError, UnavailableError
from app.kafka.clients import admin, answered, consumer, offsets_at, watch_of
from app.kafka.skip_records import find_skip
from app.kafka.topic_admin import check_topics
from app.settings import Settings
from app.topics import Topics, TopicSpec

#: Offset by partition, partition i at index i.
Offsets = list[int]
#: Told what is done now, how much of it, and of how much.
Progress = Callable[[str, int, int], None]

#: Little, because a log's end may hold no record: only the position tells then that it is reached.
_POLL_MS = 100
_POLL_SECONDS = 0.25
_POLL_RECORDS = 4_000
#: Raw bytes that wait in the consumer: a broker is asked again while these are worked on.
_FETCH_BYTES = 4 << 20
#: A broker answers one request of a connection after the other: while it holds a fetch back for records to
#: come, it answers no question about offsets. Half a second by default, and there are dozens of questions.
_FETCH_WAIT_MS = 10
#: No topic answers in all that time: Kafka is gone.
_SILENCE_SECONDS = 60.0


class Log:
    """Reads the topics of a deployment without joining any group; see `open_log`."""

    def __init__(
        self,
        settings: Settings,
        consumer: AIOKafkaConsumer,
        client: AIOKafkaAdminClient,
        watch: UnreadableBatchPolicy | None = None,
    ) -> None:
        self._settings = settings
        self._watch = watch or UnreadableBatchPolicy()
        self.topics = Topics(settings)
        self._group = settings.deployment
        self._consumer = consumer
        self._client = client

    async def begins(self, topic: TopicSpec) -> Offsets:
        """The first offset that retention has left in each partition.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        return _listed(await _answered(self._consumer.beginning_offsets(_partitions(topic))))

    async def ends(self, topic: TopicSpec) -> Offsets:
        """The offset after the newest record of each partition.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        return _listed(await _answered(self._consumer.end_offsets(_partitions(topic))))

    async def at_time(self, topic: TopicSpec, time_ms: int) -> Offsets:
        """The first offset of each partition whose record was appended at `time_ms` or later, else the end.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        ends = await _answered(self._consumer.end_offsets(_partitions(topic)))
        return _listed(await _answered(offsets_at(self._consumer, ends, time_ms)))

    async def exists(self, topic: TopicSpec) -> bool:
        """Whether there is such a topic.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        return topic.name in await _answered(self._client.list_topics())

    async def groups(self) -> set[str]:
        """The consumer groups that there are.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        return {group[0] for group in await _answered(self._client.list_consumer_groups())}

    async def done(self, topic: TopicSpec) -> Offsets:
        """The offset after the last record whose effects are durable, 0 where none is.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        try:
            found = await self._client.list_consumer_group_offsets(self._group)
        except KafkaError as error:
            if not error.retriable:
                raise _silent(error) from error
            found = {}  # a new Kafka makes its offsets topic on first use
        return [max(0, found[tp].offset) if tp in found else 0 for tp in _partitions(topic)]

    async def read(
        self, topic: TopicSpec, partition: int, begin: int, end: int
    ) -> AsyncIterator[list[Any]]:
        """Records of one partition from `begin` to before `end`, in chunks.

        Raises:
            UnavailableError: Kafka does not answer.
            DamagedLogError: what Kafka has cannot be read, and nobody has given it up.
        """
        if begin >= end:
            return
        tp = TopicPartition(topic.name, partition)
        consumer = self._consumer
        consumer.assign([tp])
        consumer.seek(tp, begin)
        heard = time.monotonic()
        while True:
            try:
                fetched = await consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            except OffsetOutOfRangeError as error:
                msg = f"records of {topic.name}/{partition} were deleted while they were read: run the command again"
                raise UnavailableError(msg) from error
            except DamagedLogError as error:
                await self._skip(tp, error)
                continue
            records = fetched.get(tp, [])
            if records:
                yield (
                    records if records[-1].offset < end else [r for r in records if r.offset < end]
                )
                heard = time.monotonic()  # however long they were worked on
            # by position: the last offsets may hold no record
            place = f"Kafka did not return the offsets of {topic.name}/{partition}"
            if await answered(consumer.position(tp), place) >= end:
                return
            if time.monotonic() - heard > _SILENCE_SECONDS:
                msg = f"Kafka returned no record of {topic.name}/{partition} for {_SILENCE_SECONDS:.0f} s"
                raise UnavailableError(msg)

    async def _skip(self, tp: TopicPartition, error: DamagedLogError) -> None:
        """Go on behind what an operator has given up, as the workers do."""
        last = await find_skip(self._settings, error)
        if last is None:
            raise error
        self._watch.skip(tp, error.offset, last)
        self._consumer.seek(tp, error.offset)

    async def first_kept(self, topic: TopicSpec) -> Offsets:
        """Broker time of the first record that retention has left, where it deleted any, else -1.

        Whatever was appended later is still there.
        """
        begins, ends = await self.begins(topic), await self.ends(topic)
        times = []
        for partition, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            kept = -1
            if begin:
                kept = int(time.time() * 1000)  # nothing is left: anything may have been deleted
                async for records in self.read(topic, partition, begin, end):
                    kept = records[0].timestamp
                    break
            times.append(kept)
        return times


@dataclass
class Reached:
    """How far the workers were when the waiting was over.

    Attributes:
        ends: where each topic ended, by role: the offsets up to which it is looked at.
        done: offset after the last record whose effects are durable, by role.
    """

    ends: dict[str, Offsets]
    done: dict[str, Offsets]


async def wait_for_workers(log: Log, timeout_seconds: float, progress: Progress) -> Reached:
    """Wait until everything that is in `transactions` now has gone through both stages and the sink.

    Returns when that is so, or when the time is over: the report counts what is pending.
    """
    deadline = time.monotonic() + timeout_seconds
    topics = log.topics
    reached = Reached({}, {})
    roles = {
        "transactions": topics.transactions,
        "labels": topics.labels,
        "moved records": topics.transactions,  # again: they were sent on to where they belong in it
        "enriched": topics.enriched,
        "predictions": topics.predictions,
        "refunds": topics.refunds,
        "alerts": topics.alerts,
    }
    for text, topic in roles.items():
        role = "transactions" if topic is topics.transactions else text
        ends = reached.ends[role] = await log.ends(topic)
        while True:
            done = reached.done[role] = await log.done(topic)
            behind = sum(max(0, e - d) for e, d in zip(ends, done, strict=True))
            progress(f"waiting for {text}", sum(ends) - behind, sum(ends))
            if not behind or time.monotonic() >= deadline:
                break
            await asyncio.sleep(_POLL_SECONDS)
    return reached


@asynccontextmanager
async def open_log(settings: Settings, *, check: bool = True) -> AsyncIterator[Log]:
    """Connect to Kafka.

    Args:
        settings: the deployment's.
        check: that the topics are as the settings say.

    Raises:
        UnavailableError: no broker answers.
        SchemaError: topics are missing, or have other partitions than the settings say.
    """
    if check:
        await check_topics(settings, Topics(settings).all)
    options = {
        "auto_offset_reset": "none",  # else it would go on elsewhere, in silence
        "max_partition_fetch_bytes": _FETCH_BYTES,
        "fetch_max_wait_ms": _FETCH_WAIT_MS,
        "fetch_max_bytes": _FETCH_BYTES,
    }
    by = watch_of(settings)
    async with consumer(settings, by, **options) as reader, admin(settings) as client:
        yield Log(settings, reader, client, by)


async def _answered(question: Any) -> Any:
    try:
        return await question
    except KafkaError as error:
        raise _silent(error) from error


def _silent(error: KafkaError) -> UnavailableError:
    return forbidden(error) or UnavailableError(
        f"Kafka does not answer: {type(error).__name__} {error}"
    )


def _partitions(topic: TopicSpec) -> list[TopicPartition]:
    return [TopicPartition(topic.name, number) for number in range(topic.partitions)]


def _listed(offsets: dict[TopicPartition, int]) -> Offsets:
    return [offsets[tp] for tp in sorted(offsets, key=lambda tp: tp.partition)]
