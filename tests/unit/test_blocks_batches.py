"""Record batches by hand: what fits, and in which order a destination gets it."""

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from app.blocks.batches import OutputSender, append_rows
from app.errors import StateError
from tests.fakes import until


class Builder:
    def __init__(self, room: int) -> None:
        self.room = room
        self.records: list[Any] = []

    def append(self, *, key: Any, value: Any, timestamp: Any, headers: Any = ()) -> Any:
        self.room -= len(key or b"") + len(value or b"")
        if self.room < 0:
            return None
        assert timestamp is None
        self.records.append((key, value))
        return SimpleNamespace()

    def close(self) -> None:
        pass


class Producer:
    """Hands out futures that the test resolves."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.room = room
        self.sent: defaultdict[Any, list[Any]] = defaultdict(list)
        self.futures: list[asyncio.Future[Any]] = []

    def create_batch(self) -> Builder:
        return Builder(self.room)

    async def send_batch(self, batch: Builder, topic: str, *, partition: int) -> Any:
        self.sent[topic, partition].append(batch.records)
        future = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        return future

    def acknowledge(self, offset: int = 0) -> None:
        for future in self.futures:
            if not future.done():
                future.set_result(SimpleNamespace(offset=offset))


def records(*values: bytes) -> list[Any]:
    return [(None, value, []) for value in values]


class TestOutputs:
    async def test_the_first_batch_of_a_destination_is_acknowledged_before_the_second(self) -> None:
        """Refused, it would leave a gap: a broker takes any sequence number from a producer it does not know."""
        producer, sender = Producer(), OutputSender(300)
        outputs = {("t", 0): records(b"a" * 150, b"b" * 150, b"c" * 150)}
        sending = asyncio.create_task(sender.send(producer, outputs))  # type: ignore[arg-type]
        await until(lambda: producer.futures)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(producer.sent["t", 0]) == 1
        producer.acknowledge()
        durable = await sending
        assert len(producer.sent["t", 0]) == 3
        producer.acknowledge()
        assert len(await durable) == 3

    async def test_a_refused_first_batch_ends_it(self) -> None:
        producer, sender = Producer(), OutputSender(300)
        outputs = {("t", 0): records(b"a" * 150, b"b" * 150)}
        sending = asyncio.create_task(sender.send(producer, outputs))  # type: ignore[arg-type]
        await until(lambda: producer.futures)
        producer.futures[0].set_exception(OSError("refused"))
        with pytest.raises(OSError, match="refused"):
            await sending
        assert len(producer.sent["t", 0]) == 1

    async def test_later_batches_overlap(self) -> None:
        producer, sender = Producer(), OutputSender(300)
        first = asyncio.create_task(sender.send(producer, {("t", 0): records(b"a")}))
        await until(lambda: producer.futures)
        producer.acknowledge()
        await (await first)
        durable = await sender.send(producer, {("t", 0): records(b"b" * 150, b"c" * 150)})
        assert producer.sent["t", 0] == [[(None, b"a")], [(None, b"b" * 150)], [(None, b"c" * 150)]]
        producer.acknowledge()
        await durable

    async def test_no_outputs_are_durable_at_once(self) -> None:
        assert await (await OutputSender(100).send(Producer(), {})) == []
        assert await (await OutputSender(100).send(Producer(), {("t", 0): []})) == []

    async def test_a_record_that_fits_no_batch_is_refused(self) -> None:
        with pytest.raises(StateError, match="exceeds"):
            await OutputSender(1_000).send(Producer(), {("t", 0): records(b"x" * 901)})

    async def test_headers_count(self) -> None:
        heavy: Any = [(None, b"", [("name", b"x" * 900), ("null", None)])]
        with pytest.raises(StateError, match="exceeds"):
            await OutputSender(1_000).send(Producer(), {("t", 0): heavy})

    async def test_a_builder_that_is_full_too_early_is_noticed(self) -> None:
        with pytest.raises(StateError, match="full before"):
            await OutputSender(1_000).send(Producer(room=5), {("t", 0): records(b"123456")})


class TestRows:
    async def test_rows_are_one_batch_and_its_first_offset_is_returned(self) -> None:
        producer = Producer()
        appending = asyncio.create_task(append_rows(producer, "c", 2, [(b"a", b"1"), (b"b", None)]))
        await until(lambda: producer.futures)
        producer.acknowledge(41)
        assert await appending == 41
        assert producer.sent["c", 2] == [[(b"a", b"1"), (b"b", None)]]

    async def test_rows_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(StateError, match="2 rows do not fit"):
            await append_rows(Producer(room=3), "c", 0, [(b"a", b"1"), (b"b", b"2")])
