"""Partitions share the work of a event_loop_turns, never the fate: none waits for another, whatever keeps that one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from app.blocks.core import event_loop_turns as pulse_module
from app.blocks.core.event_loop_turns import Pulse, compute_together
from app.blocks.core.interfaces import Work, all_of
from app.blocks.core.partition import Computed, Partition
from app.errors import ForeignWriterError
from tests.fakes import Counter, Effects, Rows, block, covering, until


class Joint:
    """Each partition's own handler, called for all partitions at once.

    Attributes:
        calls: the partitions of each call.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        self.handlers = list(handlers)
        self.calls: list[list[int]] = []

    def compute(self, partition: int, *rest: Any) -> Computed:
        self.calls.append([partition])
        computed: Computed = self.handlers[partition].compute(partition, *rest)
        return computed

    def compute_many(self, works: Sequence[Work]) -> list[Computed]:
        self.calls.append([work.partition for work in works])
        broken = [one for one in self.handlers if isinstance(one, Broken)]
        if broken:
            raise ValueError("of whom is not said")
        return [self.handlers[work.partition].compute(*work[:3]) for work in works]


class Broken:
    def compute(self, *_: Any) -> Computed:
        raise ValueError("cannot be explained")


class Stage:
    """Two partitions with a pulse that they share, each with effects of its own; `log` has those of both."""

    def __init__(self, **options: Any) -> None:
        options = {"depth": 3, "joined_records": 1, "batch_bytes": 10_000, **options}
        self.ports = [Effects(), Effects()]
        self.handlers = [Counter(), Counter()]
        self.joint = Joint(self.handlers)
        self.pulse = Pulse(self.joint)
        gates = options.pop("gates", (None, None))
        self.partitions = [
            Partition(
                number, ports, self.joint, start=0, changelog_next=0, pulse=self.pulse, gate=gate,
                **options,
            )
            for number, (ports, gate) in enumerate(zip(self.ports, gates, strict=True))
        ]  # fmt: skip
        self.log = self.ports[1].log = self.ports[0].log
        self.tasks = [asyncio.create_task(partition.run()) for partition in self.partitions]

    def offer(self, number: int, *blocks: tuple[int, int]) -> None:
        for first, last in blocks:
            self.partitions[number].offer(block(first, last))

    async def done(self, number: int, offset: int) -> None:
        await until(lambda: self.partitions[number].done_offset == offset)

    def effects(self) -> list[str]:
        return [name for name, _ in self.log]


@pytest.fixture
async def stages() -> AsyncIterator[Any]:
    made: list[Stage] = []

    def stage(**options: Any) -> Stage:
        made.append(Stage(**options))
        return made[-1]

    yield stage
    for one in made:
        for task in one.tasks:
            task.cancel()
        await asyncio.gather(*one.tasks, return_exceptions=True)


async def test_what_is_here_for_several_is_computed_sent_and_appended_together(stages: Any) -> None:
    stage = stages()
    stage.offer(0, (0, 4))
    stage.offer(1, (0, 2))
    await stage.done(0, 5)
    await stage.done(1, 3)
    assert stage.joint.calls == [[0, 1]]
    together = ["sent", "durable", "append"]
    assert stage.effects()[:6] == [name for name in together for _ in (0, 1)]


@pytest.mark.parametrize("effect", ["hand over", "durable", "append"])
async def test_one_whose_broker_is_slow_delays_no_other(stages: Any, effect: str) -> None:
    stage = stages()
    gate = stage.ports[0].gates[effect] = asyncio.Event()
    stage.offer(0, (0, 0), (1, 1))
    stage.offer(1, (0, 0))
    await stage.done(1, 1)
    stage.offer(1, (1, 5))
    await stage.done(1, 6)
    assert stage.partitions[0].done_offset == 0
    gate.set()
    await stage.done(0, 2)


class Closed:
    """A gate that lets nothing through."""

    until_ms = float("inf")

    def hold(self) -> None: ...

    def started(self) -> None: ...

    def finished(self, newest_ms: int | None) -> None: ...

    def stalled(self) -> None: ...


async def test_one_that_is_paused_for_alignment_delays_no_other(stages: Any) -> None:
    gate = Closed()
    stage = stages(gates=(gate, None))
    held = stage.partitions[0]
    held.held_ms, gate.until_ms = 7, 0.0
    stage.offer(0, (0, 0))
    stage.offer(1, (0, 3))
    await stage.done(1, 4)
    assert (held.held, held.done_offset, held.waiting) == (True, 0, 1)


async def test_one_that_is_revoked_takes_nothing_from_others(stages: Any) -> None:
    stage = stages()
    gate = stage.ports[0].gates["append"] = asyncio.Event()
    stage.offer(0, (0, 0))
    stage.offer(1, (0, 0))
    await until(lambda: len(stage.ports[0].of("append")) >= 1)
    stage.partitions[0].close()
    gate.set()
    stage.offer(1, (1, 3))
    await stage.done(1, 4)
    await stage.tasks[0]
    assert stage.partitions[0].done_offset == 0


async def test_one_that_is_revoked_while_it_waits_for_its_pulse_is_not_computed(
    stages: Any,
) -> None:
    stage = stages()
    await asyncio.sleep(0)
    stage.offer(0, (0, 0))
    stage.offer(1, (0, 3))
    stage.partitions[0].close()
    await stage.done(1, 4)
    assert stage.joint.calls == [[1]]


async def test_one_that_waits_for_what_it_needs_delays_no_other(stages: Any) -> None:
    stage = stages()
    stage.ports[0].gates["obtain"] = asyncio.Event()
    stage.partitions[0].needs = "a schema"
    stage.offer(0, (0, 0))
    stage.offer(1, (0, 3))
    await stage.done(1, 4)
    assert stage.partitions[0].done_offset == 0


