"""What a fetch covers, and positions that are not in the log."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchError, FetchResult, OffsetResetStrategy
from aiokafka.consumer.subscription_state import Assignment
from aiokafka.errors import CorruptRecordException, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from app.blocks.faust.fetched_ranges import RECORD_BYTES, Chunk, fetched_chunks, reset_by_hand
from app.errors import StateError

ONE, TWO = TopicPartition("s", 0), TopicPartition("s", 1)


class Fetched:
    """As aiokafka's PartitionRecords: records, and markers after some of them."""

    def __init__(self, begin: int, *parts: int) -> None:
        self.next_fetch_offset = begin
        self._parts = iter(parts)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """A positive part is a record, a negative one as many offsets without."""
        for part in self._parts:
            if part > 0:
                self.next_fetch_offset += 1
                return SimpleNamespace(
                    offset=self.next_fetch_offset - 1,
                    serialized_key_size=-1,
                    serialized_value_size=9,
                )
            self.next_fetch_offset -= part
        raise StopIteration


class Fetcher:
    """As aiokafka's, of a log from `first` to `end`."""

    def __init__(self, first: int = 0, end: int = 100) -> None:
        self.first, self.end = first, end
        self.assignment = Assignment([ONE, TWO])
        self._subscriptions = SimpleNamespace(
            reassignment_in_progress=False,
            is_assigned=lambda tp: True,
            subscription=SimpleNamespace(assignment=self.assignment),
        )
        self._records: dict[Any, Any] = {}
        self._wait_consume_future = None
        self._closed = False
        self._notify = lambda future: None
        self._default_reset_strategy = OffsetResetStrategy.EARLIEST
        self.sought: list[tuple[Any, int]] = []

    def has(self, tp: Any, begin: int, *parts: int) -> None:
        self.assignment.state_value(tp).seek(begin)
        fetched: Any = Fetched(begin, *parts)
        self._records[tp] = FetchResult(
            tp, assignment=self.assignment, partition_records=fetched, backoff=0
        )

    def failed(self, tp: Any, position: int, error: Exception) -> None:
        self.assignment.state_value(tp).seek(position)
        self._records[tp] = FetchError(error=error, backoff=0)

    def _create_fetch_waiter(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    async def beginning_offsets(self, tps: list[Any], timeout_ms: int) -> dict[Any, int]:
        return dict.fromkeys(tps, self.first)

    async def end_offsets(self, tps: list[Any], timeout_ms: int) -> dict[Any, int]:
        return dict.fromkeys(tps, self.end)

    def seek_to(self, tp: Any, offset: int) -> None:
        self.sought.append((tp, offset))
        self.assignment.state_value(tp).seek(offset)

    async def _update_fetch_positions(self, assignment: Any, node_id: int, tps: list[Any]) -> bool:
        return False


def facts(chunk: Chunk) -> tuple[list[int], int, int, bool]:
    return [record.offset for record in chunk], chunk.begin, chunk.end, chunk.lost


async def chunks(fetcher: Any, most: int | None = None) -> dict[Any, Any]:
    found = await fetched_chunks(fetcher, (), 0, most)
    return {tp: facts(chunk) for tp, chunk in found.items()}


async def test_a_chunk_covers_the_offsets_without_a_record() -> None:
    fetcher = Fetcher()
    fetcher.has(ONE, 10, 1, -1, 1, 1, -4)
    fetcher.has(TWO, 5, -3)  # an aborted transaction
    assert await chunks(fetcher) == {
        ONE: ([10, 12, 13], 10, 18, False),
        TWO: ([], 5, 8, False),
    }
    assert fetcher.assignment.state_value(TWO).position == 8
    assert fetcher._records == {}


async def test_one_that_is_cut_goes_on_where_it_ended() -> None:
    fetcher = Fetcher()
    fetcher.has(ONE, 0, 1, -1, 1, -1, 1)
    assert await chunks(fetcher, 2) == {ONE: ([0, 2], 0, 3, False)}
    assert await chunks(fetcher, 2) == {ONE: ([4], 3, 5, False)}


async def test_a_result_of_before_a_seek_covers_nothing() -> None:
    fetcher = Fetcher()
    fetcher.has(ONE, 10, 1, 1)
    fetcher.assignment.state_value(ONE).seek(3)
    assert await chunks(fetcher) == {}
    assert fetcher._records == {}


async def test_how_large_it_is() -> None:
    fetcher = Fetcher()
    fetcher.has(ONE, 0, 1, 1)
    chunk = (await fetched_chunks(fetcher, (), 0, None))[ONE]
    assert chunk.size == 2 * (RECORD_BYTES + 8)


async def test_an_error_is_raised_once_what_is_there_is_handed_on() -> None:
    fetcher = Fetcher()
    fetcher.has(ONE, 0, 1)
    fetcher.failed(TWO, 0, CorruptRecordException("bytes"))
    assert ONE in await chunks(fetcher)
    with pytest.raises(CorruptRecordException):
        await chunks(fetcher)
    assert await chunks(fetcher) == {}


class TestPositionsOutOfTheLog:
    async def test_below_its_start_the_offsets_are_lost(self) -> None:
        fetcher = Fetcher(first=40)
        fetcher.failed(ONE, 7, OffsetOutOfRangeError({ONE: 7}))
        assert await chunks(fetcher) == {ONE: ([], 7, 40, True)}
        assert fetcher.sought == [(ONE, 40)]

    async def test_behind_its_end_there_is_no_going_on(self) -> None:
        fetcher = Fetcher(end=40)
        fetcher.failed(ONE, 41, OffsetOutOfRangeError({ONE: 41}))
        with pytest.raises(StateError, match="s/0 was read up to offset 41 and now ends at 40"):
            await chunks(fetcher)

    async def test_in_it_again_it_is_fetched_again(self) -> None:
        fetcher = Fetcher()
        fetcher.failed(ONE, 41, OffsetOutOfRangeError({ONE: 41}))
        assert (await chunks(fetcher), fetcher.sought, fetcher._records) == ({}, [], {})

    @pytest.mark.parametrize(
        ("committed", "position"), [(-1, None), (0, 0), (7, 7)], ids=["none", "zero", "some"]
    )
    async def test_only_without_a_commit_it_begins_by_itself(
        self, committed: int, position: int | None
    ) -> None:
        fetcher: Any = Fetcher(first=40)
        reset_by_hand(fetcher)
        state = fetcher.assignment.state_value(ONE)
        updating = asyncio.create_task(
            fetcher._update_fetch_positions(fetcher.assignment, 1, [ONE])
        )
        await asyncio.sleep(0)
        state.update_committed(OffsetAndMetadata(committed, ""))
        await updating
        assert fetcher._default_reset_strategy == OffsetResetStrategy.NONE
        assert (state._position, state.awaiting_reset) == (position, position is None)
