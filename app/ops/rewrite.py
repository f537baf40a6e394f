"""`fraudstream rewrite`: rows of Cassandra once more, from `predictions`, `refunds`, `alerts`, and `enriched` (labels).

Cassandra may forget what it has acknowledged: a table was dropped, or a node with a periodic commit log was killed.
The topics have it all. Rows are packed and written as the sink does it, so that one which is there stays as it is.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import orjson

from app.cassandra.alert_rows import ALERTS, AlertPacker
from app.cassandra.label_rows import LABELS, pack_labels
from app.cassandra.prediction_rows import RowPacker, tables_of
from app.cassandra.refund_rows import REFUNDS, RefundPacker
from app.cassandra.row_writer import RowWriter
from app.cassandra.schema_check import check_schema
from app.cassandra.session import connect, disconnect
from app.errors import NotAnsweringError, UsageError
from app.ops.earlier_generations import earlier_of, topics_of
from app.ops.replaying.look_back_bounds import Bound
from app.ops.verification.output_fields import NameReader, names_nobody
from app.ops.verification.topic_log import Log, Offsets, Progress, open_log
from app.scoring_deployment import SCORED_BY
from app.settings import Settings
from app.topics import TopicSpec
from app.wire.label_records import decode_labels, is_of_labels

#: Chunks of a topic whose rows are on their way to Cassandra at once.
_IN_FLIGHT = 4
#: A server that takes nothing for so long ends the command; it says where to go on.
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class Writer(Protocol):
    """Takes packed rows (`RowWriter` fits)."""

    @property
    def unavailable_since(self) -> float | None:
        """Epoch seconds since which nothing is taken, None while rows are."""

    @property
    def last_error(self) -> str | None:
        """What the last failed attempt said."""

    def submit(self, rows: Sequence[bytes]) -> "asyncio.Future[None]":
        """Done once Cassandra has them."""


@dataclass
class Rewritten:
    """What has been written so far.

    Attributes:
        begins, ends: the range by partition of `predictions`: first offset, and offset after the last.
        done: by partition, the offset up to which all rows are in Cassandra.
        records: read so far.
        rows: of these, written.
        refunds, alerts, labels: rows of these tables that are written.
        seconds: how long it took.
    """

    begins: Offsets = field(default_factory=list)
    ends: Offsets = field(default_factory=list)
    done: Offsets = field(default_factory=list)
    records: int = 0
    rows: int = 0
    refunds: int = 0
    alerts: int = 0
    labels: int = 0
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether all of the range is written."""
        return self.done == self.ends

    @property
    def rest(self) -> str:
        """What `--from` has to say to go on: partition:offset pairs."""
        places = enumerate(zip(self.done, self.ends, strict=True))
        return ",".join(f"{number}:{done}" for number, (done, end) in places if done < end)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "records": self.records,
            "rows": self.rows,
            "of_other_deployments": self.records - self.rows,
            "refunds": self.refunds,
            "alerts": self.alerts,
            "labels": self.labels,
            "from": dict(enumerate(self.begins)),
            "to": dict(enumerate(self.ends)),
            "seconds": round(self.seconds, 3),
        }


async def rewrite(
    settings: Settings,
    begin: Bound | None,
    end: Bound | None,
    *,
    progress: Progress,
    report: Rewritten,
) -> None:
    """Write the rows of a range again.

    Args:
        settings: the deployment's.
        begin: times are those of the append to the topics, offsets those of `predictions`; None: from the beginning.
        end: not included; None: to its end.
        progress: told how far it has come.
        report: filled in on the way, for whoever interrupts.

    Raises:
        UsageError: there is nothing in the range.
        SchemaError: tables or topics are missing.
        UnavailableError: Kafka or Cassandra does not answer.
    """
    session = await asyncio.to_thread(connect, settings)
    try:
        await asyncio.to_thread(check_schema, session, settings)
        tables = (*tables_of(settings), REFUNDS, ALERTS, LABELS)
        writers = [RowWriter(session, settings, table) for table in tables]
        writer, conflicts, refunds, alerts, labels = writers
        try:
            async with open_log(settings) as log:
                await write_beside(settings, log, refunds, alerts, begin, end, progress, report)
                await write_labels(settings, log, labels, begin, end, progress, report)
                await write_range(settings, log, writer, begin, end, progress, report, conflicts)
        finally:
            for each in writers:
                await each.close()
    finally:
        await asyncio.to_thread(disconnect, session)


