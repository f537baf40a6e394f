"""The sink's delivery tells how long each row took, once Cassandra has it, and nothing of rows it has not."""

import asyncio
from typing import Any

import pytest

from app.adapters.delivery import Delivery
from app.adapters.prediction_rows import PackedRows
from app.metrics.recorders import SinkStatus
from app.settings import Settings


class Writer:
    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def submit(self, rows: Any) -> "asyncio.Future[None]":
        return self.future


async def delivered(outcome: BaseException | None) -> tuple[list[float], list[float]]:
    appended: list[float] = []
    happened: list[float] = []
    delivery = Delivery(
        Settings(_env_file=None),  # type: ignore[call-arg]
        status=SinkStatus(),
        clock_ms=lambda: 1_000.0,
        since_append=appended.extend,
        since_event=happened.extend,
    )
    writer = Writer()
    delivery._writer = writer  # type: ignore[assignment]
    durable = await delivery.deliver(0, PackedRows([b"a", b"b"], [990, 995], [900, 950]))
    assert not appended
    if outcome is None:
        writer.future.set_result(None)
        await durable
    else:
        writer.future.set_exception(outcome)
        with pytest.raises(type(outcome)):
            await durable
    await asyncio.sleep(0)  # the callback's turn
    return appended, happened


async def test_latencies_count_from_the_append_and_from_the_event() -> None:
    assert await delivered(None) == ([10.0, 5.0], [100.0, 50.0])


async def test_rows_that_were_not_written_have_no_latency() -> None:
    assert await delivered(ValueError("no")) == ([], [])
