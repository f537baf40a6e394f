"""What joins agent and partition: congestion, opening, revocation, lost blocks."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.errors import IllegalStateError, KafkaTimeoutError
from faust.types import TP

from app.blocks.core.alignment import EventTimeAlignment, PartitionProgress
from app.blocks.core.interfaces import Begun, Block, ForwardedRecord
from app.blocks.core.offset_metadata import OffsetMetadata
from app.blocks.core.partition import Computed
from app.blocks.faust import pipeline as pipeline_module
from app.blocks.faust.block_app import BlockApp
from app.blocks.faust.block_consumer import BlockConsumer, _ReadOffsets
from app.blocks.faust.committed_offsets import CommittedOffset
from app.blocks.faust.early_delivery import EarlyDelivery
from app.blocks.faust.fetch_backoff import FetchBackoff
from app.blocks.faust.fetch_thread import BlockConsumerThread
from app.blocks.faust.fetched_ranges import Chunk
from app.blocks.faust.pipeline import Pipeline
from app.errors import StateError
from tests.fakes import Numbered, block, until

HERE = TP("s", 0)


class Halted(BaseException):
    pass


class App:
    """What a pipeline asks of the app, without Kafka."""

    def __init__(self) -> None:
        self.consumer_generation_id = 1
        self.pipelines: dict[str, Pipeline] = {}
        self.alignment = None
        self.open = True
        self.flow_control = SimpleNamespace(is_active=lambda: self.open)
        self.consumer = SimpleNamespace(
            block_start={HERE: 0},
            records_end={},
            finish=self.finished_append,
            finish_part=lambda _, offset: self.finished.append(offset),
            abandon=lambda token: None,
        )
        self.finished: list[int] = []

    def pass_on(self, destination: Any) -> None:
        return None

    def begin_early(self, outputs: Any) -> None:
        BlockApp.begin_early(self, outputs)  # type: ignore[arg-type]

    def finished_append(self, token: Any) -> None:
        self.finished.append(token.offset)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def halt(where: str, error: BaseException) -> None:
        raise Halted(where, error)

    monkeypatch.setattr(pipeline_module, "halt", halt)
    yield App()


class Stateless:
    """A handler without rows."""

    def compute(self, partition: int, records: Any, state: Any) -> Computed:
        return Computed(len(records))


class SlowNeighbour:
    """Another worker's partition has something to do, and nobody knows how far it is."""

    async def read_progress(self, tps: Any) -> Any:
        return {tp: PartitionProgress(0, 9, OffsetMetadata()) for tp in tps}

    async def commit(self, notes: Any) -> None:
        pass


def pipeline(app: Any, **options: Any) -> Pipeline:
    """A pipeline without a table whose outputs are durable when `gate` is set."""
    gate = options.pop("gate", None)
    handler = options.pop("handler", None) or Stateless()

    async def deliver(partition: int, outputs: Any) -> Any:
        async def durable() -> None:
            if gate is not None:
                await gate.wait()

        return asyncio.ensure_future(durable())

    options = {"depth": 2, "block_records": 1, "batch_bytes": 10_000, "deliver": deliver, **options}
    return Pipeline(app, SimpleNamespace(topics=["s"]), handler, **options)  # type: ignore[arg-type]


async def opened(app: Any, **options: Any) -> Pipeline:
    """The same with its partition assigned."""
    made = pipeline(app, **options)
    await made.open(0)
    return made


def event(first: int, last: int, generation: int = 1) -> Any:
    message = SimpleNamespace(
        tp=HERE,
        partition=0,
        offset=last,
        generation_id=generation,
        value=Chunk(block(first, last).records, first, last + 1),
    )
    return SimpleNamespace(message=message)


def large(offset: int) -> Any:
    """A fetched record of a megabyte."""
    made = event(offset, offset)
    made.message.value = Chunk([Numbered(offset, 0, 1_000_000)], offset, offset + 1)
    return made


