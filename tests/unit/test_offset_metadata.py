"""Notes beside committed offsets: every commit carries them, and they are read with the ends of logs."""

from typing import Any

from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from app.blocks.core.alignment import PartitionProgress
from app.blocks.core.event_time_drift import OffsetMetadata
from app.blocks.faust.offset_metadata import _see, carry_metadata, committed

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
