"""Notes beside committed offsets: every commit carries them, and they are read with the ends of logs."""

import asyncio
from typing import Any

from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from app.blocks.core.alignment import PartitionProgress
from app.blocks.core.offset_metadata import OffsetMetadata
from app.blocks.faust.committed_offsets import _see, carry_metadata, committed

ONE, TWO, THREE = (TopicPartition("s", number) for number in range(3))


class Consumer:
    """As aiokafka's consumer of a group that has committed offsets for some partitions."""

    def __init__(self, committed: dict[Any, OffsetAndMetadata]) -> None:
        self.committed = committed
        self._coordinator = self

    async def commit(self, offsets: dict[Any, OffsetAndMetadata]) -> None:
        self.committed |= offsets

    async def fetch_committed_offsets(self, tps: list[Any]) -> dict[Any, OffsetAndMetadata]:
        return {tp: at for tp, at in self.committed.items() if tp in tps}

    async def beginning_offsets(self, tps: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(tps, 2)

    async def end_offsets(self, tps: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(tps, 9)


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