async def test_large_records_are_bounded_in_bytes_while_the_sink_is_closed(app: Any) -> None:
    gate = asyncio.Event()
    made = await opened(app, gate=gate, block_records=1_000, waiting_bytes=5_000_000)
    take = made.taker(0)
    assert take is not None
    offset = 0
    while HERE not in made.congested():
        assert offset < 10, "records are counted, not bytes"
        await made.process(large(offset))
        offset += 1
    assert 5_000_000 <= made.budget.used < 7_000_000
    used = made.budget.used
    take([ForwardedRecord(offset, 0, None, b"x" * 1_000_000, [])])  # it will be fetched
    assert (made.taker(0), made.budget.used) == (None, used)
    for _ in range(50):
        await asyncio.sleep(0)
    assert made.partitions[0].in_flight < 4
    gate.set()
    await until(lambda: made.has(0, offset) and not made.busy, 2_000)
    assert (made.congested(), made.budget.used, made.records_done) == (set(), 0, offset)
    made.reset()


async def test_a_congested_partition_is_fetched_again_when_it_has_room(app: Any) -> None:
    gate = asyncio.Event()
    made = await opened(app, gate=gate)
    for offset in range(8):
        await made.process(event(offset, offset))
    await until(lambda: made.partitions[0].in_flight == 2)
    assert made.congested() == {HERE}
    gate.set()
    await until(lambda: len(app.finished) == 8)
    assert made.congested() == set()
    made.reset()


async def test_all_blocks_that_were_joined_are_acknowledged(app: Any) -> None:
    gate = asyncio.Event()
    made = await opened(app, gate=gate, depth=1, block_records=10)
    await made.process(event(0, 0))
    await until(lambda: made.partitions[0].in_flight == 1)
    for offset in (1, 2, 3):
        await made.process(event(offset, offset))
    assert (made.partitions[0].waiting, made.congested()) == (3, set())
    gate.set()
    await until(lambda: len(app.finished) == 4)
    assert (app.finished, made.records_done) == ([0, 1, 2, 3], 4)
    made.reset()


class TestPassedBlocks:
    """What another stage of this worker has sent to a partition of ours."""

    async def test_they_are_acknowledged_and_not_fetched(self, app: Any) -> None:
        made = pipeline(app)
        assert made.taker(0) is None, "where it starts is known when it is assigned"
        await made.open(0)
        take = made.taker(0)
        assert take is not None
        take([ForwardedRecord(offset, 0, None, b"", []) for offset in (0, 1, 2)])
        assert (made.has(0, 3), made.has(1, 3)) == (False, False)
        await until(lambda: made.has(0, 3))
        assert made.busy or app.finished
        await until(lambda: app.finished == [2])
        assert not made.busy
        made.reset()

    async def test_those_of_another_generation_are_not_taken(self, app: Any) -> None:
        made = await opened(app)
        await made.process(event(0, 0))
        take = made.taker(0)
        assert take is not None
        app.consumer_generation_id = 2
        take([ForwardedRecord(1, 0, None, b"", [])])
        assert made.partitions[0].waiting <= 1
        await until(lambda: made.partitions[0].waiting == 0)
        assert not made.has(0, 2)
        made.reset()

    async def test_behind_a_backlog_and_in_step_they_are_fetched(self, app: Any) -> None:
        gate = asyncio.Event()
        made = await opened(app, gate=gate)
        for offset in range(5):
            await made.process(event(offset, offset))
        await until(lambda: made.partitions[0].in_flight == 2)
        assert made.taker(0) is None
        gate.set()
        await until(lambda: made.taker(0) is not None)
        app.alignment = EventTimeAlignment([HERE], 10, SlowNeighbour())
        assert made.taker(0) is None
        app.alignment = None
        made.reset()


async def test_a_run_of_repeated_blocks_leaves_no_congestion(app: Any) -> None:
    made = await opened(app)
    await made.process(event(0, 9))
    await until(lambda: app.finished)
    for _ in range(9):
        await made.process(event(0, 9))
    assert made.congested() == {HERE}
    await until(lambda: not made.congested())
    made.reset()


