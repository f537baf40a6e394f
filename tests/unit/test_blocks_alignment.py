"""Partitions that keep in step: the rule, and who looks when."""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from app.blocks.core.alignment import (
    EventTimeAlignment,
    PartitionGate,
    PartitionProgress,
    SlowestPartition,
    Watermark,
)
from app.blocks.core.offset_metadata import OffsetMetadata
from app.blocks.core.slowest_partition import PartitionPosition, newer, slowest_ms

ONE, TWO, THREE = ("s", 0), ("s", 1), ("s", 2)


class TestTheRule:
    @pytest.mark.parametrize(
        ("standings", "slowest"),
        [
            ([], math.inf),
            ([(5, False), (3, False)], 3),
            ([(5, False), (3, True)], 5),  # idle ones hold nobody
            ([(5, True), (None, True)], math.inf),
            ([(5, False), (None, False)], -math.inf),  # not looked at yet
            ([(5, False), (None, True)], 5),
        ],
    )
    def test_slowest(self, standings: list[tuple[int | None, bool]], slowest: float) -> None:
        assert slowest_ms(PartitionPosition(*one) for one in standings) == slowest

    def test_the_highest_of_two_facts_holds(self) -> None:
        assert [newer(*two) for two in ((None, None), (None, 3), (3, None), (3, 5), (5, 3))] == [
            None, 3, 3, 5, 5,
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "note",
        [
            OffsetMetadata(),
            OffsetMetadata(17),
            OffsetMetadata(17, 9),
            OffsetMetadata(None, 9),
            OffsetMetadata(0),
            OffsetMetadata(17, 9, True),
            OffsetMetadata(None, None, True),
        ],
    )
    def test_notes_travel(self, note: OffsetMetadata) -> None:
        assert OffsetMetadata.read(note.write(10)) == note
        assert OffsetMetadata.read(note.write(9)) == OffsetMetadata(
            note.position_ms, None, note.stalled
        )

    @pytest.mark.parametrize("text", ["", "by another client", "1.5@x", "-3"])
    def test_other_text_is_no_note(self, text: str) -> None:
        assert OffsetMetadata.read(text) == OffsetMetadata()


class Kafka:
    """What workers of one group see."""

    def __init__(self) -> None:
        self.seen: dict[Any, PartitionProgress] = {}
        self.noted: list[dict[Any, tuple[int, OffsetMetadata]]] = []
        self.looks = 0
        self.away = False
        self.pause = 0.0

    async def read_progress(self, tps: Iterable[Any]) -> Mapping[Any, PartitionProgress]:
        self.looks += 1
        if self.away:
            raise OSError("away")
        seen = {tp: self.seen[tp] for tp in tps}
        await asyncio.sleep(self.pause)
        return seen

    async def commit(self, notes: Mapping[Any, tuple[int, OffsetMetadata]]) -> None:
        self.noted.append(dict(notes))


class Group(Kafka):
    """What one worker commits, the others read."""

    async def commit(self, notes: Mapping[Any, tuple[int, OffsetMetadata]]) -> None:
        if self.away:
            raise OSError("away")
        await super().commit(notes)
        self.seen |= {
            tp: PartitionProgress(offset, self.seen[tp].end, note)
            for tp, (offset, note) in notes.items()
        }