async def write_range(
    settings: Settings,
    log: Log,
    writer: Writer,
    begin: Bound | None,
    end: Bound | None,
    progress: Progress,
    report: Rewritten,
    conflicts: Writer | None = None,
) -> None:
    """See `rewrite`; with a log and writers (of `predictions`, and of those that conflict) that are given."""
    started, topic = time.monotonic(), log.topics.predictions
    first, last = await log.begins(topic), await log.ends(topic)
    low = first if begin is None else await _offsets(log, topic, begin, missing=last)
    high = last if end is None else await _offsets(log, topic, end, missing=first)
    low = [min(max(one, f), e) for one, f, e in zip(low, first, last, strict=True)]
    high = [min(max(one, f), e) for one, f, e in zip(high, low, last, strict=True)]
    if low == high:
        msg = f"there is no record of {topic.name} in this range: it has offsets {_spans(first, last)}"
        raise UsageError(msg)
    report.begins, report.ends, report.done = low, high, list(low)
    superseded = await _named(settings, log, low, high, progress)
    packer = RowPacker.of(settings, settings.deployment)
    total = sum(high) - sum(low)
    waiting: deque[tuple[int, int, int, int, asyncio.Future[Any]]] = deque()

    async def settle(left: int) -> None:
        while len(waiting) > left:
            number, after, records, rows, written = waiting.popleft()
            await _patiently(written, writer)
            report.done[number] = after
            report.records += records
            report.rows += rows
            progress("rows", sum(report.done) - sum(low), total)

    try:
        for number in range(topic.partitions):
            async for records in log.read(topic, number, low[number], high[number]):
                values = [one.value for one in records if not superseded(one)]
                packed = packer.pack_many(values)
                written: asyncio.Future[Any] = writer.submit(packed.rows)
                if packed.conflicting and conflicts is not None:
                    written = asyncio.gather(written, conflicts.submit(packed.conflicting))
                rows = len(packed.rows) + len(packed.conflicting)
                waiting.append((number, int(records[-1].offset) + 1, len(records), rows, written))
                await settle(_IN_FLIGHT)
            await settle(0)
            report.done[number] = high[number]  # the last offsets may hold no record
    finally:
        report.seconds = time.monotonic() - started


async def write_beside(
    settings: Settings,
    log: Log,
    refunds: Writer,
    alerts: Writer,
    begin: Bound | None,
    end: Bound | None,
    progress: Progress,
    report: Rewritten,
) -> None:
    """The refunds and alerts of a range of time. They are few: of a range of offsets, all that there are."""
    digits = settings.minor_unit_digits
    packers = (
        ("refunds", log.topics.refunds, RefundPacker(settings.currency, digits), refunds),
        ("alerts", log.topics.alerts, AlertPacker(digits, settings.deployment), alerts),
    )
    for name, topic, packer, writer in packers:
        low, high = await _in_time(log, topic, begin, end)
        written = 0
        for number in range(topic.partitions):
            async for records in log.read(topic, number, low[number], high[number]):
                rows = packer.pack_many(record.value for record in records)
                await _patiently(writer.submit(rows), writer)
                written += len(rows)
                progress(name, written, written)
        setattr(report, name, written)


async def write_labels(
    settings: Settings,
    log: Log,
    writer: Writer,
    begin: Bound | None,
    end: Bound | None,
    progress: Progress,
    report: Rewritten,
) -> None:
    """The labels of a range of time; of a range of offsets, all: `enriched` has them, completed by their look-up."""
    enriched = [
        topics_of(settings, one.generation, one.partitions).enriched
        for one in await earlier_of(settings, log)
    ]
    for topic in [*[one for one in enriched if await log.exists(one)], log.topics.enriched]:
        low, high = await _in_time(log, topic, begin, end)
        total, before = sum(high) - sum(low), 0
        for number, (first, last) in enumerate(zip(low, high, strict=True)):
            async for records in log.read(topic, number, first, last):
                batches = [decode_labels(one.value) for one in records if is_of_labels(one.value)]
                rows = [
                    row
                    for batch in batches
                    for row in pack_labels(batch.topic, batch.partition, batch.items)
                ]
                await _patiently(writer.submit(rows), writer)
                report.labels += len(rows)
                progress("labels", before + records[-1].offset + 1 - first, total)
            before += last - first


