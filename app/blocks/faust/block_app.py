"""The Faust app that knows which of its topics are read in blocks."""

import asyncio
import logging
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import faust
from mode.utils.queues import FlowControlEvent

from app.blocks.core.alignment import EventTimeAlignment
from app.blocks.core.offset_metadata import OffsetMetadata
from app.blocks.faust import transport  # noqa: F401  registers the driver under the name `block`
from app.blocks.faust.assignor import PlacingAssignor
from app.blocks.faust.committed_offsets import ConsumerAlignmentPorts
from app.blocks.faust.fatal_errors import halt, leave
from app.blocks.faust.output_sender import Outputs, PassOn
from app.blocks.faust.recovery import BlockTables
from app.blocks.faust.stop_deadlines import STOP_SECONDS
from app.blocks.faust.stopped_partitions import StoppedPartitions
from app.blocks.faust.unreadable_batches import UnreadableBatchPolicy
from app.blocks.faust.unsent_batches import Destination
from app.errors import DamagedLogError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from app.blocks.faust.pipeline import Pipeline


class ClearingFlowControl(FlowControlEvent):
    """Lets queues be filled; those of before a pause are emptied when it ends.

    Faust resumes again and again while it recovers, and each time empties the queue of changelogs: what a warm copy
    had fetched until then was lost to it, and to whoever it became the state of.
    """

    def resume(self) -> None:
        """End a pause; nothing where there is none."""
        if not self.is_active():
            super().resume()


class BlockApp(faust.App):
    """A Faust app on the block transport: give it a broker URL that starts with `block://`.

    Attributes:
        block_topics: topics that are read in blocks, changelogs of block tables included.
        block_sources: those of them that agents read and acknowledge.
        pipelines: the pipelines of this app, by source topic.
        watch: what becomes of batches that cannot be read.
        stops: partitions that cannot be read further.
        alignment: keeps partitions in step in event time; None: nothing does.
        isolation_level: of every fetch; see aiokafka's consumer.
        client_rack: rack or zone of this process, for reads from a replica nearby; None: from the leaders.
        host_name: machine of this process: standby replicas of its partitions go to others.
        fetch_bytes: of one fetch, all partitions together; see aiokafka's `fetch_max_bytes`.
    """

    isolation_level = "read_committed"
    client_rack: str | None = None
    host_name: str = ""
    fetch_bytes = 50 << 20

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.block_topics: set[str] = set()
        self.block_sources: set[str] = set()
        self.pipelines: dict[str, Pipeline] = {}
        self.watch = UnreadableBatchPolicy()
        self.stops: StoppedPartitions | None = None
        self.alignment: EventTimeAlignment | None = None
        parts = {"TableManager": BlockTables, "PartitionAssignor": PlacingAssignor}
        super().__init__(*args, **{**parts, **kwargs})

    @cached_property
    def flow_control(self) -> ClearingFlowControl:
        """What stops and resumes the queues of streams and changelogs."""
        return ClearingFlowControl(loop=self.loop)

    def align_partitions(self, tps: Iterable[Any], skew_ms: int) -> None:
        """Let source partitions run no further apart in event time than this; before pipelines are made.

        Args:
            tps: all partitions of the topics concerned, whichever worker has them.
            skew_ms: how far ahead of the slowest one a partition may run.
        """
        self.alignment = EventTimeAlignment(tps, skew_ms, ConsumerAlignmentPorts(self))

    def pass_on(self, destination: Destination) -> PassOn | None:
        """Who takes records for a topic's partition as soon as they are acknowledged: a pipeline of this worker."""
        topic, partition = destination
        pipeline = self.pipelines.get(topic)
        return None if pipeline is None else pipeline.taker(partition)

    def begin_early(self, outputs: Outputs) -> None:
        """Let pipelines of this worker begin with records before those are durable, where they can.

        Args:
            outputs: what a stage is about to send.
        """
        for topic, pipeline in self.pipelines.items():
            if pipeline.early is not None:
                values = [
                    value
                    for destination, records in outputs.items()
                    if destination[0] == topic and pipeline.is_next(destination[1])
                    for _, value, _ in records
                ]
                if values:
                    pipeline.early.begin(values, pipeline.budget)

    def loss_record(self, tp: Any, begin: int, end: int) -> Outputs:
        """What is sent, before anything else is done, for offsets that were deleted before they were read."""
        return {}

    def metadata_of(self, tp: Any) -> OffsetMetadata:
        """What stands beside a committed offset; called in the consumer's thread."""
        note = OffsetMetadata() if self.alignment is None else self.alignment.metadata_of(tp)
        return replace(note, records_end=self.consumer.records_end.get(tp))

    async def find_skip(self, error: DamagedLogError) -> int | None:
        """The last offset that was given up together with the one that cannot be read; None: stay there."""
        return None

    def on_rebalance_end(self) -> None:
        """The last step of Faust's recovery: partitions are opened, and only then is the rebalance over."""
        starts = self.consumer.block_start
        if not all(self.pipelines[tp.topic].recovered(tp.partition) for tp in starts):
            # The next rebalance began while the sources were sought: its own end comes. Opened now, a partition
            # would start on a table that is being recovered once more.
            logger.info("partitions are not opened: another rebalance has begun")
            return
        opening = [self.pipelines[tp.topic].open(tp.partition) for tp in starts]
        self.add_future(self._opened(opening, self.rebalancing_count))

    async def _opened(self, opening: list[asyncio.Task[None]], rebalance: int) -> None:
        await asyncio.gather(*opening)
        if rebalance == self.rebalancing_count and not self.should_stop:
            self.on_partitions_open()

    def on_partitions_open(self) -> None:
        """All assigned partitions are checked and bound: only now the worker is ready, and sources are fetched."""
        super().on_rebalance_end()
        self.consumer.open_blocks()

    async def stop(self) -> None:
        """Stop within a bounded time: while Kafka does not answer, each of Faust's steps waits for it."""
        self.loop.call_later(STOP_SECONDS, self._leave)
        await super().stop()

    def _leave(self) -> None:
        print(
            f"fraudstream: stopped after {STOP_SECONDS:g} s without an answer from Kafka or Cassandra; what is "
            "unfinished is repeated at the next start",
            file=sys.stderr,
            flush=True,
        )
        leave(0)

    def _crash(self, reason: BaseException) -> None:
        """A service of Faust has failed: its way out takes long, says little, and ends with exit code 1."""
        if not self.should_stop:
            halt("a part of Faust", reason)
        super()._crash(reason)
