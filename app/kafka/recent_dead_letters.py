"""The newest dead letters of a period, as far back as a page may read: a worker has other things to do."""

import heapq
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from app.errors import NotAnsweringError
from app.kafka.clients import answered, consumer, offsets_at
from app.kafka.dead_letter_list import DeadLetter, dead_letter_partitions
from app.kafka.skip_records import skip_in
from app.settings import Settings
from app.topics import Topics

#: Offsets and bytes that one look reads at most; a step, once begun, is read to its end.
MOST_OFFSETS, MOST_BYTES = 2_000, 16 << 20
#: Offsets of all partitions that the first step back reads: their size says how far the next one may go.
_FIRST_STEP, _GROWTH = 64, 4
#: Without any record for so long, Kafka does not answer.
_SILENT_SECONDS = 10.0
_POLL_MS = 500
Span = Mapping[TopicPartition, int]


@dataclass(frozen=True)
class DeadLetterQuery:
    """Which dead letters somebody wants to see.

    Attributes:
        reason: those with this code; None: any.
        from_ms: refused at this time or later, epoch milliseconds; None: from the first.
        to_ms: refused before it; None: to the last.
        limit: how many at most.
    """

    reason: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    limit: int = 50


@dataclass
class RecentDeadLetters:
    """What a look found.

    Attributes:
        newest: dead letters of the query, newest first.
        counts: by reason, of all that were read in the period, whatever their reason.
        read: how many these are; a record that was refused again by a replay counts once.
        complete: whether that is the whole period.
    """

    newest: list[DeadLetter] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    read: int = 0
    complete: bool = True


async def recent_dead_letters(settings: Settings, query: DeadLetterQuery) -> RecentDeadLetters:
    """The newest dead letters of a period: partitions are read backwards, in steps, until a bound is reached.

    Args:
        settings: the deployment.
        query: what is wanted.

    Raises:
        SchemaError: the topic is missing.
        UnavailableError: no broker answers.
        NotAnsweringError: Kafka stops answering.
    """
    topic = Topics(settings).dead_letters.name
    tps = [TopicPartition(topic, number) for number in await dead_letter_partitions(settings)]
    found, wanted, seen = RecentDeadLetters(), list[tuple[Any, DeadLetter]](), set[str]()
    async with consumer(settings) as reader:
        reader.assign(tps)
        begins, highs = await _period(reader, tps, query)
        offsets = size = 0
        step = _FIRST_STEP
        while open_tps := [tp for tp in tps if begins[tp] < highs[tp]]:
            if offsets >= MOST_OFFSETS or size >= MOST_BYTES:
                found.complete = False
                break
            each = max(1, step // len(open_tps))
            lows = {tp: max(begins[tp], highs[tp] - each) for tp in open_tps}
            offsets += sum(highs[tp] - low for tp, low in lows.items())
            for letter in await _between(reader, lows, highs):
                size += len(letter.value or b"")
                if not _is_in(letter.timestamp_ms, query) or letter.source in seen:
                    continue
                if letter.is_known:  # refused again by a replay: one record, one dead letter
                    seen.add(letter.source)
                found.read += 1
                found.counts[letter.reason] += 1
                if query.reason in (None, letter.reason):
                    item = (letter.timestamp_ms, letter.position), letter
                    if len(wanted) < query.limit:
                        heapq.heappush(wanted, item)
                    else:
                        heapq.heappushpop(wanted, item)
            highs = {**highs, **lows}
            room = min(MOST_OFFSETS - offsets, (MOST_BYTES - size) * offsets // max(1, size))
            step = max(1, min(step * _GROWTH, room))
    found.newest = [letter for _, letter in sorted(wanted, reverse=True)]
    return found


def _is_in(moment_ms: int, query: DeadLetterQuery) -> bool:
    after = query.from_ms is None or moment_ms >= query.from_ms
    return after and (query.to_ms is None or moment_ms < query.to_ms)


async def _period(
    reader: Any, tps: list[TopicPartition], query: DeadLetterQuery
) -> tuple[Span, Span]:
    """The first offset of each partition in the period, and the one after its last."""
    begins, ends = await reader.beginning_offsets(tps), await reader.end_offsets(tps)
    for moment_ms, bounds in ((query.from_ms, begins), (query.to_ms, ends)):
        if moment_ms is not None:
            bounds.update(await offsets_at(reader, ends, moment_ms))
    return begins, ends


async def _between(reader: Any, lows: Span, highs: Span) -> list[DeadLetter]:
    """The dead letters of a range of offsets of each partition, newest first."""
    for tp, low in lows.items():
        reader.seek(tp, low)
    most = sum(highs[tp] - low for tp, low in lows.items())
    left, found, heard = set(lows), list[DeadLetter](), time.monotonic()
    while left:
        # not all that a fetch brings: what follows the range was read a step ago
        fetched = await reader.getmany(*left, timeout_ms=_POLL_MS, max_records=most)
        for tp, records in fetched.items():
            found += [
                DeadLetter.of(record)
                for record in records
                if record.offset < highs[tp] and skip_in(record) is None
            ]
        silent = "Kafka did not return the records of dead letters"
        if fetched:
            heard = time.monotonic()
        elif time.monotonic() - heard > _SILENT_SECONDS:
            msg = f"{silent} for {_SILENT_SECONDS:g} s"
            raise NotAnsweringError(msg)
        for tp in list(left):  # by position: the last offsets may hold no record
            if await answered(reader.position(tp), silent, _SILENT_SECONDS) >= highs[tp]:
                left.discard(tp)
    return sorted(found, key=lambda one: (one.timestamp_ms, one.position), reverse=True)
