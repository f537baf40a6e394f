"""Record batches by hand: what fits, and in which order a destination gets it."""

import asyncio
import time
from collections import defaultdict
from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from app.blocks.faust.changelog_append import append_rows
from app.blocks.faust.output_sender import OutputSender
from app.errors import StateError
from tests.fakes import until


class Producer:
    """A real queue and real batches; the test decides when one leaves and what becomes of it."""

    def __init__(self, batch_bytes: int = 1 << 20) -> None:
        cluster = ClusterMetadata(metadata_max_age_ms=1_000)
        transactions = TransactionManager(None, 1_000)
        transactions.set_pid_and_epoch(7, 0)
        self._message_accumulator = MessageAccumulator(
            cluster, batch_bytes, 0, 30, txn_manager=transactions
        )
        self.client = self
        self.create_batch = self._message_accumulator.create_builder
        self.sent: defaultdict[Any, list[Any]] = defaultdict(list)
        self.unacknowledged: list[Any] = []

    async def _wait_on_metadata(self, topic: str) -> None:
        await asyncio.sleep(0)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        return await self._message_accumulator.add_batch(
            batch, TopicPartition(topic, partition), 20.0
        )

    def waiting(self, topic: str = "t", partition: int = 0) -> int:
        """Batches in line."""
        return len(self._message_accumulator._batches.get(TopicPartition(topic, partition), ()))

    def leave(self) -> None:
        """The first batch in line for each partition leaves."""
        for tp in list(self._message_accumulator._batches):
            batch = self._message_accumulator._pop_batch(tp)
            raw = bytes(batch.get_data_buffer())
            values = [(r.key, r.value) for r in MemoryRecords(raw).next_batch()]
            assert len(values) == batch.record_count
            self.sent[tuple(tp)].append(values)
            self.unacknowledged.append(batch)

    def acknowledge(self, offset: int = 0) -> None:
        for batch in self.unacknowledged:
            batch.done(offset)
        self.unacknowledged.clear()


