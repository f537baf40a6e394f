"""Notes beside committed offsets: every commit carries them, and they are read with the ends of logs."""

import asyncio
from typing import Any

import pytest
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import KafkaTimeoutError, LeaderNotAvailableError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from app.blocks.core.alignment import PartitionProgress
from app.blocks.core.offset_metadata import OffsetMetadata
from app.blocks.faust.committed_offsets import _see, carry_metadata, committed

ONE, TWO, THREE = (TopicPartition("s", number) for number in range(3))
WHERE = "app.blocks.faust.committed_offsets"


class Consumer:
    """As aiokafka's consumer of a group that has committed offsets for some partitions, with its client.

    Attributes:
        leaders: the broker that leads a partition; -1: none does. Broker 1 leads those that are not in it.
        silent: brokers that are not there.
        refreshed: how often the leaders were to be read again.
    """

    def __init__(self, committed: dict[Any, OffsetAndMetadata]) -> None:
        self.committed = committed
        self.leaders: dict[Any, int] = {}
        self.silent: set[int] = set()
        self.refreshed = 0
        self._coordinator = self._client = self._fetcher = self.cluster = self

    async def commit(self, offsets: dict[Any, OffsetAndMetadata]) -> None:
        self.committed |= offsets

    async def fetch_committed_offsets(self, tps: list[Any]) -> dict[Any, OffsetAndMetadata]:
        return {tp: at for tp, at in self.committed.items() if tp in tps}

    def leader_for_partition(self, tp: Any) -> int:
        return self.leaders.get(tp, 1)

    def force_metadata_update(self) -> None:
        self.refreshed += 1

    async def _proc_offset_requests(self, wanted: dict[Any, int]) -> dict[Any, tuple[int, None]]:
        """All or none, as there."""
        leaders = {self.leader_for_partition(tp) for tp in wanted}
        if -1 in leaders:
            raise LeaderNotAvailableError
        if leaders & self.silent:
            await asyncio.sleep(60)
        return {
            tp: (2 if which == OffsetResetStrategy.EARLIEST else 9, None)
            for tp, which in wanted.items()
        }


async def test_every_commit_carries_the_note_of_its_partition() -> None:
    consumer = Consumer({})
    carry_metadata(
        consumer, {ONE: OffsetMetadata(1_000, 4), TWO: OffsetMetadata(None, 6)}.__getitem__
    )
    await consumer.commit({ONE: OffsetAndMetadata(4, ""), TWO: OffsetAndMetadata(8, "")})
    assert await _see(consumer, [ONE, TWO]) == {
        ONE: PartitionProgress(4, 9, OffsetMetadata(1_000)),
        TWO: PartitionProgress(8, 9, OffsetMetadata(None, 6)),
    }


async def test_an_older_commit_that_is_repeated_does_not_undo_a_newer_one() -> None:
    """aiokafka repeats a commit that the coordinator could not take, and lets others pass meanwhile."""
    refused = asyncio.Event()

    class Moving(Consumer):
        """Its coordinator moves during the first commit."""

        async def commit(self, offsets: dict[Any, OffsetAndMetadata]) -> None:
            if not refused.is_set():
                refused.set()
                await asyncio.sleep(0.1)
            await super().commit(offsets)

    consumer = Moving({})
    position = [1_000]
    carry_metadata(consumer, lambda _: OffsetMetadata(position[0]))
    older = asyncio.create_task(consumer.commit({ONE: OffsetAndMetadata(4, "")}))
    await refused.wait()
    position[0] = 2_000
    await consumer.commit({ONE: OffsetAndMetadata(9, "")})
    await older
    assert await _see(consumer, [ONE]) == {ONE: PartitionProgress(9, 9, OffsetMetadata(2_000))}


async def test_what_stands_between_the_last_record_and_the_committed_offset_is_known() -> None:
    consumer = Consumer(
        {
            ONE: OffsetAndMetadata(8, "1000@6"),
            # of an earlier release, which meant something else
            TWO: OffsetAndMetadata(8, "1000@12"),
        }
    )
    found = await committed(consumer, [TP(*ONE), TP(*TWO), TP(*THREE)])
    assert found == {TP(*ONE): (8, 6), TP(*TWO): (8, 8)}


async def test_a_partition_without_a_commit_starts_where_its_log_does() -> None:
    consumer = Consumer({ONE: OffsetAndMetadata(4, "of a tool"), TWO: OffsetAndMetadata(-1, "")})
    assert await _see(consumer, [ONE, TWO, THREE]) == {
        ONE: PartitionProgress(4, 9, OffsetMetadata()),
        TWO: PartitionProgress(2, 9, OffsetMetadata()),
        THREE: PartitionProgress(2, 9, OffsetMetadata()),
    }


async def test_a_partition_without_a_leader_keeps_no_end_from_others() -> None:
    consumer = Consumer({ONE: OffsetAndMetadata(4, "1000"), TWO: OffsetAndMetadata(5, "500")})
    consumer.leaders = {TWO: -1, THREE: 2}
    assert await _see(consumer, [ONE, TWO, THREE]) == {
        ONE: PartitionProgress(4, 9, OffsetMetadata(1_000)),
        TWO: PartitionProgress(5, None, OffsetMetadata(500)),
        THREE: PartitionProgress(2, 9, OffsetMetadata()),
    }
    assert consumer.refreshed == 1
    consumer.leaders[TWO] = 2
    assert (await _see(consumer, [TWO]))[TWO].end == 9
    assert consumer.refreshed == 1


async def test_neither_does_one_whose_leader_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{WHERE}._OFFSETS_SECONDS", 0.05)
    consumer = Consumer({ONE: OffsetAndMetadata(4, "")})
    consumer.leaders, consumer.silent = {TWO: 2}, {2}
    assert await _see(consumer, [ONE, TWO]) == {
        ONE: PartitionProgress(4, 9, OffsetMetadata()),
        TWO: PartitionProgress(0, None, OffsetMetadata()),
    }


async def test_that_no_broker_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{WHERE}._OFFSETS_SECONDS", 0.05)
    consumer = Consumer({ONE: OffsetAndMetadata(4, ""), TWO: OffsetAndMetadata(4, "")})
    consumer.leaders, consumer.silent = {TWO: -1}, {1}
    with pytest.raises(KafkaTimeoutError):
        await _see(consumer, [ONE, TWO])