async def test_a_record_that_halts_one_leaves_the_others_what_they_have_done(stages: Any) -> None:
    stage = stages()
    stage.joint.handlers[0] = Broken()
    stage.offer(0, (0, 0))
    stage.offer(1, (0, 3))
    await stage.done(1, 4)
    with pytest.raises(ValueError, match="cannot be explained"):
        await stage.tasks[0]
    assert stage.joint.calls == [[0, 1], [0], [1]]


async def test_a_foreign_writer_of_one_ends_that_one(stages: Any) -> None:
    stage = stages()
    stage.ports[0].changelog_end = 9
    stage.offer(0, (0, 0))
    stage.offer(1, (0, 3))
    await stage.done(1, 4)
    with pytest.raises(ForeignWriterError):
        await stage.tasks[0]


class PanicError(BaseException):
    """As RocksDB's bindings raise it."""


async def test_a_panic_of_the_store_ends_its_partition_before_anything_is_acknowledged(
    stages: Any,
) -> None:
    def panic(*_: Any) -> None:
        raise PanicError

    stage = stages()
    stage.ports[0].store = panic
    stage.offer(0, (0, 0), (1, 1))
    stage.offer(1, (0, 3))
    await stage.done(1, 4)
    with pytest.raises(PanicError):
        await stage.tasks[0]
    stage.offer(0, (2, 2))
    for _ in range(10):
        await asyncio.sleep(0)
    assert stage.partitions[0].done_offset == 0


@pytest.mark.parametrize("error", [PanicError, StopIteration], ids=["panic", "StopIteration"])
async def test_whatever_a_handler_raises_ends_its_partition_only(
    stages: Any, error: type[BaseException]
) -> None:
    def compute(*_: Any) -> Any:
        raise error

    stage = stages()
    stage.joint.handlers[0].compute = compute
    stage.offer(0, (0, 0))
    stage.offer(1, (0, 3))
    await stage.done(1, 4)
    with pytest.raises((PanicError, RuntimeError)):
        await stage.tasks[0]


async def test_an_error_of_the_pulse_itself_ends_all_that_it_has_begun(
    stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse_module, "compute_together", lambda *_: [])
    stage = stages()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    stage.offer(0, (0, 0))
    stage.offer(1, (0, 3))
    for task in stage.tasks:
        with pytest.raises(ValueError, match="zip"):
            await task


async def test_rows_of_a_revoked_partition_are_not_appended_later(stages: Any) -> None:
    stage = stages()
    gate = stage.ports[0].gates["append"] = asyncio.Event()
    stage.offer(0, (0, 0))
    await until(lambda: stage.ports[0].of("append"))
    stage.partitions[0].close()
    gate.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert stage.ports[0].changelog_end == 0


async def test_nothing_follows_outputs_whose_hand_over_was_cancelled(stages: Any) -> None:
    stage = stages()
    stage.ports[0].failing["hand over"] = asyncio.CancelledError()
    stage.offer(0, (0, 0), (1, 1))
    stage.offer(1, (0, 3))
    await stage.done(1, 4)
    with pytest.raises(RuntimeError, match="cancelled"):
        await stage.tasks[0]
    assert [what for what in stage.ports[0].of("sent") if what == (1, 1)] == []


async def test_a_pulse_is_bounded_in_bytes(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module, "_BYTES", 100)
    stage = stages()
    await asyncio.sleep(0)
    for number in (0, 1):
        stage.partitions[number].offer(covering(0, 1, 0, size=100))
    await stage.done(0, 1)
    await stage.done(1, 1)
    assert stage.joint.calls == [[0], [1]]


async def test_a_pulse_leaves_the_loop_a_turn(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module, "_RECORDS", 1)
    stage = stages()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stage.offer(0, (0, 0), (1, 1))
    stage.offer(1, (0, 0), (1, 1))
    await stage.done(0, 2)
    await stage.done(1, 2)
    assert stage.joint.calls == [[0], [1], [0], [1]]


async def test_no_pulse_is_scheduled_while_there_is_nothing_to_do(stages: Any) -> None:
    stage = stages()
    stage.offer(0, (0, 0))
    await stage.done(0, 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (stage.pulse._scheduled, stage.pulse._awake) == (False, {})


def test_a_handler_that_computes_one_by_one_is_given_one_after_the_other() -> None:
    counter = Counter()
    works = [Work(number, block(0, number).records, Rows()) for number in (0, 1)]
    assert [type(one) for one in compute_together(counter, works)] == [Computed, Computed]
    assert counter.computed == [(0, 0), (0, 1)]


class TestAllOf:
    async def test_all_of_none_are_done(self) -> None:
        assert all_of(()).done()

    async def test_it_resolves_with_the_last(self) -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        whole = all_of([first, second])
        second.set_result(2)
        await asyncio.sleep(0)
        assert not whole.done()
        first.set_result(1)
        assert await whole is None

    async def test_the_first_error_counts(self) -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        whole = all_of([first, second])
        second.set_exception(OSError("away"))
        with pytest.raises(OSError, match="away"):
            await whole
        first.set_exception(OSError("too"))

    async def test_cancelled_it_leaves_its_parts(self) -> None:
        part = asyncio.get_running_loop().create_future()
        whole = all_of([part])
        whole.cancel()
        await asyncio.sleep(0)
        assert not part.done()
        part.set_result(None)

    async def test_a_part_that_is_cancelled_cancels_it(self) -> None:
        part = asyncio.get_running_loop().create_future()
        whole = all_of([part])
        part.cancel()
        await asyncio.sleep(0)
        assert whole.cancelled()