async def _in_time(
    log: Log, topic: TopicSpec, begin: Bound | None, end: Bound | None
) -> tuple[Offsets, Offsets]:
    """The offsets of a range of time; all where a bound is none, or an offset of another topic."""
    low, high = await log.begins(topic), await log.ends(topic)
    if begin is not None and begin.time_ms is not None:
        low = await log.at_time(topic, begin.time_ms)
    if end is not None and end.time_ms is not None:
        high = await log.at_time(topic, end.time_ms)
    return low, high


async def _patiently(written: "asyncio.Future[Any]", writer: Writer) -> None:
    """Wait for rows, but not for ever.

    Raises:
        NotAnsweringError: Cassandra has taken nothing for a minute.
    """
    while not (await asyncio.wait({written}, timeout=_LOOK_SECONDS))[0]:
        since = writer.unavailable_since
        if since is not None and time.time() - since > _PATIENCE_SECONDS:
            msg = f"Cassandra accepted no rows for {_PATIENCE_SECONDS:.0f} s ({writer.last_error})"
            raise NotAnsweringError(msg)
    written.result()


async def _named(
    settings: Settings, log: Log, low: Offsets, high: Offsets, progress: Progress
) -> Callable[[Any], bool]:
    """Which records of the range name nobody, while another record of the same source names this deployment.

    See `app/scoring_deployment.py`. All of the topic is read for that, but only where such records are in the range.
    """
    topic = log.topics.predictions
    if not await _some_name_nobody(log, topic, low, high):
        return lambda _: False
    sources = await log.ends(log.topics.transactions)
    named = [np.zeros(end, np.bool_) for end in sources]

    def mark(partition: int, offset: int) -> None:
        if partition < len(named) and offset < len(named[partition]):
            named[partition][offset] = True

    begins, ends = await log.begins(topic), await log.ends(topic)
    reader, total, before = NameReader(settings.deployment, mark), sum(ends) - sum(begins), 0
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        async for records in log.read(topic, number, begin, end):
            reader.take(records)
            progress("who scored", before + records[-1].offset + 1 - begin, total)
        before += end - begin

    def superseded(record: Any) -> bool:
        if not names_nobody(record):
            return False
        fields = orjson.loads(record.value)
        partition, offset = fields["source_partition"], fields["source_offset"]
        return SCORED_BY not in fields and bool(named[partition][offset : offset + 1].any())

    return superseded


async def _some_name_nobody(log: Log, topic: TopicSpec, low: Offsets, high: Offsets) -> bool:
    """Whether the range has records of release 0.1.0: in each partition they come first."""
    for number, (begin, end) in enumerate(zip(low, high, strict=True)):
        async for records in log.read(topic, number, begin, end):
            if names_nobody(records[0]):
                return True
            break
    return False


async def _offsets(log: Log, topic: TopicSpec, bound: Bound, *, missing: Offsets) -> Offsets:
    """A bound as offsets; `missing` stands for partitions that take no part."""
    if bound.time_ms is not None:
        return await log.at_time(topic, bound.time_ms)
    for number in bound.offsets or ():
        if number >= topic.partitions:
            msg = f"{bound.text}: partition {number} does not exist: there are {topic.partitions}"
            raise UsageError(msg)
    return [
        other if (offset := bound.offset(number)) is None else offset
        for number, other in enumerate(missing)
    ]


def _spans(first: Offsets, last: Offsets) -> str:
    return ", ".join(
        f"{number}:{begin}-{end}"
        for number, (begin, end) in enumerate(zip(first, last, strict=True))
    )
