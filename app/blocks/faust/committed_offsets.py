"""Metadata of committed offsets, on Faust's consumer: aiokafka's consumer runs in a thread of its own."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import KafkaTimeoutError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from app.blocks.core.alignment import PartitionProgress
from app.blocks.core.offset_metadata import OffsetMetadata
from app.blocks.faust.fatal_errors import is_away

logger = logging.getLogger(__name__)

#: A broker that does not answer for so long is not waited for. The controller has replaced it as a leader by then.
_OFFSETS_SECONDS = 10.0


def carry_metadata(consumer: Any, metadata_of: Callable[[Any], OffsetMetadata]) -> None:
    """Add the metadata of its partitions to every commit of a consumer: Faust's own commits would erase it.

    One commit ends before the next one begins. aiokafka repeats a commit that a broker could not take, a tenth of a
    second later; a newer commit that was taken in between would be undone.

    Args:
        consumer: the aiokafka consumer.
        metadata_of: the metadata of a partition; it is called in the consumer's thread.
    """
    commit, turn = consumer.commit, asyncio.Lock()

    async def commit_with_metadata(offsets: Mapping[Any, OffsetAndMetadata]) -> None:
        async with turn:
            await commit(
                {
                    tp: OffsetAndMetadata(at.offset, metadata_of(tp).write(at.offset))
                    for tp, at in offsets.items()
                }
            )

    consumer.commit = commit_with_metadata


class ConsumerAlignmentPorts:
    """Implements `app.blocks.core.alignment.AlignmentPorts`; the app's consumer may be created later.

    Args:
        app: the block app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def read_progress(self, tps: Iterable[TP]) -> Mapping[TP, PartitionProgress]:
        """The progress of partitions, whichever worker owns them."""
        thread = self._app.consumer._thread
        seen = await thread.call_thread(_see, thread._ensure_consumer(), list(tps))
        return {TP(tp.topic, tp.partition): one for tp, one in seen.items()}

    async def commit(self, positions: Mapping[TP, tuple[int, OffsetMetadata]]) -> None:
        """Commit offsets of this worker's partitions, for the sake of their metadata.

        Raises:
            KafkaError: the partitions were revoked, or the group is rebalancing.
        """
        consumer = self._app.consumer
        if not consumer.flow_active:  # a rebalance: the next owner continues from the last commit
            return
        assigned = consumer.assignment()
        offsets = {tp: offset for tp, (offset, _) in positions.items() if tp in assigned}
        thread = consumer._thread
        await thread.call_thread(_commit, thread._ensure_consumer(), offsets)
        for tp, offset in offsets.items():
            consumer._committed_offset[tp] = max(offset, consumer._committed_offset.get(tp) or 0)


class CommittedOffset(NamedTuple):
    """A committed offset, and the offset after the last record below it."""

    offset: int
    records_end: int


async def committed(consumer: Any, tps: Iterable[TP]) -> dict[TP, CommittedOffset]:
    """The committed offsets of partitions that have one, whichever worker owns them.

    Args:
        consumer: the aiokafka consumer.
        tps: the partitions.
    """
    wanted = [TopicPartition(*tp) for tp in tps]
    found = await consumer._coordinator.fetch_committed_offsets(wanted)
    return {
        TP(*tp): CommittedOffset(
            at.offset, OffsetMetadata.read(at.metadata or "").records_end_at(at.offset)
        )
        for tp, at in found.items()
        if at.offset >= 0
    }


async def _see(consumer: Any, tps: Iterable[TP]) -> dict[Any, PartitionProgress]:
    """Committed offsets with their metadata, and log ends as far as they are reported, of any partitions."""
    wanted = [TopicPartition(*tp) for tp in tps]
    # the public `committed` drops the metadata
    committed = await consumer._coordinator.fetch_committed_offsets(wanted)
    found = {tp: at for tp, at in committed.items() if at.offset >= 0}
    fresh = [tp for tp in wanted if tp not in found]
    first = await reported(consumer, fresh, OffsetResetStrategy.EARLIEST) if fresh else {}
    ends = await reported(consumer, wanted, OffsetResetStrategy.LATEST)
    if not ends:
        msg = "no broker reports the ends of its partitions"
        raise KafkaTimeoutError(msg)
    return {
        tp: PartitionProgress(
            found[tp].offset, ends.get(tp), OffsetMetadata.read(found[tp].metadata or "")
        )
        if tp in found
        else PartitionProgress(first.get(tp, 0), ends.get(tp), OffsetMetadata())
        for tp in wanted
    }


async def reported(consumer: Any, tps: list[TopicPartition], which: int) -> dict[Any, int]:
    """First or last offsets of those partitions whose leader reports them.

    The public methods ask again until each partition has an answer: one without a leader would keep those of all
    others. So each leader is asked once, for its partitions alone.

    Args:
        consumer: the aiokafka consumer.
        tps: the partitions; at least one.
        which: a value of `OffsetResetStrategy`.

    Raises:
        KafkaError: asking again would not help.
    """
    leader = consumer._client.cluster.leader_for_partition
    led: dict[int | None, dict[TopicPartition, int]] = defaultdict(dict)
    for tp in tps:
        led[leader(tp)][tp] = which
    answers = await asyncio.gather(
        *(_asked_once(consumer, each) for each in led.values()), return_exceptions=True
    )
    reported: dict[Any, int] = {}
    failed: list[BaseException] = []
    for answer in answers:
        if not isinstance(answer, BaseException):
            reported |= answer
        elif is_away(answer):
            failed.append(answer)
        else:
            raise answer
    if failed:
        # this worker may not fetch these partitions: nothing else asks whether they have a leader again
        consumer._client.force_metadata_update()
        logger.info("some partitions have no leader that reports their offsets: %r", failed)
    return reported


async def _asked_once(consumer: Any, wanted: dict[TopicPartition, int]) -> dict[Any, int]:
    try:
        async with asyncio.timeout(_OFFSETS_SECONDS):
            found = await consumer._fetcher._proc_offset_requests(wanted)
    except TimeoutError as error:
        msg = f"no offsets within {_OFFSETS_SECONDS:g} s"
        raise KafkaTimeoutError(msg) from error
    return {tp: offset for tp, (offset, _) in found.items()}


async def _commit(consumer: Any, offsets: Mapping[TP, int]) -> None:
    # `carry_metadata` adds the metadata to every commit
    await consumer.commit(
        {TopicPartition(*tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items()}
    )