async def test_a_revocation_leaves_no_congestion(app: Any) -> None:
    made = await opened(app, gate=asyncio.Event())
    for offset in range(8):
        await made.process(event(offset, offset))
    assert made.congested() == {HERE}
    made.reset()
    assert made.congested() == set()
    assert made.partitions == {}


async def test_a_partition_that_is_held_back_is_not_fetched(app: Any) -> None:
    class Held(Stateless):
        def compute(self, partition: int, records: Any, state: Any, until_ms: float = 0) -> Any:
            return Computed(taken=0, next_ms=5) if until_ms < 5 else super().compute(0, records, 0)

    app.alignment = EventTimeAlignment([HERE, TP("s", 1)], 10, SlowNeighbour())
    made = pipeline(app, handler=Held())
    await made.open(0)
    await made.process(event(0, 3))
    await until(lambda: made.partitions[0].held)
    assert made.congested() == {HERE}
    assert made.awaits(0, 0) is None  # not lost
    made.give_up_held()
    assert made.congested() == set()
    made.reset()
    assert app.finished == []


async def test_a_partition_given_up_while_it_starts_is_not_opened(app: Any) -> None:
    gate = asyncio.Event()

    async def on_start(partition: int, start: int) -> None:
        await gate.wait()

    made = pipeline(app, on_start=on_start)
    opening = made.open(0)
    await asyncio.sleep(0)
    made.reset()
    gate.set()
    await opening
    assert made.partitions == {}


async def test_a_partition_given_up_before_it_starts_is_not_started(app: Any) -> None:
    started: list[int] = []

    async def on_start(partition: int, start: int) -> None:
        started.append(partition)

    made = pipeline(app, on_start=on_start)
    opening = made.open(0)
    app.consumer_generation_id += 1
    await opening
    assert (started, made.partitions) == ([], {})


async def test_what_a_start_writes_is_there_before_anything_comes(app: Any) -> None:
    started: list[tuple[int, int]] = []

    async def on_start(partition: int, start: int) -> None:
        started.append((partition, start))

    app.consumer.block_start[HERE] = 7
    made = await opened(app, on_start=on_start)
    assert (started, made.partitions[0].next_offset) == ([(0, 7)], 7)
    await made.process(event(7, 9))
    await until(lambda: app.finished == [9])
    assert started == [(0, 7)]
    made.reset()


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_start_that_fails_halts_unless_the_partition_was_given_up(
    app: Any, given_up: bool
) -> None:
    async def on_start(partition: int, start: int) -> None:
        if given_up:
            made.reset()
        raise StateError("does not fit")

    made = pipeline(app, on_start=on_start)
    if given_up:
        await made.open(0)
        assert made.partitions == {}
    else:
        with pytest.raises(Halted, match="does not fit"):
            await made.open(0)


@pytest.mark.parametrize("given_up", [False, True])
async def test_a_start_that_kafka_does_not_answer_is_made_again(
    app: Any, given_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "_START_RETRY_SECONDS", 0.0)
    starts: list[int] = []

    async def on_start(partition: int, start: int) -> None:
        starts.append(start)
        if len(starts) < 3:
            raise KafkaTimeoutError("nothing within 20 s")
        if given_up:
            made.reset()
            raise KafkaTimeoutError("nothing within 20 s")

    made = pipeline(app, on_start=on_start)
    await made.open(0)
    assert starts == [0, 0, 0]
    assert given_up == (made.partitions == {})
    made.reset()


async def test_a_block_of_a_partition_that_is_not_open_is_given_up(app: Any) -> None:
    abandoned: list[int] = []
    app.consumer.abandon = lambda token: abandoned.append(token.offset)
    made = pipeline(app)
    await made.process(event(0, 3))
    assert (abandoned, made.partitions) == ([3], {})


@pytest.mark.parametrize("stale", ["generation", "flow"])
async def test_a_stale_block_is_given_up(app: Any, stale: str) -> None:
    abandoned: list[int] = []
    app.consumer.abandon = lambda token: abandoned.append(token.offset)
    made = await opened(app)
    app.open = stale != "flow"
    await made.process(event(0, 3, generation=0 if stale == "generation" else 1))
    await until(lambda: abandoned == [3])
    assert made.partitions[0].next_offset == 0
    made.reset()


