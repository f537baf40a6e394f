"""Send records to a topic of this deployment: as fast as it goes, or each at the time it is due.

Everything is acknowledged by all in-sync replicas, once and in order within a partition (idempotent
producer). The partition is the one that Java clients choose (murmur2 of the key).

A record that is sent at a due time carries the header `due`: that time as decimal text, epoch
milliseconds. Latency measured from there includes what a slow system makes later records wait
(an open loop: the schedule does not stop for anybody).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from app.settings import Settings
from app.tools.producing.batches import BatchWriter, Headers, Written
from app.tools.producing.connection import open_writer, quiet_client
from app.topics import Topics

__all__ = ["ProduceReport", "produce", "produce_on_schedule", "quiet_client", "spread"]

#: Kafka header with the time at which a record was due: decimal text, epoch milliseconds.
DUE_HEADER = "due"
#: Records between two looks at the clock and at the network.
CHUNK = 1_000
#: Shortest sleep of a schedule, seconds: below it the event loop's own precision ends.
TICK_SECONDS = 0.001

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
    partitions: dict[int, Written] = field(default_factory=dict)

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

    async def write(writer: BatchWriter) -> float:
        now_ms = 0
        headers: Headers = []
        for number, (key, value) in enumerate(records):
            if number % CHUNK == 0:
                await _breathe(writer, on_progress)
                now_ms = time.time_ns() // 1_000_000
                headers = _due(now_ms) if stamp else []
            await writer.append(key, value, now_ms, headers)
        return 0.0

    return await _run(write, settings, topic, on_progress)


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

    async def write(writer: BatchWriter) -> float:
        began, behind = time.perf_counter(), 0.0
        began_ms = time.time() * 1000
        for due, key, value in items:
            ahead = due - (time.perf_counter() - began)
            while ahead > 0:
                await writer.send_open()  # nothing waits for company
                ahead = due - (time.perf_counter() - began)
                if ahead > 0:
                    await asyncio.sleep(max(ahead, TICK_SECONDS))
                    ahead = due - (time.perf_counter() - began)
            behind = max(behind, -ahead)
            due_ms = int(began_ms + due * 1000)
            await writer.append(key, value, due_ms, _due(due_ms) if stamp else [])
            if writer.appended % CHUNK == 0:
                await _breathe(writer, on_progress)
        return behind * 1000

    return await _run(write, settings, topic, on_progress)


def spread(
    records: Iterable[tuple[bytes | None, bytes, int]], speed: float
) -> Iterator[tuple[float, bytes | None, bytes]]:
    """A schedule that follows event time, `speed` times as fast.

    Args:
        records: key, value and event time (epoch milliseconds). One that is older than the first
            one, or out of order, is due at once, after those before it.
        speed: event seconds a second.
    """
    first: int | None = None
    for key, value, event_ms in records:
        first = event_ms if first is None else first
        yield max(0.0, (event_ms - first) / 1000 / speed), key, value


async def _run(
    write: Callable[[BatchWriter], Awaitable[float]],
    settings: Settings,
    topic: str | None,
    tell: Progress | None,
) -> ProduceReport:
    name = topic or Topics(settings).transactions.name
    async with open_writer(settings, name) as writer:
        began = time.perf_counter()
        try:
            behind_ms = await write(writer)
        except Exception:
            if not writer.failed:  # the records themselves: those before the fault are good
                await writer.finish()
                if tell:
                    tell(writer.acknowledged)
            raise
        await writer.finish()
        seconds = time.perf_counter() - began
        if tell:
            tell(writer.acknowledged)
        return ProduceReport(
            name,
            writer.acknowledged,
            writer.value_bytes,
            seconds,
            behind_ms,
            dict(sorted(writer.written.items())),
        )


async def _breathe(writer: BatchWriter, tell: Progress | None) -> None:
    """Let the network have its turn."""
    await asyncio.sleep(0)
    if tell:
        tell(writer.appended)


def _due(epoch_ms: int) -> Headers:
    return [(DUE_HEADER, b"%d" % epoch_ms)]
