"""Sends the outputs of blocks: record batches by hand, one or a few for a block, past Faust's producer buffer."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from app.blocks.core.interfaces import ForwardedRecord, all_of
from app.blocks.core.row_groups import RECORD_OVERHEAD_BYTES
from app.blocks.faust.unsent_batches import Destination, await_topic, enqueue, last_unsent
from app.errors import StateError

#: For so long a broker knows a producer at least (producer.id.expiration.ms is a day).
_KNOWN_SECONDS = 3600.0

#: Name of a batch's attribute.
_PASSING = "passing"

#: key, value, headers
OutRecord = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
#: Outputs of a block: records by destination, in order.
Outputs = dict[Destination, list[OutRecord]]
#: Takes what one batch has become in the log.
PassOn = Callable[[list[ForwardedRecord]], None]


def _size(record: OutRecord) -> int:
    key, value, headers = record
    size = len(key or b"") + len(value or b"") + RECORD_OVERHEAD_BYTES
    if headers:  # seldom: the sum alone took as long as appending the record
        size += sum(4 * len(name) + len(raw or b"") + 8 for name, raw in headers)
    return size


class OutputSender:
    """Hands outputs to the producer so that each destination gets them in order, or no further ones.

    A broker refuses what follows a refused batch of an idempotent producer, by its sequence number. But
    it takes any number from a producer that it does not know (yet, or any more): were the first batch
    refused, the second would leave a gap that the next stage takes for a replay. So the first batch
    for a destination is acknowledged before the next one is handed over.

    Args:
        limit_bytes: largest batch.
        pass_on: asked for each new batch who, if anybody, takes its records once they are acknowledged.
        begin_early: is given all outputs before they are handed over.
    """

    def __init__(
        self,
        limit_bytes: int,
        pass_on: Callable[[Destination], PassOn | None] = lambda _: None,
        begin_early: Callable[[Outputs], None] = lambda _: None,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._pass_on = pass_on
        self._begin_early = begin_early
        self._known_until: dict[Destination, float] = {}
        self._topics: set[str] = set()

    def hand_over(self, producer: Any, outputs: Outputs) -> "asyncio.Future[None] | None":
        """As `send`, at once; None where the first batch for a destination has to be waited for."""
        now = asyncio.get_running_loop().time()
        known = self._known_until
        for destination in outputs:
            if known.get(destination, -math.inf) < now:
                return None
        self._begin_early(outputs)
        futures: list[Any] = []
        for destination, records in outputs.items():
            self._append(producer, destination, records, futures)
            known[destination] = now + _KNOWN_SECONDS
        return all_of(futures)

    async def send(self, producer: Any, outputs: Outputs) -> Awaitable[Any]:
        """Hand the outputs of one block over.

        Args:
            producer: a started, idempotent aiokafka producer, always the same one.
            outputs: records by (topic, partition).

        Returns:
            Resolves once every batch is acknowledged; fails if one cannot be.
        """
        for topic in {topic for topic, _ in outputs} - self._topics:
            await await_topic(producer, topic)
            self._topics.add(topic)
        self._begin_early(outputs)
        time = asyncio.get_running_loop().time
        futures: list[Any] = []
        firsts: list[Any] = []
        rests: list[tuple[Destination, list[OutRecord]]] = []
        for destination, records in outputs.items():
            if self._known_until.get(destination, -math.inf) < time():
                taken = self._append(producer, destination, records, firsts, only_one=True)
                if taken < len(records):
                    rests.append((destination, records[taken:]))
            else:
                self._append(producer, destination, records, futures)
        if firsts:
            await all_of(firsts)
        for destination, records in rests:
            self._append(producer, destination, records, futures)
        until = time() + _KNOWN_SECONDS
        self._known_until.update(dict.fromkeys(outputs, until))
        return all_of([*firsts, *futures])

    def _append(
        self,
        producer: Any,
        destination: Destination,
        records: list[OutRecord],
        futures: list[Any],
        *,
        only_one: bool = False,
    ) -> int:
        """Put records into batches that have not left yet; returns how many: all, or what one batch has room for.

        It never waits: else a batch could leave between two records, and its sequence numbers would be wrong.
        """
        batch = last_unsent(producer, destination)
        filled = 0 if batch is None else batch._builder.size()
        joined = passing = None
        for number, record in enumerate(records):
            size = _size(record)
            # the builder takes an oversized first record and nobody else checks its size: count ourselves
            if size > self._limit_bytes:
                msg = f"a record of {size} bytes exceeds the producer's batch of {self._limit_bytes} bytes"
                raise StateError(msg)
            if batch is None or filled + size > self._limit_bytes:
                if only_one and joined is not None:
                    return number
                batch, filled = enqueue(producer, producer.create_batch(), destination), 0
                taker = self._pass_on(destination)
                if taker is not None:
                    BatchForwarding(batch, taker)
            if batch is not joined:
                joined, passing = batch, getattr(batch, _PASSING, None)
                futures.append(batch.future)
            key, value, headers = record
            made = batch._builder.append(key=key, value=value, timestamp=None, headers=headers)
            if made is None:
                msg = "a record batch was full before its counted size"
                raise StateError(msg)
            if passing is not None:
                passing.append(record, made.timestamp)
            filled += size
        return len(records)


class BatchForwarding:
    """The records of a batch, for somebody who need not fetch them.

    It stands at the batch, because several senders may share that.

    Args:
        batch: new and empty.
        take: given its records when it is acknowledged, with the offsets that the broker gave them.
    """

    def __init__(self, batch: Any, take: PassOn) -> None:
        self._batch = batch
        self._take = take
        self._records: list[tuple[OutRecord, int]] = []
        setattr(batch, _PASSING, self)
        batch.future.add_done_callback(self._done)

    def append(self, record: OutRecord, timestamp: int) -> None:
        """The batch has one more record, of this time, epoch milliseconds."""
        self._records.append((record, timestamp))

    def _done(self, future: "asyncio.Future[Any]") -> None:
        # Batch and records hold each other: left so, all of their bytes wait for the next search for cycles, and
        # those are rare (app/blocks/faust/garbage_collection.py).
        batch, records = self._batch, self._records
        delattr(batch, _PASSING)
        self._batch, self._records = None, []
        if future.cancelled() or future.exception() is not None:
            return
        stands = future.result()
        # Acknowledged without an offset: sent twice, and the broker does not know any more where it put the first.
        # More records than ours: somebody has put one in past the senders, and which is where is not known.
        if stands.offset < 0 or batch.record_count != len(records):
            return
        broker_ms = stands.timestamp if stands.timestamp_type else None
        self._take(
            [
                ForwardedRecord(
                    offset, made_ms if broker_ms is None else broker_ms, key, value, headers
                )
                for offset, ((key, value, headers), made_ms) in enumerate(records, stands.offset)
            ]
        )
