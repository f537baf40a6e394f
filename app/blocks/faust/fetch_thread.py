"""The thread that fetches: in chunks, with a short wait at the broker, and without what rests or is stopped.

A subclass of the aiokafka driver's of faust-streaming 0.15.3. Each override says what goes wrong without it.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any

from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import ConsumerStoppedError, IllegalStateError
from aiokafka.structs import TopicPartition
from faust.transport.consumer import ensure_TPset
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from app.blocks.faust.committed_offsets import CommittedOffset, carry_metadata, committed, reported
from app.blocks.faust.fetch_backoff import leave_out
from app.blocks.faust.fetch_parsing import watch
from app.blocks.faust.fetched_ranges import fetched_chunks, reset_by_hand
from app.blocks.faust.kafka_connections import drop_broken
from app.blocks.faust.standstill import where
from app.blocks.faust.stopped_partitions import StoppedPartitions

logger = logging.getLogger(__name__)

#: How long a fetch may wait at the broker.
_FETCH_WAIT_MS = 50


class BlockConsumerThread(driver.AIOKafkaConsumerThread):
    """See the module."""

    #: aiokafka's partitions and Faust's names of them, as last asked for.
    _assigned: tuple[Any, frozenset[TP]] = (None, frozenset())

    def assignment(self) -> frozenset[TP]:
        """As Faust's, which converts all partitions each time: a commit asks once for each of them."""
        tps = self._ensure_consumer().assignment()
        if (
            tps is not self._assigned[0]
        ):  # aiokafka makes a new set for each assignment, and changes none
            self._assigned = tps, frozenset(ensure_TPset(tps))
        return self._assigned[1]

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # A fetch leaves out partitions whose last chunk nobody has taken yet, and only one is on its way
        # to a broker: for as long as it waits there (Faust: 1.5 s), those partitions stand still.
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        app = self.consumer.app
        # Faust's depends on transactions of its own
        consumer._isolation_level = app.isolation_level
        consumer._client_rack = app.client_rack
        consumer._fetch_max_bytes = app.fetch_bytes
        drop_broken(consumer._client)
        carry_metadata(consumer, lambda tp: app.metadata_of(TP(tp.topic, tp.partition)))
        return consumer

    async def on_start(self) -> None:
        """Connect, and fetch what does not rest."""
        await super().on_start()
        assert self._consumer is not None
        leave_out(self._consumer._fetcher, self.consumer.resting)
        app = self.consumer.app
        app.watch.stopped = app.stops = StoppedPartitions(app.watch, time.monotonic, app.find_skip)
        watch(self._consumer, app.watch)
        leave_out(self._consumer._fetcher, app.stops)
        reset_by_hand(self._consumer._fetcher)

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: Any = None, max_records: Any = None
    ) -> Any:
        """As Faust's, in chunks."""
        if not self.consumer.flow_active:
            return {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():
            return await fetched_chunks(fetcher, active_partitions, timeout, max_records)

    async def seek_there(self, tp: TP, offset: int) -> None:
        """Move a fetch position, in the thread that fetches; a partition that was revoked meanwhile is left alone."""
        await self.call_thread(self._seek_here, self._ensure_consumer(), tp, offset)

    def _seek_here(self, consumer: Any, tp: TP, offset: int) -> None:
        try:
            consumer.seek(tp, offset)
        except IllegalStateError as error:  # whoever gets it begins at the committed offset
            logger.info("%s/%s is not fetched from offset %s: %s", *tp, offset, error)

    async def committed(self, tps: Iterable[TP]) -> dict[TP, CommittedOffset]:
        """See `app.blocks.faust.committed_offsets.committed`."""
        found: dict[TP, CommittedOffset] = await self.call_thread(
            committed, self._ensure_consumer(), tps
        )
        return found

    async def positions(self, tps: Iterable[TP]) -> dict[TP, int]:
        """From where assigned partitions are fetched next, stopped ones left out; -1 where that is not known."""
        return dict(await self.call_thread(self._positions_here, list(tps)))

    def _positions_here(self, tps: list[TP]) -> dict[TP, int]:
        subscription = self._ensure_consumer()._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is None or not assignment.active:
            return {}
        states = {tp: assignment.state_value(TopicPartition(*tp)) for tp in tps}
        return {
            tp: state.position if state.has_valid_position else -1
            for tp, state in states.items()
            if state is not None and tp not in self.consumer.app.stops
        }

    async def ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The log ends of those partitions whose leader reports them."""
        consumer, wanted = self._ensure_consumer(), [TopicPartition(*tp) for tp in tps]
        found = await self.call_thread(reported, consumer, wanted, OffsetResetStrategy.LATEST)
        return {TP(*tp): end for tp, end in found.items()}

    async def fetcher_state(self, still: Iterable[TP]) -> str:
        """What aiokafka's fetcher is at, for the log.

        Args:
            still: partitions of which nothing is fetched.
        """
        return str(await self.call_thread(self._state_here, list(still)))

    def _state_here(self, still: list[TP]) -> str:
        consumer = self._ensure_consumer()
        fetcher, client = consumer._fetcher, consumer._client
        assignment = consumer._subscription.subscription.assignment
        parts = [f"requests to brokers {sorted(fetcher._in_flight)}"]
        parts += [
            where(task)
            for task in [fetcher._fetch_task, client._sync_task, *fetcher._pending_tasks]
        ]
        for tp in still:
            state = assignment.state_value(tp)
            parts.append(
                f"{tp.topic}/{tp.partition}: leader {client.cluster.leader_for_partition(tp)}, "
                f"replica {fetcher._select_read_replica(tp)}, holds {type(fetcher._records.get(tp)).__name__}, "
                f"rests {tp in self.consumer.resting}, paused {state.paused}, position {state._position}, "
                f"highwater {state.highwater}, stable {state.lso}, answered {state.timestamp}"
            )
        return "; ".join(parts)
