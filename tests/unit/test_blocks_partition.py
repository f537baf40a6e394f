"""One partition: the order of effects, overlap, gaps, and the end."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.blocks.core.memory_budget import MemoryBudget
from app.blocks.core.partition import Computed, Partition
from app.errors import ForeignWriterError, StateError
from tests.fakes import Counter, Effects, block, count_of, covering, until


@pytest.fixture
async def started() -> AsyncIterator[Any]:
    """Starts partitions; stops them at the end."""
    tasks: list[asyncio.Task[None]] = []

    def start(ports: Effects, handler: Any = None, **options: Any) -> Any:
        options = {
            "depth": 3,
            "joined_records": 1,
            "batch_bytes": 10_000,
            "start": 0,
            "changelog_next": 0,
            **options,
        }
        partition = Partition(0, ports, handler or Counter(), **options)
        task = asyncio.create_task(partition.run())
        tasks.append(task)
        return partition, task

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_effects_come_in_order(started: Any) -> None:
    ports = Effects()
    partition, _ = started(ports)
    partition.offer(block(0, 4))
    await until(lambda: ports.of("finish"))
    assert [name for name, _ in ports.log] == ["sent", "durable", "append", "store", "finish"]
    assert ports.of("store") == [([b"n"], 0)]
    assert partition.next_offset == 5
    assert partition.records_done == 5
    assert partition.changelog_next == 1


async def test_the_next_block_computes_on_rows_that_are_not_durable(started: Any) -> None:
    ports, handler = Effects(), Counter()
    gate = ports.gates["durable"] = asyncio.Event()
    partition, _ = started(ports, handler)
    partition.offer(block(0, 4))
    partition.offer(block(5, 6))
    await until(lambda: len(ports.of("sent")) == 2)
    assert ports.of("append") == []
    assert count_of(partition.get(b"n")) == 7
    assert partition.in_flight == 2
    gate.set()
    await until(lambda: len(ports.of("finish")) == 2)
    assert ports.of("finish") == [(0, 4), (5, 6)]
    assert count_of(ports.stored[b"n"]) == 7
    assert count_of(partition.get(b"n")) == 7
    assert partition._overlay == {}


async def test_blocks_that_wait_are_joined(started: Any) -> None:
    ports = Effects()
    gate = ports.gates["durable"] = asyncio.Event()
    partition, _ = started(ports, depth=1, joined_records=4)
    partition.offer(block(0, 1))
    await until(lambda: partition.in_flight)
    for first, last in ((2, 3), (4, 4), (5, 5), (6, 6), (8, 8)):
        partition.offer(block(first, last))
    assert partition.waiting == 6
    gate.set()
    await until(lambda: len(ports.of("finish")) == 3)
    assert ports.of("finish") == [(0, 1), (2, 5), (6, 6)]
    await until(lambda: ports.of("abandon") == [(8, 8)])  # behind a gap: fetched again
    assert count_of(ports.stored[b"n"]) == 7


async def test_a_stale_block_does_not_take_a_current_one_with_it(started: Any) -> None:
    ports = Effects()
    ports.is_current = lambda block: block.begin != 0  # type: ignore[method-assign]
    partition, _ = started(ports, joined_records=10)
    partition.offer(block(0, 1))
    partition.offer(block(2, 3))
    await until(lambda: ports.of("refetch"))
    assert ports.of("abandon")[0] == (0, 1)
    assert ports.of("refetch") == [0]


async def test_blocks_that_are_durable_share_an_append(started: Any) -> None:
    ports = Effects()
    gate = ports.gates["durable"] = asyncio.Event()
    partition, _ = started(ports, depth=4)
    for first in range(4):
        partition.offer(block(first, first))
    await until(lambda: len(ports.of("sent")) == 4)
    gate.set()
    await until(lambda: len(ports.of("finish")) == 4)
    assert ports.of("append") == [[b"n"] * 4]
    assert ports.of("finish") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert count_of(ports.stored[b"n"]) == 4
    assert partition._overlay == {}


async def test_no_more_than_depth_blocks_overlap(started: Any) -> None:
    ports, handler = Effects(), Counter()
    gate = ports.gates["durable"] = asyncio.Event()
    partition, _ = started(ports, handler, depth=2)
    for first in range(5):
        partition.offer(block(first, first))
    await until(lambda: len(ports.of("sent")) == 2)
    for _ in range(50):
        await asyncio.sleep(0)
    assert (len(handler.computed), partition.waiting) == (2, 3)
    gate.set()
    await until(lambda: len(ports.of("finish")) == 5)


async def test_rows_go_in_as_many_batches_as_they_need(started: Any) -> None:
    ports = Effects()
    handler = Counter(key_of=lambda offset: b"k%d" % offset)
    partition, _ = started(ports, handler, batch_bytes=250)
    partition.offer(block(0, 4))
    await until(lambda: ports.of("finish"))
    assert ports.of("append") == [[b"k0", b"k1"], [b"k2", b"k3"], [b"k4"]]
    assert [offset for _, offset in ports.of("store")] == [1, 3, 4]


class TestGaps:
    async def test_a_gap_is_fetched_again(self, started: Any) -> None:
        ports = Effects()
        partition, _ = started(ports)
        partition.offer(block(3, 4))
        partition.offer(block(5, 6))
        await until(lambda: ports.of("refetch"))
        assert ports.of("refetch") == [0]
        assert ports.of("abandon") == [(3, 4), (5, 6)]
        for first in (0, 3, 5):
            partition.offer(block(first, first + 2 if first == 0 else first + 1))
        await until(lambda: len(ports.of("finish")) == 3)
        assert count_of(ports.stored[b"n"]) == 7

    async def test_what_was_taken_is_taken_once(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        partition, _ = started(ports, handler)
        for first, last in ((0, 4), (0, 4), (2, 3), (3, 8), (0, 8)):
            partition.offer(block(first, last))
        await until(lambda: len(ports.of("finish")) == 2 and len(ports.of("abandon")) == 3)
        assert handler.computed == [(0, 4), (5, 8)]
        assert ports.of("finish") == [(0, 4), (5, 8)]
        assert count_of(ports.stored[b"n"]) == 9

    async def test_a_block_that_is_lost_again_and_again_is_fetched_each_time(
        self, started: Any
    ) -> None:
        """A gap says nothing about the log, however often it is met: what the fetch covers does."""
        ports, handler = Effects(), Counter()
        partition, _ = started(ports, handler)
        for times in range(1, 21):
            partition.offer(block(3, 4))
            await until(lambda: not partition.waiting and len(ports.of("refetch")) == times)  # noqa: B023
        assert ports.of("refetch") == [0] * 20
        partition.offer(block(0, 4))
        await until(lambda: ports.of("finish"))
        assert handler.computed == [(0, 4)]

    async def test_a_stale_block_is_dropped(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        ports.current = False
        partition, _ = started(ports, handler)
        partition.offer(block(0, 4))
        await until(lambda: ports.of("abandon"))
        assert (handler.computed, partition.next_offset) == ([], 0)


class TestOffsetsWithoutRecords:
    """Transaction markers, aborted batches, what compaction removed: the fetch covers them."""

    async def test_markers_between_records_cost_nothing(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        partition, _ = started(ports, handler)
        for number in range(100):
            partition.offer(covering(2 * number, 2 * number + 2, 2 * number))
        await until(lambda: partition.done_offset == 200, 2_000)
        assert ports.of("refetch") == ports.of("abandon") == []
        assert partition.records_done == len(handler.computed) == 100

    async def test_a_log_that_ends_in_markers_is_done(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        gate = ports.gates["durable"] = asyncio.Event()
        partition, _ = started(ports, handler)
        partition.offer(covering(0, 3, 0, 1))
        partition.offer(covering(3, 7))
        await until(lambda: partition.next_offset == 7)
        # what comes before it is not durable yet
        assert (partition.done_offset, ports.of("finish")) == (0, [])
        gate.set()
        await until(lambda: len(ports.of("finish")) == 2)
        assert ports.of("finish") == [(0, 2), (3, 6)]
        assert len(ports.of("append")) == 1
        assert (partition.done_offset, partition.records_done) == (7, 2)

    async def test_they_are_joined_with_what_waits(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        gate = ports.gates["durable"] = asyncio.Event()
        partition, _ = started(ports, handler, depth=1, joined_records=10)
        partition.offer(block(0, 0))
        await until(lambda: partition.in_flight)
        for one in (covering(1, 4, 1), covering(4, 5), covering(5, 9, 5, 7)):
            partition.offer(one)
        gate.set()
        await until(lambda: len(ports.of("finish")) == 2)
        assert ports.of("finish") == [(0, 0), (1, 8)]
        assert handler.computed == [(0, 0), (1, 7)]

    async def test_passed_blocks_follow_markers(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        partition, _ = started(ports, handler)
        partition.offer_passed(block(3, 4))
        partition.offer(covering(0, 3, 0, 1))
        await until(lambda: partition.done_offset == 5)
        assert handler.computed == [(0, 1), (3, 4)]

    async def test_records_of_overlapping_blocks_count_once(self, started: Any) -> None:
        partition, _ = started(Effects())
        partition.offer_passed(block(0, 4))
        await until(lambda: partition.next_offset == 5)
        partition.offer(block(0, 9))
        await until(lambda: partition.done_offset == 10)
        assert partition.records_done == 10


class TestLostOffsets:
    """Deleted before they were read: accounted for in the order of all else."""

    async def test_they_are_accounted_for_before_they_are_acknowledged(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        gate = ports.gates["durable"] = asyncio.Event()
        partition, _ = started(ports, handler)
        partition.offer(block(0, 2))
        partition.offer(covering(3, 1_000, lost=True))
        partition.offer(block(1_000, 1_001))
        await until(lambda: partition.next_offset == 1_002)
        assert ports.of("finish") == []
        gate.set()
        await until(lambda: len(ports.of("finish")) == 3)
        assert ports.of("lost") == [(3, 999)]
        assert ports.of("finish") == [(0, 2), (3, 999), (1_000, 1_001)]
        assert partition.records_done == 5

    async def test_what_was_passed_on_is_not_lost(self, started: Any) -> None:
        ports = Effects()
        partition, _ = started(ports)
        partition.offer_passed(block(0, 4))
        await until(lambda: partition.next_offset == 5)
        partition.offer(covering(2, 9, lost=True))
        await until(lambda: partition.done_offset == 9)
        assert ports.of("lost") == [(5, 8)]

    @pytest.mark.parametrize(("committed", "lost"), [(6, [(6, 8)]), (20, [])])
    async def test_what_another_worker_has_done_is_not_lost(
        self, started: Any, committed: int, lost: list[tuple[int, int]]
    ) -> None:
        ports = Effects()
        ports.committed_offset = committed
        partition, _ = started(ports)
        partition.offer(covering(0, 9, lost=True))
        await until(lambda: partition.done_offset == 9)
        assert ports.of("lost") == lost

    async def test_they_are_joined_with_nothing(self, started: Any) -> None:
        ports = Effects()
        partition, _ = started(ports, depth=1, joined_records=10)
        for one in (block(0, 1), covering(2, 5, lost=True), block(5, 6), block(7, 8)):
            partition.offer(one)
        await until(lambda: partition.done_offset == 9)
        assert ports.of("lost") == [(2, 4)]
        assert ports.of("finish") == [(0, 1), (2, 4), (5, 8)]


class TestBudget:
    """Blocks are bounded by what they take in memory, over all partitions."""

    async def test_where_it_is_used_up_each_partition_has_one_block_in_flight(
        self, started: Any
    ) -> None:
        budget = MemoryBudget(1_000)
        all_ports = [Effects() for _ in range(3)]
        gate = asyncio.Event()
        partitions = []
        for ports in all_ports:
            ports.gates["durable"] = gate
            partition, _ = started(ports, budget=budget)
            partitions.append(partition)
            for offset in range(3):
                partition.offer(covering(offset, offset + 1, offset, size=400))
        for _ in range(50):
            await asyncio.sleep(0)
        assert [partition.in_flight for partition in partitions] == [1, 1, 1]
        assert budget.used == 3 * 2 * 400 + 6 * 400
        gate.set()
        await until(lambda: all(partition.done_offset == 3 for partition in partitions))
        assert budget.used == 0

    async def test_blocks_are_not_joined_to_more_than_a_megabyte(self, started: Any) -> None:
        ports = Effects()
        gate = ports.gates["durable"] = asyncio.Event()
        partition, _ = started(ports, depth=1, joined_records=100)
        for offset in range(6):
            partition.offer(covering(offset, offset + 1, offset, size=400_000))
        gate.set()
        await until(lambda: partition.done_offset == 6)
        assert ports.of("finish") == [(0, 1), (2, 3), (4, 5)]

    async def test_it_is_even_after_every_way_out(self, started: Any) -> None:
        budget = MemoryBudget(1_000_000)
        ports = Effects()
        ports.gates["durable"] = asyncio.Event()
        partition, _ = started(ports, budget=budget, depth=1)
        partition.offer(covering(4, 6, 4, 5, size=100))  # behind a gap
        partition.offer(covering(6, 8, 6, 7, size=100))
        await until(lambda: ports.of("refetch"))
        assert budget.used == 0
        partition.offer_passed(covering(2, 4, 2, 3, size=100))
        partition.offer_passed(covering(2, 4, 2, 3, size=100))
        assert budget.used == 100
        partition.offer(covering(0, 3, 0, 1, 2, size=300))
        await until(lambda: partition.in_flight)
        assert budget.used == 2 * 300 + 50
        partition.close()
        assert budget.used == 0


class TestPassedBlocks:
    """What an earlier stage of the worker has sent: known before it is fetched."""

    async def test_a_passed_block_is_done_and_its_fetched_copy_dropped(self, started: Any) -> None:
        ports = Effects()
        partition, _ = started(ports)
        partition.offer_passed(block(0, 4))
        await until(lambda: ports.of("finish"))
        partition.offer(block(0, 4))
        await until(lambda: ports.of("abandon"))
        assert ports.of("finish") == ports.of("abandon") == [(0, 4)]
        assert count_of(ports.stored[b"n"]) == 5

    async def test_it_waits_for_what_comes_before_it(self, started: Any) -> None:
        ports = Effects()
        partition, _ = started(ports)
        partition.offer_passed(block(5, 6))
        partition.offer_passed(block(3, 4))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (ports.log, partition.waiting) == ([], 0)
        partition.offer(block(0, 2))
        await until(lambda: len(ports.of("finish")) == 3)
        assert ports.of("finish") == [(0, 2), (3, 4), (5, 6)]
        assert ports.of("refetch") == []
        assert count_of(ports.stored[b"n"]) == 7

    async def test_records_that_were_fetched_are_cut_off(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        partition, _ = started(ports, handler)
        partition.offer(block(0, 5))
        partition.offer_passed(block(2, 4))
        partition.offer_passed(block(4, 8))
        await until(lambda: partition.next_offset == 9)
        assert handler.computed == [(0, 5), (6, 8)]

    async def test_fetched_copies_that_wait_are_not_computed_again(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        partition, _ = started(ports, handler)
        partition.offer_passed(block(0, 2))
        partition.offer(block(0, 4))
        partition.offer_passed(block(5, 6))
        partition.offer(block(1, 6))
        partition.offer(block(7, 7))
        await until(lambda: partition.next_offset == 8)
        assert handler.computed == [(0, 2), (3, 4), (5, 6), (7, 7)]
        assert ports.of("refetch") == []

    async def test_with_too_many_ahead_all_are_left_to_be_fetched(self, started: Any) -> None:
        ports, handler = Effects(), Counter()
        partition, _ = started(ports, handler)
        for first in range(1, 34):
            partition.offer_passed(block(first, first))
        partition.offer(block(0, 0))
        await until(lambda: ports.of("finish"))
        assert partition.next_offset == 1
        partition.offer(block(1, 32))
        await until(lambda: partition.next_offset == 34)
        assert handler.computed == [(0, 0), (1, 32), (33, 33)]

    async def test_closing_forgets_them(self, started: Any) -> None:
        ports = Effects()
        partition, _ = started(ports)
        partition.offer_passed(block(3, 4))
        partition.close()
        partition.offer_passed(block(0, 2))
        assert (partition.waiting, len(partition._passed), ports.log) == (0, 0, [])


class TestTheEnd:
    async def test_another_writer_ends_it(self, started: Any) -> None:
        ports = Effects()
        ports.changelog_end = 7
        partition, task = started(ports)
        partition.offer(block(0, 4))
        with pytest.raises(ForeignWriterError, match="continued at 7, expected 0"):
            await task
        assert ports.of("store") == []
        assert ports.of("finish") == []

    @pytest.mark.parametrize("effect", ["hand over", "durable", "append"])
    async def test_an_effect_that_fails_ends_it(self, started: Any, effect: str) -> None:
        ports = Effects()
        ports.failing[effect] = OSError("away")
        partition, task = started(ports)
        partition.offer(block(0, 4))
        with pytest.raises(OSError, match="away"):
            await task
        assert ports.of("finish") == []

    async def test_a_handler_that_fails_ends_it(self, started: Any) -> None:
        class Broken:
            def compute(self, *_: Any) -> Any:
                raise StateError("cannot be explained")

        ports = Effects()
        partition, task = started(ports, Broken())
        partition.offer(block(0, 4))
        with pytest.raises(StateError):
            await task

    async def test_closing_voids_everything_in_flight(self, started: Any) -> None:
        ports = Effects()
        gate = ports.gates["append"] = asyncio.Event()
        partition, task = started(ports, depth=1)
        partition.memo["rows"] = "derived"
        partition.offer(block(0, 4))
        partition.offer(block(5, 6))
        await until(lambda: ports.of("append"))
        partition.close()
        assert sorted(ports.of("abandon")) == [(0, 4), (5, 6)]
        assert (partition.waiting, partition.in_flight, partition._overlay) == (0, 0, {})
        assert partition.memo == {}
        gate.set()
        await task
        assert ports.of("store") == []
        assert ports.of("finish") == []

    async def test_closing_gives_up_outputs_that_wait_to_be_durable(self, started: Any) -> None:
        ports = Effects()
        gate = ports.gates["durable"] = asyncio.Event()
        partition, task = started(ports)
        for first in range(3):
            partition.offer(block(first, first))
        await until(lambda: len(ports.of("sent")) == 3)
        partition.close()
        await asyncio.wait_for(task, 1)
        gate.set()
        await asyncio.sleep(0.01)
        assert ports.of("durable") == []
        assert ports.of("finish") == []

    async def test_a_closed_partition_that_waits_for_work_ends(self, started: Any) -> None:
        partition, task = started(Effects())
        await asyncio.sleep(0)
        partition.close()
        await asyncio.wait_for(task, 1)


class Timed(Counter):
    """The event time of a record is its offset."""

    def compute(self, *arguments: Any) -> Any:
        partition, records, state, until_ms = arguments
        within = [record for record in records if record.offset <= until_ms]
        if not within:
            return Computed(taken=0, next_ms=records[0].offset)
        computed = super().compute(partition, within, state)
        computed.first_ms, computed.newest_ms = within[0].offset, within[-1].offset
        if len(within) < len(records):
            computed.taken, computed.next_ms = len(within), records[len(within)].offset
        return computed


class FakeGate:
    def __init__(self, until_ms: float) -> None:
        self.until_ms = until_ms
        self.holds = 0
        self.newest: list[int | None] = []

    def hold(self) -> None:
        self.holds += 1

    def started(self) -> None:
        pass

    def finished(self, newest_ms: int | None) -> None:
        self.newest.append(newest_ms)


class TestTheGate:
    """Blocks are cut at an event time; the rest waits at its partition."""

    async def test_a_block_is_cut_where_the_gate_closes(self, started: Any) -> None:
        ports, handler, gate = Effects(), Timed(), FakeGate(2)
        partition, _ = started(ports, handler, gate=gate)
        partition.offer(block(0, 4))
        partition.offer(block(5, 6))
        await until(lambda: ports.of("finish"))
        assert ports.of("finish") == [(0, 2)]
        assert (partition.held, partition.held_ms, partition.waiting) == (True, 3, 4)
        assert (partition.next_offset, partition.done_offset, gate.holds) == (3, 3, 1)
        gate.until_ms = 5
        partition.wake()
        await until(lambda: len(ports.of("finish")) == 3)
        assert ports.of("finish") == [(0, 2), (3, 4), (5, 5)]
        assert gate.newest == [2, 4, 5]
        gate.until_ms = math.inf
        partition.wake()
        await until(lambda: len(ports.of("finish")) == 4)
        assert count_of(ports.stored[b"n"]) == 7
        assert (partition.held, partition.waiting, partition.done_offset) == (False, 0, 7)

    async def test_nothing_within_has_no_effect(self, started: Any) -> None:
        ports, handler, gate = Effects(), Timed(), FakeGate(-math.inf)
        partition, _ = started(ports, handler, gate=gate)
        partition.offer(block(0, 4))
        await until(lambda: partition.held)
        assert (handler.computed, ports.log, partition.next_ms) == ([], [], 0)

    async def test_the_first_record_in_flight_says_how_far_it_is(self, started: Any) -> None:
        ports, gate = Effects(), FakeGate(2)
        durable = ports.gates["durable"] = asyncio.Event()
        partition, _ = started(ports, Timed(), gate=gate, start=1)
        partition.offer(block(1, 4))
        await until(lambda: partition.held)
        assert partition.next_ms == 1
        durable.set()
        await until(lambda: ports.of("finish"))
        assert partition.next_ms == 3

    async def test_what_is_held_back_does_not_delay_a_revocation(self, started: Any) -> None:
        ports, gate = Effects(), FakeGate(2)
        partition, _ = started(ports, Timed(), gate=gate)
        partition.offer(block(0, 4))
        partition.offer(block(5, 6))
        await until(lambda: ports.of("finish"))
        partition.give_up_held()
        assert ports.of("abandon") == [(3, 4), (5, 6)]
        assert (partition.waiting, partition.held) == (0, False)


async def test_rows_need_a_table(started: Any) -> None:
    partition, task = started(Effects(), changelog_next=None)
    partition.offer(block(0, 0))
    with pytest.raises(AssertionError):
        await task


class Needing(Counter):
    """Cannot go on at one offset before something is here."""

    needed: str | None = "schema 7"
    at = 3

    def compute(self, partition: int, records: Any, state: Any, until_ms: float = 0) -> Computed:
        offsets = [record.offset for record in records]
        if self.needed is None or self.at not in offsets:
            return super().compute(partition, records, state)
        taken = offsets.index(self.at)
        if not taken:
            return Computed(taken=0, needs=self.needed)
        computed = super().compute(partition, records[:taken], state)
        computed.taken, computed.needs = taken, self.needed
        return computed


@pytest.mark.parametrize("first", [0, 3])
async def test_a_record_that_needs_something_waits_for_it(started: Any, first: int) -> None:
    """What is before it becomes durable meanwhile; then the rest is computed, once."""
    ports, handler = Effects(), Needing()
    ports.gates["obtain"] = asyncio.Event()
    partition, _ = started(ports, handler, start=first, joined_records=10)
    partition.offer(block(first, 5))
    partition.offer(block(6, 7))
    await until(lambda: ports.of("obtain"))
    await until(lambda: partition.done_offset == 3)
    assert partition.needs == "schema 7"
    assert partition.next_offset == 3
    assert ports.of("finish") == ([(0, 2)] if not first else [])
    handler.needed = None
    ports.gates["obtain"].set()
    await until(lambda: partition.done_offset == 8)
    assert ports.of("obtain") == ["schema 7"]
    assert partition.needs is None
    assert count_of(ports.stored[b"n"]) == 8 - first


async def test_a_partition_that_waits_for_something_is_given_up(started: Any) -> None:
    ports = Effects()
    ports.gates["obtain"] = asyncio.Event()
    partition, _ = started(ports, Needing())
    partition.offer(block(0, 5))
    await until(lambda: ports.of("obtain"))
    partition.give_up_held()
    assert (partition.waiting, ports.of("abandon")) == (0, [(3, 5)])
    partition.close()
