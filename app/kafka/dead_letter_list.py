"""Reads the dead-letters topic: what was refused, why, and from where."""

import base64
import heapq
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from app.errors import NotFoundError, SchemaError, UnavailableError, UsageError
from app.kafka.clients import ANSWER_SECONDS, admin, answered, consumer
from app.kafka.skip_records import skip_in
from app.settings import Settings
from app.topics import Topics
from app.wire.dead_letters import REDRIVEN, headers_of

_POLL_MS = 1_000
_UNKNOWN = "unknown"
_POLL_RECORDS = 5_000
#: Called with the dead letters read so far and how many there are.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DeadLetter:
    """One refused record.

    Attributes:
        source: where it stands: `topic/partition/offset`.
        reason: a stable code, such as `negative_amount`.
        message: a sentence for people.
        key, value: its own bytes.
        timestamp_ms: when it was refused, epoch milliseconds.
        position: where the dead letter stands: partition and offset of the dead-letters topic.
        headers: all headers, for what a later release adds.
    """

    source: str
    reason: str
    message: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    position: tuple[int, int]
    headers: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(cls, record: Any) -> "DeadLetter":
        """From a Kafka record; a foreign one, without our headers, reads as `unknown`."""
        headers = headers_of(record)
        return cls(
            source=(record.key or b"").decode(errors="backslashreplace") or _UNKNOWN,
            reason=headers.get("reason", b"").decode(errors="backslashreplace") or _UNKNOWN,
            message=headers.get("message", b"").decode(errors="backslashreplace"),
            key=headers.get("key"),
            value=record.value,
            timestamp_ms=record.timestamp,
            position=(record.partition, record.offset),
            headers=tuple(headers.items()),
        )

    @property
    def is_known(self) -> bool:
        """Whether it is a letter of ours: its source is known."""
        return self.source != _UNKNOWN

    @property
    def redriven(self) -> str | None:
        """Where the record first died, if it was sent back from there; None for any other."""
        raw = dict(self.headers).get(REDRIVEN)
        return None if raw is None else raw.decode(errors="backslashreplace")

    def described(self) -> dict[str, Any]:
        """Everything, JSON-ready: bytes as text where they are UTF-8, and always as base64."""
        return {
            "source": self.source,
            "reason": self.reason,
            "message": self.message,
            "redriven": self.redriven,
            "refused_at_ms": self.timestamp_ms,
            "dead_letter_partition": self.position[0],
            "dead_letter_offset": self.position[1],
            "key": _text(self.key),
            "value": _text(self.value),
            "value_base64": None if self.value is None else base64.b64encode(self.value).decode(),
        }


@dataclass
class DeadLetterList:
    """What a list shows.

    Attributes:
        newest: the newest ones that were asked for, oldest first.
        counts: by reason, of all.
    """

    newest: list[DeadLetter] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


async def list_dead_letters(
    settings: Settings, *, limit: int, reason: str | None, progress: Progress
) -> DeadLetterList:
    """The newest dead letters, and how many there are of each reason.

    Args:
        settings: the deployment.
        limit: how many to keep.
        reason: keep only those with this code; None keeps any. All are counted.
        progress: told how far the reading has come.

    Raises:
        SchemaError: the topic is missing.
        UnavailableError: no broker answers.
    """
    listing = DeadLetterList()
    newest: list[tuple[int, tuple[int, int], DeadLetter]] = []
    seen: set[str] = set()
    async for letter in read_dead_letters(settings, None, progress):
        if letter.source in seen:  # refused again by a replay: one record, one dead letter
            continue
        if letter.is_known:
            seen.add(letter.source)
        listing.counts[letter.reason] += 1
        if limit and reason in (None, letter.reason):
            item = (letter.timestamp_ms, letter.position, letter)
            if len(newest) < limit:
                heapq.heappush(newest, item)
            else:
                heapq.heappushpop(newest, item)
    listing.newest = [letter for _, _, letter in sorted(newest, key=lambda item: item[:2])]
    return listing


async def find_dead_letter(settings: Settings, source: str, progress: Progress) -> DeadLetter:
    """The dead letter of one source record.

    Args:
        settings: the deployment.
        source: `topic/partition/offset` of the source record.
        progress: told how far the reading has come.

    Raises:
        UsageError: `source` is not a valid position.
        NotFoundError: that record is not among the dead letters.
        SchemaError: the topic is missing.
        UnavailableError: no broker answers.
    """
    async with aclosing(read_dead_letters(settings, partition_in(source), progress)) as letters:
        async for letter in letters:
            if letter.source == source:
                return letter
    msg = f"no dead-letter record of {source}: `fraudstream deadletters` lists them"
    raise NotFoundError(msg)


def partition_in(source: str) -> int:
    """The partition that a source position names.

    Raises:
        UsageError: it is not `topic/partition/offset`.
    """
    parts = source.rsplit("/", 2)
    if len(parts) != 3 or not parts[0] or not (parts[1].isdecimal() and parts[2].isdecimal()):
        msg = f"{source!r} is not a valid position: write topic/partition/offset, such as transactions/0/17"
        raise UsageError(msg)
    return int(parts[1])


async def read_dead_letters(
    settings: Settings, partition: int | None, progress: Progress
) -> AsyncGenerator[DeadLetter, None]:
    """Every dead letter up to the present end, partition by partition and each in order.

    Args:
        settings: the deployment.
        partition: read only this one, if it exists; None reads all.
        progress: told how far the reading has come.

    Raises:
        SchemaError: the topic is missing.
        UnavailableError: no broker answers.
    """
    topic = Topics(settings).dead_letters.name
    known = await dead_letter_partitions(settings)
    # a dead letter lies in the partition of the same number as its source record
    wanted = known if partition not in known else {partition}
    async with consumer(settings) as reader:
        tps = [TopicPartition(topic, number) for number in sorted(wanted)]
        reader.assign(tps)
        begins, ends = await reader.beginning_offsets(tps), await reader.end_offsets(tps)
        total = sum(ends[tp] - begins[tp] for tp in tps)
        open_tps = {tp for tp in tps if begins[tp] < ends[tp]}
        for tp in tps:
            reader.seek(tp, begins[tp])
        done, heard = 0, time.monotonic()
        while open_tps:
            fetched = await reader.getmany(
                *open_tps, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS
            )
            for tp, records in fetched.items():
                for record in records:
                    if record.offset < ends[tp] and skip_in(record) is None:
                        yield DeadLetter.of(record)
                done += len(records)
            progress(done, total)
            if fetched:
                heard = time.monotonic()
            elif time.monotonic() - heard > ANSWER_SECONDS:
                msg = f"Kafka returned no record of {topic} for {ANSWER_SECONDS:.0f} s"
                raise UnavailableError(msg)
            for tp in list(open_tps):  # by position: the last offsets may hold no record
                silent = f"Kafka did not return the offsets of {topic}"
                if await answered(reader.position(tp), silent) >= ends[tp]:
                    open_tps.discard(tp)


async def dead_letter_partitions(settings: Settings) -> set[int]:
    """The partitions of the topic.

    Raises:
        SchemaError: it is missing.
        UnavailableError: no broker answers.
    """
    topic = Topics(settings).dead_letters.name
    async with admin(settings) as client:
        if topic not in await client.list_topics():
            msg = f"Kafka lacks the topic {topic}: run `fraudstream topics`"
            raise SchemaError(msg)
        (described,) = await client.describe_topics([topic])
    return {item["partition"] for item in described["partitions"]}


def _text(raw: bytes | None) -> str | None:
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