async def until(condition: Callable[[], Any]) -> None:
    """Let time pass until a condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Here(SimpleNamespace):
    """A partition of this worker."""

    def __init__(self, alignment: EventTimeAlignment, tp: Any, **state: Any) -> None:
        idle = {
            "done_offset": 0,
            "held_ms": None,
            "woken": 0,
            "stalled": False,
            "needs": None,
            "waiting": 3,
            "in_flight": 1,
        }
        super().__init__(**{**idle, "forwarded_offset": state.get("done_offset", 0), **state})
        self.alignment = alignment
        alignment.open(tp, self)  # type: ignore[arg-type]

    @property
    def held(self) -> bool:
        return self.held_ms is not None and self.held_ms > self.alignment.until_ms

    @property
    def next_ms(self) -> int | None:
        held_ms: int | None = self.held_ms
        return held_ms

    def wake(self) -> None:
        self.woken += 1
        self.held_ms = None


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


async def test_nobody_looks_while_nobody_is_held(kafka: Kafka) -> None:
    alignment = EventTimeAlignment([ONE], 100, kafka)
    Here(alignment, ONE)
    gate = PartitionGate(alignment, ONE)
    for newest in range(0, 10_000, 10):
        gate.started()
        gate.finished(newest)
    await asyncio.sleep(0.05)
    assert (kafka.looks, kafka.noted) == (0, [])


async def test_one_partition_alone_goes_on_after_one_look(kafka: Kafka) -> None:
    alignment = EventTimeAlignment([ONE], 100, kafka)
    here = Here(alignment, ONE, held_ms=1_000)
    kafka.seen = {ONE: PartitionProgress(0, 5, OffsetMetadata())}
    alignment.hold()
    await until(lambda: here.woken)
    assert (alignment.until_ms, kafka.looks) == (1_100, 1)


async def test_the_one_ahead_waits_for_another_worker(kafka: Kafka) -> None:
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    here = Here(alignment, ONE, held_ms=1_000)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, 9, OffsetMetadata(500)),
    }
    alignment.hold()
    await until(lambda: kafka.looks > 2)
    assert (alignment.until_ms, here.woken) == (600, 0)
    whom = SlowestPartition(TWO, 500, "another worker owns it, or it has no record yet")
    assert alignment.watermark(ONE) == Watermark(None, 1_000, 500, whom)
    assert kafka.noted == [
        {ONE: (0, OffsetMetadata(1_000))}
    ]  # so that the other one is not held by us
    kafka.seen[TWO] = PartitionProgress(7, 9, OffsetMetadata(950))
    await until(lambda: here.woken)
    looks = kafka.looks
    await asyncio.sleep(0.06)
    assert kafka.looks == looks


async def test_a_look_that_had_to_wait_is_soon_followed_by_another(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.blocks.core.alignment._LOOK_REST", 1_000)
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    here = Here(alignment, ONE, held_ms=1_000)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, 9, OffsetMetadata(500)),
    }
    kafka.pause = 0.1
    alignment.hold()
    await until(lambda: kafka.looks)
    kafka.seen[TWO] = PartitionProgress(7, 9, OffsetMetadata(950))
    await until(lambda: here.woken)


async def test_an_unknown_one_is_waited_for_unless_it_has_nothing_to_do(kafka: Kafka) -> None:
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    here = Here(alignment, ONE, held_ms=1_000)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, 9, OffsetMetadata()),
    }
    alignment.hold()
    await until(lambda: kafka.looks > 1)
    assert here.woken == 0
    kafka.seen[TWO] = PartitionProgress(9, 9, OffsetMetadata())
    await until(lambda: here.woken)


async def test_one_without_a_leader_limits_others_no_more_than_by_its_position(
    kafka: Kafka,
) -> None:
    """Its end is not known. What is known of it still counts: it may have records that are older."""
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, None, OffsetMetadata(950)),
    }
    here = Here(alignment, ONE, held_ms=1_000)
    alignment.hold()
    await until(lambda: here.woken)
    here.held_ms = 1_060
    alignment.hold()
    await until(lambda: kafka.looks > 3)
    assert (alignment.until_ms, here.woken) == (1_050, 1)
    why = "Kafka does not report its end; it may have no leader"
    assert alignment.watermark(ONE).slowest == SlowestPartition(TWO, 950, why)
    kafka.seen[TWO] = PartitionProgress(9, 9, OffsetMetadata(950))
    await until(lambda: here.woken == 2)


async def test_one_that_was_at_its_end_and_lost_its_leader_holds_nobody(kafka: Kafka) -> None:
    """Nobody can add records to it."""
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(9, 9, OffsetMetadata(950)),
    }
    here = Here(alignment, ONE, held_ms=1_000)
    alignment.hold()
    await until(lambda: here.woken)
    kafka.seen[TWO] = PartitionProgress(9, None, OffsetMetadata(950))
    here.held_ms = 5_000
    alignment.hold()
    await until(lambda: here.woken == 2)
    assert alignment.until_ms == 5_100


@pytest.mark.parametrize("ours", [True, False])
async def test_one_that_has_gone_beyond_the_end_last_read_may_have_more(
    kafka: Kafka, ours: bool
) -> None:
    """Records were added after the end was read; without a leader nobody reports whether they are all."""
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    kafka.seen = {
        ONE: PartitionProgress(9, 10, OffsetMetadata()),
        TWO: PartitionProgress(9, 9, OffsetMetadata(950)),
    }
    here = Here(alignment, ONE, held_ms=1_000, done_offset=9)
    alignment.hold()
    await until(lambda: here.woken)
    here.forwarded_offset, here.held_ms = 10, 5_000
    if ours:  # the record that is held was added after the end was read
        kafka.seen[ONE] = PartitionProgress(10, None, OffsetMetadata(1_000))
    else:
        kafka.seen[ONE] = PartitionProgress(10, 11, OffsetMetadata(1_000))
        kafka.seen[TWO] = PartitionProgress(11, None, OffsetMetadata(1_950))
    alignment.hold()
    await until(lambda: kafka.looks > 2 or here.woken == 2)
    assert alignment.until_ms == (5_100 if ours else 2_050)


async def test_an_older_fact_does_not_take_back_a_newer_one(kafka: Kafka) -> None:
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, 9, OffsetMetadata(950)),
    }
    here = Here(alignment, ONE, held_ms=1_000)
    alignment.hold()
    await until(lambda: here.woken)
    kafka.seen[TWO] = PartitionProgress(
        3, 9, OffsetMetadata(10)
    )  # a new owner that has not come as far yet
    here.held_ms = 1_060
    alignment.hold()
    await asyncio.sleep(0.03)
    assert alignment.until_ms == 1_050


async def test_a_kafka_that_is_away_lets_nobody_through(kafka: Kafka) -> None:
    alignment = EventTimeAlignment([ONE], 100, kafka)
    here = Here(alignment, ONE, held_ms=1_000)
    kafka.seen, kafka.away = {ONE: PartitionProgress(0, 5, OffsetMetadata())}, True
    alignment.hold()
    await until(lambda: kafka.looks)
    assert here.woken == 0
    kafka.away = False
    await asyncio.sleep(0.6)
    assert here.woken == 1


async def test_a_slow_worker_tells_how_far_it_is(kafka: Kafka) -> None:
    """Once a part of the skew, not for each block: others may wait for it."""
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    Here(alignment, ONE, done_offset=7)
    for newest in (1_000, 1_001, 1_002):
        alignment.finished(ONE, newest)
        await asyncio.sleep(0.01)
    assert kafka.noted == [{ONE: (7, OffsetMetadata(1_000))}]
    alignment.finished(ONE, 1_030)
    await asyncio.sleep(0.15)
    assert kafka.noted[1:] == [{ONE: (7, OffsetMetadata(1_030))}]


async def test_nobody_waits_for_one_that_waits_for_a_server(kafka: Kafka) -> None:
    """Here or at another worker; and it is waited for again when the server is back."""
    alignment = EventTimeAlignment([ONE, TWO, THREE], 100, kafka)
    here = Here(alignment, ONE, held_ms=1_000)
    labels = Here(alignment, THREE, stalled=True, done_offset=3, forwarded_offset=7)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, 9, OffsetMetadata(10, None, True)),
        THREE: PartitionProgress(3, 9, OffsetMetadata(10)),
    }
    alignment.hold()
    await until(lambda: here.woken)
    assert alignment.metadata_of(THREE) == OffsetMetadata(10, None, True)
    assert alignment.watermark(THREE).stalled
    labels.stalled = False
    here.held_ms = 5_000
    alignment.until_ms = 0
    alignment.hold()
    await until(lambda: (whom := alignment.watermark(ONE).slowest) is not None and whom.tp == THREE)


async def test_what_is_forwarded_is_done_for_others(kafka: Kafka) -> None:
    """Labels whose rows Cassandra does not take have reached their terminals all the same."""
    alignment = EventTimeAlignment([ONE, TWO], 100, kafka)
    here = Here(alignment, ONE, held_ms=1_000)
    Here(alignment, TWO, done_offset=3, forwarded_offset=9)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, 9, OffsetMetadata(10)),
    }
    alignment.hold()
    await until(lambda: here.woken)


@pytest.fixture
def repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers repeat their positions often."""
    monkeypatch.setattr("app.blocks.core.alignment._REPEAT_SECONDS", 0.1)


