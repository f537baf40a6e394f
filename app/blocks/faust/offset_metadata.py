"""Notes beside committed offsets, on Faust's consumer: aiokafka's runs in a thread of its own."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from app.blocks.core.alignment import Seen
from app.blocks.core.event_time_drift import Note


def carry_notes(consumer: Any, note_of: Callable[[Any], Note]) -> None:
    """Let every commit of a consumer carry the notes of its partitions: Faust's would wipe them.

    Args:
        consumer: the aiokafka consumer.
        note_of: the note of a partition; it is called in the consumer's thread.
    """
    commit = consumer.commit

    async def commit_with_notes(offsets: Mapping[Any, OffsetAndMetadata]) -> None:
        await commit(
            {
                tp: OffsetAndMetadata(at.offset, note_of(tp).write(at.offset))
                for tp, at in offsets.items()
            }
        )

    consumer.commit = commit_with_notes


class ConsumerPorts:
    """See `app.blocks.core.alignment.PacePorts`: the consumer of an app, which is not there yet when the app is made.

    Args:
        app: the block app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def see(self, tps: Iterable[TP]) -> Mapping[TP, Seen]:
        """How far partitions are, whoever has them."""
        thread = self._app.consumer._thread
        seen = await thread.call_thread(_see, thread._ensure_consumer(), list(tps))
        return {TP(tp.topic, tp.partition): one for tp, one in seen.items()}

    async def note(self, notes: Mapping[TP, tuple[int, Note]]) -> None:
        """Commit offsets of our partitions, for the notes beside them.

        Raises:
            KafkaError: they are ours no more, or the group starts anew.
        """
        consumer = self._app.consumer
        if not consumer.flow_active:  # a rebalance: whoever gets them goes on from the last notes
            return
        offsets = {tp: offset for tp, (offset, _) in notes.items() if tp in consumer.assignment()}
        thread = consumer._thread
        await thread.call_thread(_commit, thread._ensure_consumer(), offsets)
        for tp, offset in offsets.items():
            consumer._committed_offset[tp] = max(offset, consumer._committed_offset.get(tp) or 0)


class Committed(NamedTuple):
    """A committed offset, and the offset after the last record below it."""

    offset: int
    records_end: int


async def committed(consumer: Any, tps: Iterable[TP]) -> dict[TP, Committed]:
    """The committed offsets of partitions that have one, whoever has the partitions.

    Args:
        consumer: the aiokafka consumer.
        tps: the partitions.
    """
    wanted = [TopicPartition(*tp) for tp in tps]
    found = await consumer._coordinator.fetch_committed_offsets(wanted)
    return {
        TP(*tp): Committed(at.offset, Note.read(at.metadata or "").records_end_at(at.offset))
        for tp, at in found.items()
        if at.offset >= 0
    }


async def _see(consumer: Any, tps: Iterable[TP]) -> dict[Any, Seen]:
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


async def _commit(consumer: Any, offsets: Mapping[TP, int]) -> None:
    # the notes come with every commit: see `carry_notes`
    await consumer.commit(
        {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()}
    )