async def test_an_error_halts(app: Any) -> None:
    made = await opened(app)

    async def deliver(partition: int, outputs: Any) -> Any:
        raise OSError("away")

    made._deliver = deliver
    await made.process(event(0, 3))
    with pytest.raises(Halted, match="away"):
        await made._tasks[0]


async def test_a_task_that_goes_with_its_loop_halts_nothing(app: Any) -> None:
    made = await opened(app)

    async def run() -> None:
        await asyncio.get_running_loop().create_future()

    partition: Any = SimpleNamespace(run=run, closed=False, number=0, done_offset=0)
    running = made._run(partition)
    running.send(None)
    running.close()  # as when the loop was closed before the task ended


class TestLostBlocks:
    async def test_what_a_partition_awaits(self, app: Any) -> None:
        gate = asyncio.Event()
        made = pipeline(app, gate=gate)
        assert made.awaits(0, start=7) == 7
        await made.open(0)
        assert made.awaits(0, start=7) == 0
        await made.process(event(0, 3))
        assert made.awaits(0, start=0) is None
        await until(lambda: made.partitions[0].in_flight)
        assert made.awaits(0, start=0) is None
        gate.set()
        await until(lambda: app.finished)
        assert made.awaits(0, start=0) == 4
        made.reset()

    def consumer(self, app: Any, position: int) -> Any:
        """A BlockConsumer without Faust's constructor."""
        found: Any = object.__new__(BlockConsumer)
        vars(found).update(
            app=app,
            block_start={HERE: 0},
            _look_at=0.0,
            _overdue={},
            sought=[],
            flow_active=True,
            unstable=lambda tp: None,
        )

        async def at(tp: TP) -> int:
            return position

        async def seek(tp: TP, offset: int) -> None:
            found.sought.append(offset)

        found.position, found.seek = at, seek
        found._get_active_partitions = lambda: {HERE}
        return found

    async def test_a_block_of_which_nothing_came_is_fetched_again(self, app: Any) -> None:
        pipeline(app)
        consumer = self.consumer(app, position=5)
        for _ in range(5):
            consumer._look_at = 0.0
            await consumer._look_for_lost_blocks()
        assert consumer.sought == [0] * 4  # the first time, it may still be on its way

    async def test_looking_is_not_done_with_every_fetch(self, app: Any) -> None:
        pipeline(app)
        consumer = self.consumer(app, position=5)
        for _ in range(10):
            await consumer._look_for_lost_blocks()
        assert consumer.sought == []

    async def test_nothing_is_missing_at_the_position(self, app: Any) -> None:
        pipeline(app)
        consumer = self.consumer(app, position=0)
        for _ in range(5):
            consumer._look_at = 0.0
            await consumer._look_for_lost_blocks()
        assert consumer.sought == []


def test_read_offsets_of_sources_are_never_known() -> None:
    offsets = _ReadOffsets({"s"})
    offsets[HERE] = offsets[TP("other", 0)] = 5
    assert offsets[HERE] is None
    assert offsets[TP("other", 0)] == 5


def test_the_highest_acknowledged_block_is_committed() -> None:
    consumer: Any = object.__new__(BlockConsumer)
    vars(consumer).update(app=SimpleNamespace(block_topics={"s"}), _acked={HERE: [4, 9, 7]})
    assert consumer._new_offset(HERE) == 10
    assert consumer._new_offset(HERE) is None


