"""A position counts as standing still after so many looks in a row."""

import asyncio
from collections.abc import AsyncIterator

from app.blocks.faust.standstill import Standstill, where


def test_a_position_stands_still_once_records_were_found_behind_it_often_enough() -> None:
    watch = Standstill(looks=2)
    ends = {"a": 6, "b": 9}
    assert watch.look({"a": 5, "b": 7}, ends) == {}
    assert watch.look({"a": 5, "b": 8}, ends) == {}
    assert watch.look({"a": 5, "b": 8}, ends) == {"a": 5}
    assert watch.look({"a": 6, "b": 8}, ends) == {"b": 8}
    assert watch.look({"a": 6, "b": 9}, ends) == {}


def test_records_that_have_just_come_to_a_quiet_partition_are_no_standstill() -> None:
    watch = Standstill(looks=2)
    for _ in range(10):
        assert watch.look({"a": 5, "new": -1}, {"a": 5, "new": 0}) == {}
    assert watch.look({"a": 5}, {"a": 6}) == {}
    assert watch.look({"a": 5}, {}) == {}  # its leader did not answer
    assert watch.look({"a": 5}, {"a": 6}) == {}
    assert watch.look({"a": 5}, {"a": 7}) == {}
    assert watch.look({"a": 5}, {"a": 7}) == {"a": 5}


def test_a_partition_that_was_not_to_be_fetched_begins_anew() -> None:
    watch = Standstill(looks=1)
    assert watch.look({"a": 5}, {"a": 6}) == {}
    assert watch.look({}, {}) == {}
    assert watch.look({"a": 5}, {"a": 6}) == {}
    assert watch.look({"a": 5}, {"a": 6}) == {"a": 5}


def test_where_a_task_waits_is_told_to_its_innermost_call() -> None:
    async def inner(waits: asyncio.Future[None]) -> None:
        await waits

    async def items(waits: asyncio.Future[None]) -> AsyncIterator[None]:
        await inner(waits)
        yield

    async def outer(waits: asyncio.Future[None]) -> None:
        async for _ in items(waits):
            pass

    async def told() -> str:
        waits: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(outer(waits))
        await asyncio.sleep(0)
        text = where(task)
        waits.set_result(None)
        await task
        return text

    text = asyncio.run(told())
    calls = text.split(" > ")
    assert [call.partition(":")[0].rpartition(".")[2] for call in calls[:3]] == [
        "outer",
        "items",
        "inner",
    ]