class Passed:
    """Takes what is passed on for t/0."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def __call__(self, destination: Any) -> Any:
        return self.taken.append if destination == ("t", 0) else None


def records(*values: bytes) -> list[Any]:
    return [(None, value, []) for value in values]


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def known(limit: int = 300) -> tuple[Producer, OutputSender]:
    """A sender whose first batch for t/0 is acknowledged."""
    producer, sender = Producer(), OutputSender(limit)
    first = asyncio.create_task(sender.send(producer, {("t", 0): records(b"first")}))
    await until(producer.waiting)
    producer.leave()
    producer.acknowledge()
    await (await first)
    producer.sent.clear()
    return producer, sender


class TestOutputs:
    async def test_the_first_batch_of_a_destination_is_acknowledged_before_the_second(self) -> None:
        """Refused, it would leave a gap: a broker takes any sequence number from a producer it does not know."""
        producer, sender = Producer(), OutputSender(300)
        outputs = {("t", 0): records(b"a" * 150, b"b" * 150, b"c" * 150)}
        sending = asyncio.create_task(sender.send(producer, outputs))  # type: ignore[arg-type]
        await until(producer.waiting)
        await turns()
        assert producer.waiting() == 1
        producer.leave()
        await turns()
        assert producer.waiting() == 0
        producer.acknowledge()
        durable = await sending
        assert producer.waiting() == 2
        for _ in range(2):
            producer.leave()
        producer.acknowledge()
        await durable
        assert [len(one) for one in producer.sent["t", 0]] == [1, 1, 1]

    async def test_first_batches_of_many_destinations_are_on_their_way_together(self) -> None:
        producer, sender = Producer(), OutputSender(300)
        outputs = {("t", number): records(b"a") for number in range(100)}
        sending = asyncio.create_task(sender.send(producer, outputs))  # type: ignore[arg-type]
        await until(producer.waiting)
        producer.leave()
        assert len(producer.sent) == 100
        producer.acknowledge()
        await (await sending)

    async def test_a_refused_first_batch_ends_it(self) -> None:
        producer, sender = Producer(), OutputSender(300)
        outputs = {("t", 0): records(b"a" * 150, b"b" * 150)}
        sending = asyncio.create_task(sender.send(producer, outputs))  # type: ignore[arg-type]
        await until(producer.waiting)
        producer.leave()
        producer.unacknowledged[0].failure(OSError("refused"))
        with pytest.raises(OSError, match="refused"):
            await sending
        assert producer.waiting() == 0

    async def test_later_batches_stand_in_line_in_order(self) -> None:
        producer, sender = await known()
        durable = await sender.send(producer, {("t", 0): records(b"b" * 150, b"c" * 150)})
        for _ in range(2):
            producer.leave()
        assert producer.sent["t", 0] == [[(None, b"b" * 150)], [(None, b"c" * 150)]]
        producer.acknowledge()
        await durable

    async def test_blocks_that_wait_share_a_batch_until_it_leaves(self) -> None:
        producer, sender = await known(1_000)
        blocks = [await sender.send(producer, {("t", 0): records(b"%d" % n)}) for n in range(3)]
        assert producer.waiting() == 1
        producer.leave()
        late = await sender.send(producer, {("t", 0): records(b"late")})
        producer.leave()
        assert [value for batch in producer.sent["t", 0] for _, value in batch] == [
            b"0", b"1", b"2", b"late",
        ]  # fmt: skip
        assert len(producer.sent["t", 0]) == 2
        producer.acknowledge()
        for block in [*blocks, late]:
            await block

    async def test_nothing_joins_a_batch_that_is_sent_again(self) -> None:
        """It has its sequence numbers, and the broker may have taken it."""
        producer, sender = await known(1_000)
        first = await sender.send(producer, {("t", 0): records(b"a")})
        producer.leave()
        (batch,) = producer.unacknowledged
        producer._message_accumulator.reenqueue(batch)
        producer.unacknowledged.clear()
        second = await sender.send(producer, {("t", 0): records(b"b")})
        assert producer.waiting() == 2
        assert batch.record_count == 1
        for _ in range(2):
            producer.leave()
        producer.acknowledge()
        await first
        await second

    async def test_a_crowd_in_one_line_gives_up_nothing(self) -> None:
        """With aiokafka's own line for one, each of them waited for all others, and some ran out of time."""
        producer, sender = await known(1_000)
        blocks = [await sender.send(producer, {("t", 0): records(b"x" * 400)}) for _ in range(200)]
        assert producer.waiting() == 100
        while producer.waiting():
            producer.leave()
        producer.acknowledge()
        for block in blocks:
            await block

    async def test_a_producer_that_has_failed_takes_nothing(self) -> None:
        producer, sender = await known()
        producer._message_accumulator.fail_all(OSError("fenced"))
        with pytest.raises(OSError, match="fenced"):
            await sender.send(producer, {("t", 0): records(b"b")})

    async def test_no_outputs_are_durable_at_once(self) -> None:
        for outputs in ({}, {("t", 0): []}):
            assert (await OutputSender(100).send(Producer(), outputs)).done()  # type: ignore[attr-defined, arg-type]

    async def test_a_record_that_fits_no_batch_is_refused(self) -> None:
        with pytest.raises(StateError, match="exceeds"):
            await OutputSender(1_000).send(Producer(), {("t", 0): records(b"x" * 901)})

    async def test_headers_count(self) -> None:
        heavy: Any = [(None, b"", [("name", b"x" * 900), ("null", None)])]
        with pytest.raises(StateError, match="exceeds"):
            await OutputSender(1_000).send(Producer(), {("t", 0): heavy})

    async def test_a_builder_that_is_full_too_early_is_noticed(self) -> None:
        full: Any = records(b"123456", b"123456")
        with pytest.raises(StateError, match="full before"):
            await OutputSender(1_000).send(Producer(batch_bytes=70), {("t", 0): full})


