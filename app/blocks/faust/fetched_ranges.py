"""What one fetch has brought of a partition: its records, and the range of offsets that they are all of.

A log has offsets without a record: transaction markers, batches of aborted transactions, what compaction has removed.
aiokafka skips them and moves its position behind them. That range is kept here, so that nobody has to guess from the
next record's offset whether something is missing between two chunks.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any

from aiokafka.consumer.fetcher import UNKNOWN_OFFSET, FetchError, FetchResult, OffsetResetStrategy
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from app.blocks.faust.fatal_errors import is_away
from app.errors import StateError

logger = logging.getLogger(__name__)

#: About what Python takes for a record besides its key and value.
RECORD_BYTES = 500
_OFFSETS_TIMEOUT_MS = 20_000


class Chunk(list[Any]):
    """All records of one partition from `begin` to before `end`; it may cover offsets and have no record.

    Attributes:
        begin, end: the offsets that it covers.
        size: about what its records take in memory, bytes.
        lost: these offsets were deleted before they were fetched.
    """

    __slots__ = ("begin", "end", "lost", "size")

    def __init__(self, records: Iterable[Any], begin: int, end: int, *, lost: bool = False) -> None:
        super().__init__(records)
        self.begin, self.end, self.lost = begin, end, lost
        self.size = RECORD_BYTES * len(self) + sum(
            [record.serialized_key_size + record.serialized_value_size for record in self]
        )


async def fetched_chunks(
    fetcher: Any, partitions: Any, timeout: float, max_records: int | None
) -> dict[Any, Chunk]:
    """As aiokafka's `Fetcher.fetched_records`, in chunks; those without a record, too.

    Args:
        fetcher: aiokafka's.
        partitions: the ones asked for; empty: all.
        timeout: seconds to wait where nothing has been fetched.
        max_records: of all chunks together.

    Raises:
        KafkaError: what the fetcher has met instead of records.
        StateError: a log ends before the position: it was truncated.
    """
    while True:
        if fetcher._subscriptions.reassignment_in_progress:
            await fetcher._subscriptions.wait_for_assignment()
        started = time.monotonic()
        drained = _drain(fetcher, partitions, max_records)
        if not drained:
            drained = await _raise_errors(fetcher, partitions)
        if drained or not timeout:
            return drained
        waiter = fetcher._create_fetch_waiter()
        done, pending = await asyncio.wait([waiter], timeout=timeout)
        if not done or fetcher._closed:
            for waits in pending:
                waits.cancel()
            return {}
        waiter.result()  # an error of authorization
        timeout = max(0.0, timeout - (time.monotonic() - started))


def _drain(fetcher: Any, partitions: Any, max_records: int | None) -> dict[Any, Chunk]:
    drained: dict[Any, Chunk] = {}
    for tp, found in list(fetcher._records.items()):
        if partitions and tp not in partitions:
            if not fetcher._subscriptions.is_assigned(tp):
                del fetcher._records[tp]
            continue
        if type(found) is not FetchResult:
            continue
        chunk = _take(found, max_records)
        if not found.has_more():
            _forget(fetcher, tp)
        if chunk.end > chunk.begin:
            drained[tp] = chunk
            if max_records is not None:
                max_records -= len(chunk)
                if not max_records:
                    break
    return drained


async def _raise_errors(fetcher: Any, partitions: Any) -> dict[Any, Chunk]:
    """Raise what was met instead of records; a position that is not in the log is no error, but a chunk."""
    for tp, found in list(fetcher._records.items()):
        if (partitions and tp not in partitions) or type(found) is FetchResult:
            continue
        _forget(fetcher, tp)
        if not _is_out_of_range(found):
            found.check_raise()
        lost = await _behind(fetcher, tp)
        if lost is not None:
            return {tp: lost}
    return {}


def _forget(fetcher: Any, tp: Any) -> None:
    del fetcher._records[tp]
    fetcher._notify(fetcher._wait_consume_future)  # it may be fetched


def _take(found: FetchResult, max_records: int | None) -> Chunk:
    fetched = found._partition_records
    if fetched is None:
        return Chunk((), 0, 0)
    begin = fetched.next_fetch_offset
    records = found.getall(max_records)
    return Chunk(records, begin, fetched.next_fetch_offset)


# ---------------------------------------------------------------- positions that are not in the log


def reset_by_hand(fetcher: Any) -> None:
    """Let a fetcher begin where there is no committed offset, and report a position that is not in the log.

    aiokafka goes on at the beginning or the end in both cases, without a word of what it has skipped.
    """
    fetcher._default_reset_strategy = OffsetResetStrategy.NONE
    update = fetcher._update_fetch_positions

    async def begin_without_commit(assignment: Any, node_id: int, tps: list[Any]) -> Any:
        for tp in tps:
            state = assignment.state_value(tp)
            if state.has_valid_position or state.awaiting_reset:
                continue
            try:
                committed = await state.fetch_committed()
            except asyncio.CancelledError:
                return False
            if state.has_valid_position or state.awaiting_reset:
                continue
            if committed.offset == UNKNOWN_OFFSET:
                state.await_reset(OffsetResetStrategy.EARLIEST)
            else:
                state.reset_to(committed.offset)
        return await update(assignment, node_id, tps)

    fetcher._update_fetch_positions = begin_without_commit


def _is_out_of_range(found: Any) -> bool:
    return isinstance(found, FetchError) and isinstance(found._error, OffsetOutOfRangeError)


async def _behind(fetcher: Any, tp: Any) -> Chunk | None:
    """What is lost where the position is not in the log; the position is moved to where the log begins."""
    state = fetcher._subscriptions.subscription.assignment.state_value(tp)
    if state is None or not state.has_valid_position:
        return None
    position = state.position
    try:
        first = (await fetcher.beginning_offsets([tp], _OFFSETS_TIMEOUT_MS))[tp]
        end = (await fetcher.end_offsets([tp], _OFFSETS_TIMEOUT_MS))[tp]
    except KafkaError as error:
        if not is_away(error):
            raise
        logger.info("%s/%s: no offsets: %r", *tp, error)
        return None  # fetched again, and asked again
    if not state.has_valid_position or state.position != position:
        return None  # somebody has moved it meanwhile
    if position < first:
        fetcher.seek_to(tp, first)
        return Chunk((), position, first, lost=True)
    if position > end:
        msg = (
            f"{tp.topic}/{tp.partition} was read up to offset {position} and now ends at {end}: the topic was "
            "deleted and created again, or its broker has lost records; see docs/operations.md, "
            '"A log ends before what was read"'
        )
        raise StateError(msg)
    return None  # it is in the log now: fetched again