class TestSeeking:
    """A fetch position belongs to the thread that fetches: it may be taking records of the same partition."""

    @pytest.fixture
    async def thread(self) -> AsyncIterator[Any]:
        """A thread that fetches nothing: only what is asked of it runs there."""
        made: Any = _IdleThread(SimpleNamespace(transport=SimpleNamespace(app=None)))
        await made.start()
        yield made
        await made.stop()

    async def test_a_position_is_moved_in_the_thread_that_fetches(self, thread: Any) -> None:
        consumer: Any = object.__new__(BlockConsumer)
        vars(consumer).update(_thread=thread, _read_offset={}, log=SimpleNamespace(dev=print))
        await consumer.seek(HERE, 7)
        [(tp, offset, ident)] = thread._consumer.sought
        assert (tp, offset) == (HERE, 7)
        assert ident != threading.get_ident()

    async def test_a_partition_that_was_revoked_meanwhile_is_left_alone(self, thread: Any) -> None:
        await thread.seek_there(TP("s", 9), 7)
        assert thread._consumer.sought == []


class _IdleThread(BlockConsumerThread):
    def __post_init__(self) -> None:
        pass

    async def on_start(self) -> None:
        self._consumer = _SoughtConsumer()

    async def on_thread_stop(self) -> None:
        pass


class _SoughtConsumer:
    """Remembers in which thread a position was moved."""

    def __init__(self) -> None:
        self.sought: list[tuple[TP, int, int]] = []

    def seek(self, tp: TP, offset: int) -> None:
        if tp != HERE:
            raise IllegalStateError(f"No current assignment for partition {tp}")
        self.sought.append((tp, offset, threading.get_ident()))


