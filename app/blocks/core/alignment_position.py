"""Up to which offset later stages have the outputs of a partition: these are durable in two parts (`SentOutputs`)."""

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.blocks.core.interfaces import AlignmentGate, Block, Computed, SentOutputs

#: A block that is forwarded and not durable for so long waits for a server. Others then run ahead of its partition, and
#: compute what they would not have computed in step with it. A broker or a machine that is slow is no reason for that:
#: with ten times the load that a machine can carry, an acknowledgement takes longer than a second.
_STALLED_SECONDS = 10.0


@dataclass(slots=True)
class InFlightBlock:
    """A block in flight.

    Attributes:
        number: rises with each.
        durable: resolves once its outputs are durable; None before they are sent.
        forwarded: whether later stages have its outputs.
    """

    block: Block
    computed: Computed
    number: int
    durable: asyncio.Future[Any] | None = None
    forwarded: bool = False


class ForwardedPosition:
    """The position that event-time alignment counts.

    Args:
        steps: the blocks in flight of a partition, in order.
        start: offset at which the partition starts.
        gate: is told of progress; None: nobody is.

    Attributes:
        offset: offset after the last record whose outputs later stages have.
        stalled: whether a server keeps the partition from finishing what is forwarded. Other partitions do not wait
            for it: the server may be away for hours.
    """

    def __init__(self, steps: deque[InFlightBlock], start: int, gate: AlignmentGate | None) -> None:
        self.offset = start
        self.stalled = False
        self._steps = steps
        self._gate = gate

    def first_ms(self, held_ms: int | None) -> int | None:
        """Event time of the first record that is not forwarded; `held_ms` where all in flight are."""
        try:  # the consumer's thread asks, too: meanwhile the steps may change
            step = next((step for step in self._steps if not step.forwarded), None)
        except RuntimeError:
            return None
        return held_ms if step is None else step.computed.first_ms

    def expect(self, step: InFlightBlock, sent: SentOutputs) -> None:
        """The outputs of a step are on their way."""
        sent.forwarded.add_done_callback(partial(self._arrived, step))

    def _arrived(self, step: InFlightBlock, sent: asyncio.Future[Any]) -> None:
        if sent.cancelled() or sent.exception() is not None:
            return  # what is durable has the error, too
        step.forwarded = True
        for each in self._steps:
            if not each.forwarded:
                break
            self.advance(each)
        self._watch(step)

    def advance(self, step: InFlightBlock) -> None:
        """A step is forwarded, and all before it."""
        if step.block.end > self.offset:
            self.offset = step.block.end
            if self._gate is not None:
                self._gate.finished(step.computed.newest_ms)

    def finished(self) -> None:
        """Some steps are durable: whatever kept them has answered."""
        if self.stalled and self._gate is not None:
            self.stalled = False
            self._gate.stalled()
            if self._steps and self._steps[0].forwarded:
                self._watch(self._steps[0])

    def _watch(self, step: InFlightBlock) -> None:
        if self._gate is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(_STALLED_SECONDS, self._look, self._gate, step)

    def _look(self, gate: AlignmentGate, step: InFlightBlock) -> None:
        if all(step is not other for other in self._steps):
            return
        if self._steps[0] is not step:
            # it may be the first one later, and nothing else asks about it then
            self._watch(step)
        elif not self.stalled:
            self.stalled = True
            gate.stalled()