@pytest.mark.usefixtures("repeats")
async def test_a_commit_that_kafka_forgets_is_made_again() -> None:
    """The partition is at the end of its log: nothing else would ever commit its offset again."""
    kafka = Group()
    one, two = (EventTimeAlignment([ONE, TWO], 100, kafka) for _ in range(2))
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, 9, OffsetMetadata(500)),
    }
    Here(two, TWO, done_offset=9)
    two.finished(TWO, 600)
    await until(lambda: kafka.seen[TWO].done == 9)
    kafka.seen[TWO] = PartitionProgress(3, 9, OffsetMetadata(500))
    here = Here(one, ONE, held_ms=1_000)
    one.hold()
    await until(lambda: here.woken)
    assert kafka.seen[TWO] == PartitionProgress(9, 9, OffsetMetadata(600))


@pytest.mark.usefixtures("repeats")
async def test_a_stall_that_could_not_be_announced_is_announced_later() -> None:
    """A stalled partition finishes nothing, so no regular commit follows."""
    kafka = Group()
    one, two = (EventTimeAlignment([ONE, TWO], 100, kafka) for _ in range(2))
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(3, 9, OffsetMetadata(500)),
    }
    labels = Here(two, TWO, done_offset=3)
    here = Here(one, ONE, held_ms=1_000)
    kafka.away = labels.stalled = True
    PartitionGate(two, TWO).stalled()
    await until(lambda: two._sharing is None)
    kafka.away = False
    one.hold()
    await until(lambda: here.woken)
    assert kafka.seen[TWO].metadata.stalled


