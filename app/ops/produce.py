"""Send records to a topic of this deployment: as fast as it goes, or each at the time it is due.

Everything is acknowledged by all in-sync replicas, once and in order within a partition (idempotent
producer). The partition is the one that Java clients choose (murmur2 of the key).

A record that is sent at a due time carries the header `due`: that time as decimal text, epoch
milliseconds. Latency measured from there includes what a slow system makes later records wait
(an open loop: the schedule does not stop for anybody).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from app.ops.producing.batches import AcknowledgedRecords, BatchWriter, Headers
from app.ops.producing.connection import open_writer, quiet_client
from app.ops.producing.schedule import SendingSchedule
from app.settings import Settings
from app.topics import Topics

__all__ = [
    "ProduceReport",
    "produce",
    "produce_on_schedule",
    "produce_with_labels",
    "quiet_client",
]

#: Kafka header with the time at which a record was due: decimal text, epoch milliseconds.
DUE_HEADER = "due"
#: Records between two looks at the clock and at the network.
CHUNK = 1_000
#: Records of transactions and labels between two moments at which neither topic has any unsent: full batches
#: alone would let one topic run some ten thousand records ahead of the other.
IN_STEP = 4_000

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ProduceReport:
    """What was sent.

    Attributes:
        topic: where to.
        records: acknowledged records.
        bytes: bytes of their values.
        seconds: from the first record to the last acknowledgement.
        behind_ms: the most that a record was later than due; 0 without a schedule.
        partitions: records, first and last offset by partition.
    """

    topic: str
    records: int
    bytes: int
    seconds: float
    behind_ms: float = 0.0
    partitions: dict[int, AcknowledgedRecords] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "rate": round(self.rate, 1)}


async def produce(
    records: Iterable[tuple[bytes | None, bytes]],
    *,
    settings: Settings,
    topic: str | None = None,
    rate: float | None = None,
    stamp: bool | None = None,
    on_progress: Progress | None = None,
) -> ProduceReport:
    """Send (key, value) records.

    Args:
        records: taken as they are needed. A key of None takes the partitions in turn. When the
            iterable raises, what came before is sent first.
        settings: the deployment.
        topic: full name; None: `transactions` of the deployment.
        rate: records a second; None: as fast as it goes.
        stamp: add the `due` header; None: when there is a rate. Without a rate it is the time at
            which the record was taken.
        on_progress: called now and then with the number of records handed over so far, at the end
            with the number acknowledged.

    Raises:
        UnavailableError: no Kafka, or it stopped acknowledging.
        SchemaError: the topic does not exist.
        UsageError: a record is larger than the topic takes.
    """
    if rate is not None:
        return await produce_on_schedule(
            ((number / rate, key, value) for number, (key, value) in enumerate(records)),
            settings=settings,
            topic=topic,
            stamp=stamp is not False,
            on_progress=on_progress,
        )

    async def write(writers: Sequence[BatchWriter]) -> float:
        (writer,) = writers
        now_ms = 0
        headers: Headers = []
        for number, (key, value) in enumerate(records):
            if number % CHUNK == 0:
                await _breathe(writer, on_progress)
                now_ms = time.time_ns() // 1_000_000
                headers = _due(now_ms) if stamp else []
            await writer.append(key, value, now_ms, headers)
        return 0.0

    (report,) = await _run(write, settings, (_name(settings, topic),), on_progress)
    return report


async def produce_on_schedule(
    items: Iterable[tuple[float, bytes | None, bytes]],
    *,
    settings: Settings,
    topic: str | None = None,
    stamp: bool = True,
    on_progress: Progress | None = None,
) -> ProduceReport:
    """Send each (due, key, value) at its time, or as soon after as Kafka takes it.

    Args:
        items: in the order in which they are sent; `due` is in seconds after the start.
        settings: the deployment.
        topic: full name; None: `transactions` of the deployment.
        stamp: add the `due` header.
        on_progress: as in `produce`.

    Raises:
        UnavailableError: no Kafka, or it stopped acknowledging.
        SchemaError: the topic does not exist.
        UsageError: a record is larger than the topic takes.
    """

    async def write(writers: Sequence[BatchWriter]) -> float:
        (writer,) = writers
        schedule = SendingSchedule(writers)
        for due, key, value in items:
            due_ms = await schedule.until(due)
            await writer.append(key, value, due_ms, _due(due_ms) if stamp else [])
            if writer.appended % CHUNK == 0:
                await _breathe(writer, on_progress)
        return schedule.behind * 1000

    (report,) = await _run(write, settings, (_name(settings, topic),), on_progress)
    return report


async def produce_with_labels(
    items: Iterable[tuple[bool, bytes | None, bytes, int]],
    *,
    settings: Settings,
    rate: float | None = None,
    speed: float | None = None,
    stamp: bool | None = None,
    wait_for_workers: Callable[[], Awaitable[None]] | None = None,
    on_progress: Progress | None = None,
) -> tuple[ProduceReport, ProduceReport]:
    """Send transactions and, between them, labels; neither topic runs ahead of the other.

    Args:
        items: whether it is a label, key, value, and event time as far as it has come (epoch
            milliseconds), as of `app.ops.producing.following`.
        settings: the deployment; its topics `transactions` and `labels`.
        rate: transactions a second; labels go with the transaction behind them. None: as fast as it goes.
        speed: event seconds a second, in place of a rate.
        stamp: add the `due` header to transactions; None: with a rate or a speed.
        wait_for_workers: awaited now and then, such as `app.ops.producing.wait_for_workers.WaitForWorkers`.
        on_progress: as in `produce`, for transactions.

    Returns:
        What was sent to `transactions`, and to `labels`.

    Raises:
        UnavailableError: no Kafka, or it stopped acknowledging.
        SchemaError: a topic does not exist.
        UsageError: a record is larger than the topic takes.
    """
    timed = rate is not None or speed is not None
    stamped = timed if stamp is None else stamp

    async def write(writers: Sequence[BatchWriter]) -> float:
        transactions, labels = writers
        schedule = SendingSchedule(writers)
        first: int | None = None
        now_ms = 0
        step = CHUNK if wait_for_workers else IN_STEP
        for number, (is_label, key, value, event_ms) in enumerate(items):
            if timed:
                first = event_ms if first is None else first
                due = transactions.appended / rate if rate else (event_ms - first) / 1000 / speed  # type: ignore[operator]
                now_ms = await schedule.until(due)
            elif number % CHUNK == 0:
                now_ms = time.time_ns() // 1_000_000
            if number % CHUNK == 0:
                await _breathe(transactions, on_progress)
            if number % step == 0:
                for writer in writers:
                    await writer.send_open()
                if wait_for_workers:
                    await wait_for_workers()
            headers = _due(now_ms) if stamped and not is_label else []
            await (labels if is_label else transactions).append(key, value, now_ms, headers)
        return schedule.behind * 1000

    topics = Topics(settings)
    names = (topics.transactions.name, topics.labels.name)
    sent, labelled = await _run(write, settings, names, on_progress)
    return sent, labelled


def _name(settings: Settings, topic: str | None) -> str:
    return topic or Topics(settings).transactions.name


async def _run(
    write: Callable[[Sequence[BatchWriter]], Awaitable[float]],
    settings: Settings,
    topics: Sequence[str],
    tell: Progress | None,
) -> list[ProduceReport]:
    """Write into the topics; a report for each. Progress is that of the first."""
    async with AsyncExitStack() as opened:
        writers = [await opened.enter_async_context(open_writer(settings, name)) for name in topics]
        began = time.perf_counter()
        try:
            behind_ms = await write(writers)
        except Exception:
            if not any(writer.failed for writer in writers):
                await _finish(writers, tell)  # the records are at fault: those before it are good
            raise
        await _finish(writers, tell)
        seconds = time.perf_counter() - began
        return [
            ProduceReport(
                name,
                writer.acknowledged,
                writer.value_bytes,
                seconds,
                behind_ms,
                dict(sorted(writer.written.items())),
            )
            for name, writer in zip(topics, writers, strict=True)
        ]


async def _finish(writers: Sequence[BatchWriter], tell: Progress | None) -> None:
    for writer in writers:
        await writer.finish()
    if tell:
        tell(writers[0].acknowledged)


async def _breathe(writer: BatchWriter, tell: Progress | None) -> None:
    """Let the network have its turn."""
    await asyncio.sleep(0)
    if tell:
        tell(writer.appended)


def _due(epoch_ms: int) -> Headers:
    return [(DUE_HEADER, b"%d" % epoch_ms)]