async def test_a_seek_forgets_what_is_no_longer_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Revoked while it sought: such a start would keep the worker from ever being ready again."""
    kept, given_up = TP("s", 0), TP("s", 1)
    assigned = {kept, given_up}
    consumer: Any = object.__new__(BlockConsumer)

    async def committed(tps: list[TP]) -> dict[TP, CommittedOffset]:
        assigned.discard(given_up)
        return {tp: CommittedOffset(5, 5) for tp in tps}

    async def no_seek(self: Any) -> None:
        return None

    monkeypatch.setattr(BlockConsumer.__mro__[1], "perform_seek", no_seek)
    vars(consumer).update(
        app=SimpleNamespace(block_sources={"s"}),
        assignment=lambda: set(assigned),
        _thread=SimpleNamespace(committed=committed),
        _committed_offset={kept: 5, given_up: 7},
        block_start={},
        records_end={},
    )
    await consumer.perform_seek()
    assert consumer.block_start == {kept: 5}
    assigned.clear()
    assigned.add(given_up)
    await consumer.perform_seek()
    assert consumer.block_start == {}


class TestHandingOver:
    """What a fetch brings goes to the agents at once, all of it."""

    def consumer(self, app: Any, fetched: dict[TP, Chunk]) -> Any:
        """A BlockConsumer without Faust's constructor, which has fetched something."""
        found: Any = object.__new__(BlockConsumer)
        handed: list[tuple[str, int]] = []

        async def callback(message: Any) -> None:
            handed.append((message.topic, message.offset))

        async def next_records(timeout: float) -> Any:
            return fetched, set(fetched)

        vars(found).update(
            app=app, callback=callback, handed=handed, flow_active=True, _look_at=math.inf,
            _wait_next_records=next_records, _stopped=asyncio.Event(), _shutdown=asyncio.Event(),
            _crashed=asyncio.Event(), _buffered_partitions=set(), highwater=lambda tp: 0,
        )  # fmt: skip
        app.monitor = SimpleNamespace(
            track_tp_end_offset=lambda *given: None, stream_inbound_time={}
        )
        app.block_topics, app.block_sources = {"s", "changelog"}, {"s"}
        return found

    def fetched(self) -> dict[TP, Chunk]:
        return {
            tp: Chunk([
                SimpleNamespace(
                    topic=tp.topic, partition=tp.partition, offset=offset, timestamp=0, timestamp_type=0,
                    serialized_key_size=0, serialized_value_size=0,
                )
                for offset in range(3)
            ], 0, 3)
            for tp in (HERE, TP("s", 1), TP("changelog", 0))
        }  # fmt: skip

    async def test_no_round_of_the_loop_passes_between_two_blocks(self, app: Any) -> None:
        consumer = self.consumer(app, self.fetched())
        rounds = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(rounds.set_result, None)
        left = [(tp.topic, message.offset) async for tp, message in consumer.getmany(1.0)]
        assert not rounds.done()
        assert consumer.handed == [("s", 2), ("s", 2)]
        assert left == [("changelog", 2)]  # recovery keeps count of what Faust's loop has read

    async def test_while_flow_is_stopped_it_takes_the_way_that_can_be_given_up(
        self, app: Any
    ) -> None:
        consumer = self.consumer(app, self.fetched())
        app.open = False
        left = [tp.topic async for tp, _ in consumer.getmany(1.0)]
        assert (consumer.handed, left) == ([], ["s", "s", "changelog"])

    @pytest.mark.parametrize("alone", [True, False])
    async def test_what_was_passed_on_is_dropped_and_rests_where_nobody_else_writes(
        self, app: Any, alone: bool
    ) -> None:
        made = await opened(app)
        await made.process(event(0, 2))
        await until(lambda: made.has(0, 3))
        consumer = self.consumer(app, self.fetched())
        consumer._alone = alone
        consumer.resting = FetchBackoff(lambda: 0.0, consumer._lacks)
        assert [tp.topic async for tp, _ in consumer.getmany(1.0)] == ["changelog"]
        assert consumer.handed == [("s", 2)], "of the partition that has computed nothing"
        assert list(app.monitor.stream_inbound_time) == [HERE], "Faust would call it idle"
        assert [tp in consumer.resting for tp in (HERE, TP("s", 1))] == [alone, False]
        made.partitions[0].offer_passed(block(5, 6))
        assert HERE not in consumer.resting, "it waits for what comes before"
        made.reset()

    async def test_the_fetch_position_moves_past_what_was_passed_on(self, app: Any) -> None:
        made = await opened(app)
        await made.process(event(0, 2))
        await until(lambda: made.has(0, 3))
        consumer = self.consumer(app, {})
        state = TopicPartitionState(None)
        state.seek(1)
        assignment: Any = SimpleNamespace(state_value={HERE: state}.get)
        subscription = SimpleNamespace(assignment=assignment)
        fetcher = SimpleNamespace(
            _records={}, _subscriptions=SimpleNamespace(subscription=subscription)
        )
        consumer._thread = SimpleNamespace(_consumer=SimpleNamespace(_fetcher=fetcher))
        assert not consumer._advance(TP("s", 1)), "it is not ours"
        fetcher._records = {HERE: "a chunk that nobody has taken"}
        assert not consumer._advance(HERE)
        fetcher._records = {}
        assert consumer._advance(HERE)
        assert state.position == 3
        assert not consumer._advance(HERE), "nothing more has come"
        subscription.assignment = None
        assert not consumer._advance(HERE), "between two assignments"
        made.reset()

    async def test_a_revocation_waits_for_blocks_that_were_passed_on(
        self, app: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def no_message_waits(_: Any) -> None:
            app.finished.append(-1)

        monkeypatch.setattr(BlockConsumer.__mro__[1], "wait_empty", no_message_waits)
        gate = asyncio.Event()
        made = await opened(app, gate=gate)
        await made.process(event(0, 0))
        await until(lambda: made.busy)
        waiting = asyncio.create_task(self.consumer(app, {})._emptied())
        await asyncio.sleep(0.05)
        assert app.finished == []
        gate.set()
        await asyncio.wait_for(waiting, 5)
        assert app.finished == [0, -1]
        made.reset()


def test_a_second_pipeline_of_a_topic_is_refused(app: Any) -> None:
    first = pipeline(app)
    with pytest.raises(ValueError, match="the topic s has a pipeline already"):
        pipeline(app)
    assert app.pipelines == {"s": first}


class TestEarly:
    """What is delivered before its record is durable."""

    def start(
        self, app: Any, *, ready: bool = True
    ) -> tuple[Pipeline, EarlyDelivery, list[asyncio.Future[None]], list[Any]]:
        begun: list[Any] = []
        values: list[Any] = []

        def deliver(some: Any) -> Any:
            if not ready:
                return None
            values.append(some)
            begun.append(asyncio.get_running_loop().create_future())
            return begun[-1]

        early = EarlyDelivery(deliver)
        return pipeline(app, early=early, waiting_bytes=100), early, begun, values

    async def test_it_begins_once_for_all_partitions_that_are_here(self, app: Any) -> None:
        made, early, begun, values = self.start(app)
        outputs = {("s", 0): [(None, b"a", [])], ("s", 1): [(None, b"b", [])], ("t", 0): []}
        app.begin_early(outputs)
        assert not begun, "no partition is here"
        await made.open(0)
        app.begin_early(outputs)
        assert values == [[b"a"]]
        assert [early.take(value) for value in (b"a", b"b", b"a")] == [begun[0], None, None]
        made.reset()

    async def test_it_counts_for_the_memory_until_it_is_over(self, app: Any) -> None:
        made, early, begun, _ = self.start(app)
        await made.open(0)
        app.begin_early({("s", 0): [(None, b"a" * 100, [])]})
        assert made.budget.exceeded
        app.begin_early({("s", 0): [(None, b"b", [])]})
        assert early.take(b"b") is None, "there is no room"
        begun[0].set_exception(OSError("whoever takes it has it, too"))
        await until(lambda: not made.budget.used)
        taken = early.take(b"a" * 100)
        assert taken is not None
        with pytest.raises(OSError, match="whoever"):
            await taken
        made.reset()

    async def test_it_does_not_begin_where_it_cannot(self, app: Any) -> None:
        made, early, begun, _ = self.start(app, ready=False)
        await made.open(0)
        app.begin_early({("s", 0): [(None, b"a", [])]})
        assert (begun, early.take(b"a")) == ([], None)
        made.reset()

    async def test_it_does_not_begin_behind_a_backlog_that_is_on_the_log(self, app: Any) -> None:
        made, early, begun, _ = self.start(app)
        await made.open(0)
        forwarded = [ForwardedRecord(1_000, 0, None, b"before", ())]
        made.partitions[0].offer_passed(Block(forwarded, (), size=1))
        app.begin_early({("s", 0): [(None, b"a", [])]})
        assert (begun, early.take(b"a")) == ([], None)
        made.reset()

    async def test_it_does_not_begin_while_an_earlier_record_does_not_come(
        self, app: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.blocks.faust.early_delivery._MOST_SECONDS", 0.0)
        made, early, begun, _ = self.start(app)
        await made.open(0)
        app.begin_early({("s", 0): [(None, b"a", [])]})
        await asyncio.sleep(0.01)
        app.begin_early({("s", 0): [(None, b"b", [])]})
        assert len(begun) == 1
        assert early.take(b"a") is begun[0]
        app.begin_early({("s", 0): [(None, b"c", [])]})
        assert early.take(b"c") is begun[1]
        made.reset()

    async def test_what_is_remembered_has_a_bound(
        self, app: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.blocks.faust.early_delivery._MOST_BYTES", 10)
        made, early, begun, _ = self.start(app)
        await made.open(0)
        for value in (b"a" * 6, b"b" * 4, b"b" * 4, b"c"):
            app.begin_early({("s", 0): [(None, value, [])]})
        taken = [early.take(value) for value in (b"a" * 6, b"b" * 4, b"c")]
        assert taken == [None, begun[2], begun[3]]
        assert early._bytes == 0
        made.reset()

    async def test_it_is_given_up_with_its_partitions(self, app: Any) -> None:
        made, early, begun, _ = self.start(app)
        await made.open(0)
        app.begin_early({("s", 0): [(None, b"a", [])]})
        made.reset()
        assert early.take(b"a") is None
        await asyncio.sleep(0)
        assert begun[0].cancelled()

    async def test_a_block_is_acknowledged_once_both_parts_are_durable(self, app: Any) -> None:
        made = await opened(app)
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent = asyncio.ensure_future(await made.send(0, Begun([first], 3)))
        await asyncio.sleep(0.01)
        assert not sent.done()
        first.set_result(None)
        await sent
        made.reset()