@pytest.mark.usefixtures("repeats")
async def test_positions_are_repeated_while_partitions_are_here(kafka: Kafka) -> None:
    """Also by a worker that has all of them: what Kafka has forgotten is a lag that does not end."""
    alignment = EventTimeAlignment([ONE], 100, kafka)
    Here(alignment, ONE, done_offset=9)
    alignment.finished(ONE, 600)
    await until(lambda: len(kafka.noted) == 2)
    assert kafka.noted == 2 * [{ONE: (9, OffsetMetadata(600))}]
    alignment.close(ONE)
    await asyncio.sleep(0.25)
    assert len(kafka.noted) == 2


@pytest.mark.parametrize("others", ["never had a record", "lost all", "lost all but lack an owner"])
async def test_a_record_far_ahead_waits_for_nothing_that_is_not_there(
    kafka: Kafka, others: str
) -> None:
    """One that has lost all that it had is waited for until its owner has accounted for that, and no longer."""
    far = 4_000_000_000_000
    accounted = PartitionProgress(9, 9, OffsetMetadata(500))
    alignment = EventTimeAlignment([ONE, TWO, THREE], 100, kafka)
    kafka.seen = {
        ONE: PartitionProgress(0, 5, OffsetMetadata()),
        TWO: PartitionProgress(0, 0, OffsetMetadata()),
        THREE: {
            "never had a record": PartitionProgress(0, 0, OffsetMetadata()),
            "lost all": accounted,
            "lost all but lack an owner": PartitionProgress(3, 9, OffsetMetadata(500)),
        }[others],
    }
    here = Here(alignment, ONE, held_ms=far)
    alignment.hold()
    if others == "lost all but lack an owner":
        await until(lambda: kafka.looks > 2)
        assert not here.woken
        kafka.seen[THREE] = accounted
    await until(lambda: here.woken)
    assert alignment.until_ms == far + 100