class TestRows:
    async def test_rows_are_one_batch_and_its_first_offset_is_returned(self) -> None:
        producer = Producer()
        appending = asyncio.create_task(append_rows(producer, "c", 2, [(b"a", b"1"), (b"b", None)]))
        await until(lambda: producer.waiting("c", 2))
        producer.leave()
        producer.acknowledge(41)
        assert await appending == 41
        assert producer.sent["c", 2] == [[(b"a", b"1"), (b"b", None)]]

    async def test_rows_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(StateError, match="2 rows do not fit"):
            await append_rows(Producer(batch_bytes=70), "c", 0, [(b"a", b"1"), (b"b", b"2")])


class TestPassingOn:
    """Records that another stage of the worker waits for are given to it once they are acknowledged."""

    async def test_they_have_the_offsets_that_the_broker_gave(self) -> None:
        producer, passed = Producer(), Passed()
        one, other = OutputSender(1 << 16, passed), OutputSender(1 << 16)
        before = time.time_ns() // 1_000_000
        head = [("h", b"1")]
        sent = [
            asyncio.create_task(sender.send(producer, {("t", 0): batch, ("t", 1): records(b"x")}))
            for sender, batch in ((one, [(b"k", b"a", head)]), (other, records(b"b", b"c")))
        ]
        await until(producer.waiting)
        await turns()
        assert passed.taken == []
        producer.leave()
        producer.acknowledge(70)
        await asyncio.gather(*[await each for each in sent])
        await turns()
        ((first, second, third),) = passed.taken
        assert (first.offset, first.key, first.value, first.headers) == (70, b"k", b"a", head)
        assert (second.offset, second.value) == (71, b"b")
        assert (third.offset, third.value) == (72, b"c"), "another sender's, in the same batch"
        assert before <= first.timestamp <= time.time_ns() // 1_000_000

    async def test_outputs_are_shown_before_they_are_handed_over(self) -> None:
        producer, shown = Producer(), []
        outputs = {("t", 0): records(b"a"), ("t", 1): records(b"b")}

        def begin_early(some: Any) -> None:
            shown.append((some, producer.waiting()))

        sender = OutputSender(1 << 16, lambda _: None, begin_early)
        task = asyncio.create_task(sender.send(producer, outputs))
        await until(producer.waiting)
        assert shown == [(outputs, 0)]
        producer.leave()
        producer.acknowledge(5)
        await (await task)

    async def test_the_brokers_time_is_taken_where_it_counts(self) -> None:
        producer, passed = Producer(), Passed()
        task = asyncio.create_task(
            OutputSender(1 << 16, passed).send(producer, {("t", 0): records(b"a")})
        )
        await until(producer.waiting)
        producer.leave()
        for batch in producer.unacknowledged:
            batch.done(5, timestamp=1_234)
        await (await task)
        await turns()
        assert [(record.offset, record.timestamp) for record in passed.taken[0]] == [(5, 1_234)]

    @pytest.mark.parametrize("what", ["no offset", "foreign record", "refused"])
    async def test_where_they_stand_must_be_known(self, what: str) -> None:
        producer, passed = Producer(), Passed()
        task = asyncio.create_task(
            OutputSender(1 << 16, passed).send(producer, {("t", 0): records(b"a")})
        )
        await until(producer.waiting)
        (batch,) = producer._message_accumulator._batches[TopicPartition("t", 0)]
        if what == "foreign record":
            batch.append(None, b"another's", None)
        producer.leave()
        if what == "refused":
            batch.failure(OSError("no"))
            with pytest.raises(OSError, match="no"):
                await (await task)
        else:
            producer.acknowledge(-1 if what == "no offset" else 7)
            await (await task)
        await turns()
        assert passed.taken == []

    async def test_a_batch_is_freed_once_it_is_acknowledged(self) -> None:
        producer, passed = Producer(), Passed()
        task = asyncio.create_task(
            OutputSender(1 << 16, passed).send(producer, {("t", 0): records(b"a")})
        )
        await until(producer.waiting)
        (batch,) = producer._message_accumulator._batches[TopicPartition("t", 0)]
        passing = batch.passing
        producer.leave()
        producer.acknowledge(7)
        await (await task)
        await turns()
        assert not hasattr(batch, "passing")
        assert (passing._batch, passing._records) == (None, [])
