"""Notes beside committed offsets, on an aiokafka consumer; all of it runs in the consumer's own thread."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.structs import OffsetAndMetadata, TopicPartition

from app.blocks.pace import Seen
from app.blocks.skew import Note


def carry_notes(consumer: Any, note_of: Callable[[Any], Note]) -> None:
    """Let every commit of a consumer carry the notes of its partitions: Faust's would wipe them.

    Args:
        consumer: the aiokafka consumer.
        note_of: the note of a partition; it is called in the consumer's thread.
    """
    commit = consumer.commit

    async def commit_with_notes(offsets: Mapping[Any, OffsetAndMetadata]) -> None:
        await commit(
            {tp: OffsetAndMetadata(at.offset, note_of(tp).write()) for tp, at in offsets.items()}
        )

    consumer.commit = commit_with_notes


async def see(consumer: Any, tps: Iterable[Any]) -> dict[Any, Seen]:
    """Committed offsets with their notes, and ends; of any partitions, whoever has them."""
    wanted = [TopicPartition(*tp) for tp in tps]
    # the public `committed` drops the notes
    committed = await consumer._coordinator.fetch_committed_offsets(wanted)
    found = {tp: at for tp, at in committed.items() if at.offset >= 0}
    fresh = [tp for tp in wanted if tp not in found]
    first = await consumer.beginning_offsets(fresh) if fresh else {}
    ends = await consumer.end_offsets(wanted)
    return {
        tp: Seen(found[tp].offset, ends[tp], Note.read(found[tp].metadata or ""))
        if tp in found
        else Seen(first[tp], ends[tp], Note())
        for tp in wanted
    }


async def commit_offsets(consumer: Any, offsets: Mapping[Any, int]) -> None:
    """Commit offsets, with the notes that the consumer carries.

    Raises:
        KafkaError: the partition is ours no more, or the group starts anew.
    """
    await consumer.commit(
        {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()}
    )
