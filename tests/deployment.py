"""One deployment under test: makes its topics and tables, feeds it, and reads what came out."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer

from app.cassandra.prediction_queries import scan_predictions
from app.cassandra.schema_migration import migrate
from app.cassandra.session import connected
from app.kafka.clients import client_kwargs
from app.kafka.topic_admin import ensure_topics
from app.ops.verification.topic_log import Reached, open_log, wait_for_workers
from app.ops.verify import verify
from app.settings import Settings
from app.topics import Topics, TopicSpec
from tests.worker_settings import environ_of

#: For work that takes a second or two on an idle machine: a bound against hangs.
PATIENCE_SECONDS = 300.0

#: Between two looks.
_LONGEST_PAUSE_SECONDS = 2.0

#: Partition and offset of a record on `transactions`.
Position = tuple[int, int]


@dataclass(frozen=True)
class Send:
    """A record to be sent: to its card's partition, unless another one is given."""

    value: bytes | None
    key: bytes | None
    partition: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Deployment:
    """Everything that a test does to one deployment but run its workers (see tests/fleet.py)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topics = Topics(settings)

    def prepare(self) -> None:
        """Create topics and tables."""
        asyncio.run(ensure_topics(self.settings, self.topics.all))
        with connected(self.settings) as session:
            migrate(session, self.settings, say=lambda _: None)

    def run(self, *arguments: str, timeout: float = PATIENCE_SECONDS) -> Any:
        """Run a `fraudstream` command; returns the completed process, its output as text."""
        return subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            env=environ_of(self.settings), capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def send(self, records: Iterable[Send], topic: TopicSpec | None = None) -> list[Position]:
        """Send records one after the other, to `transactions` by default; returns where each one stands."""
        return asyncio.run(self._send(list(records), topic or self.topics.transactions))

    async def _send(self, records: list[Send], topic: TopicSpec) -> list[Position]:
        producer = AIOKafkaProducer(
            **client_kwargs(self.settings), acks="all",
            compression_type="gzip", max_request_size=1 << 24,  # records beyond the limit get through so
        )  # fmt: skip
        await producer.start()
        try:
            name = topic.name
            sent = [
                await producer.send(
                    name, record.value, key=record.key, partition=record.partition,
                    headers=list(record.headers),
                )
                for record in records
            ]  # fmt: skip
            return [(done.partition, done.offset) for done in await asyncio.gather(*sent)]
        finally:
            await producer.stop()

    def drain(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Wait until everything sent so far is scored and stored.

        Raises:
            AssertionError: it is not in time.
        """
        reached = asyncio.run(self._reached(timeout))
        behind = {
            role: sum(max(0, e - d) for e, d in zip(ends, reached.done[role], strict=True))
            for role, ends in reached.ends.items()
        }
        assert not any(behind.values()), f"after {timeout:g} s still to do: {behind}"

    async def _reached(self, timeout: float) -> Reached:
        async with open_log(self.settings) as log:
            return await wait_for_workers(log, timeout, lambda *_: None)

    def verify(self, timeout: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """What `fraudstream verify` finds.

        Raises:
            AssertionError: anything is pending, missing or different.
        """
        report = asyncio.run(
            verify(self.settings, timeout_seconds=timeout, examples=5, progress=lambda *_: None)
        )
        assert report.passed, json.dumps(report.as_json(), indent=1)
        return report.as_json()

    def records(self, topic: TopicSpec) -> list[Any]:
        """Every record of a topic, partition by partition."""
        return asyncio.run(self._records(topic))

    async def _records(self, topic: TopicSpec) -> list[Any]:
        found: list[Any] = []
        async with open_log(self.settings) as log:
            begins, ends = await log.begins(topic), await log.ends(topic)
            for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
                async for records in log.read(topic, number, begin, end):
                    found += records
        return found

    def count(self, topic: TopicSpec) -> int:
        """How many records a topic has, none of which is read: cheap enough to be asked again and again."""
        return asyncio.run(self._count(topic))

    async def _count(self, topic: TopicSpec) -> int:
        async with open_log(self.settings) as log:
            begins, ends = await log.begins(topic), await log.ends(topic)
            return sum(ends) - sum(begins)

    def rows(self, *columns: str) -> list[Any]:
        """All rows in Cassandra."""
        with connected(self.settings) as session:
            return list(scan_predictions(session, self.settings, columns))


def wait_until(done: Callable[[], bool], what: str, timeout: float = PATIENCE_SECONDS) -> None:
    """Poll until something is so; looking takes half of the time at most, however much work it is.

    Raises:
        AssertionError: it is not in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if done():
            return
        looked = time.monotonic()
        assert looked < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(min(_LONGEST_PAUSE_SECONDS, max(0.1, looked - began)))
