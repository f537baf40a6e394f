"""Waits for Kafka that aiokafka leaves without a deadline."""

import asyncio
import logging
from typing import Any

import pytest

from app.errors import NotAnsweringError
from app.kafka import clients as kafka
from app.kafka.clients import answered, started

#: Guards against hanging only.
PATIENCE_SECONDS = 60


class Silent:
    """A client whose broker stopped: it starts, and never answers again."""

    def __init__(self) -> None:
        self.closed = False
        self.client = self

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await asyncio.Event().wait()

    async def position(self, _tp: Any) -> int:
        await asyncio.Event().wait()
        return 0


class Inner(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.client = Closing()  # type: ignore[assignment]


class Closing:
    closed = False

    async def close(self) -> None:
        self.closed = True


async def test_a_wait_ends_with_a_line() -> None:
    with pytest.raises(NotAnsweringError, match=r"^Kafka did not say where within 0\.01 s$"):
        await answered(Silent().position(None), "Kafka did not say where", 0.01)

    async def three() -> int:
        return 3

    assert await answered(three(), "x") == 3


async def test_closing_a_client_of_a_silent_broker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "_CLOSE_SECONDS", 0.01)
    client = Inner()
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with started(client, "here"):
            pass
    assert client.client.closed


async def test_clients_that_start_together_leave_the_log_as_it_was() -> None:
    log = logging.getLogger("aiokafka")
    before = log.level

    class Slow(Closing):
        def __init__(self) -> None:
            self.goes_on = asyncio.Event()
            self.client = self

        async def start(self) -> None:
            await self.goes_on.wait()

    async def use(client: Slow) -> None:
        async with started(client, "here"):  # type: ignore[arg-type]
            pass

    first, second = Slow(), Slow()
    tasks = [asyncio.create_task(use(client)) for client in (first, second)]
    await asyncio.sleep(0)
    assert log.level == logging.CRITICAL
    first.goes_on.set()
    await tasks[0]
    assert log.level == logging.CRITICAL  # the other one still starts
    second.goes_on.set()
    await tasks[1]
    assert log.level == before
