"""When a partition counts as stalled: its outputs are forwarded, and a server keeps it from finishing."""

import asyncio
from collections import deque
from collections.abc import Callable

import pytest

from app.blocks.core.alignment_position import ForwardedPosition, InFlightBlock
from app.blocks.core.interfaces import Block, Computed, SentOutputs

STALLED_SECONDS = 0.1


class Gate:
    """Is told of progress."""

    until_ms = 0.0

    def hold(self) -> None: ...

    def started(self) -> None: ...

    def finished(self, newest_ms: int | None) -> None: ...

    def stalled(self) -> None: ...


class InFlight:
    """Two blocks in flight, which are not durable."""

    def __init__(self) -> None:
        self.steps = deque(
            InFlightBlock(Block([], begin=number, end=number + 1), Computed(), number)
            for number in range(2)
        )
        self.position = ForwardedPosition(self.steps, 0, Gate())
        self._sent = []
        for step in self.steps:
            loop = asyncio.get_running_loop()
            self._sent.append(SentOutputs(loop.create_future(), loop.create_future()))
            self.position.expect(step, self._sent[-1])

    def forward(self, number: int) -> None:
        self._sent[number].forwarded.set_result(None)

    def finish(self) -> None:
        """The first one is durable."""
        self.position.advance(self.steps.popleft())
        self.position.finished()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.blocks.core.alignment_position._STALLED_SECONDS", STALLED_SECONDS)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_the_first_one_stalls_and_goes_on() -> None:
    blocks = InFlight()
    blocks.forward(0)
    await until(lambda: blocks.position.stalled)
    blocks.finish()
    assert not blocks.position.stalled


async def test_one_that_was_forwarded_before_those_before_it_stalls_when_they_are_done() -> None:
    """Nothing follows it: only the time since it was forwarded tells."""
    blocks = InFlight()
    blocks.forward(1)
    await asyncio.sleep(
        2 * STALLED_SECONDS
    )  # nobody waits for a server yet: block 0 is not forwarded
    assert not blocks.position.stalled
    blocks.forward(0)
    blocks.finish()
    await until(lambda: blocks.position.stalled)


async def test_one_that_is_durable_does_not_stall() -> None:
    blocks = InFlight()
    blocks.forward(0)
    blocks.finish()
    await asyncio.sleep(3 * STALLED_SECONDS)
    assert not blocks.position.stalled
