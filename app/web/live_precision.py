"""Live precision: of the transactions that were flagged and have got a label lately, the share that are fraud.

Labels are taken as they pass this worker. What was decided about their transactions is read from Cassandra by key, each
once, whether somebody looks or not: only flagged ones are remembered.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from app.errors import FraudstreamError
from app.metrics.labelled_flags import Key, LabelledFlags, RecentLabel

#: How often decisions are read, and how many at a time: a worker keeps up with 500 labels per second.
_EVERY_SECONDS, _AT_ONCE = 1.0, 500
#: Gives by transaction whether it was flagged; those that are not stored are left out.
ReadFlagged = Callable[[Sequence[RecentLabel]], Awaitable[Mapping[Key, bool]]]


class LabelledCounts(NamedTuple):
    """What live precision rests on.

    Attributes:
        flagged: labelled transactions that were declined or sent to review.
        frauds: those of them that are fraud.
        since_ms: from when on no label is missing, epoch milliseconds; 0: in the whole window.
    """

    flagged: int = 0
    frauds: int = 0
    since_ms: int = 0

    @property
    def precision(self) -> float | None:
        """The share of frauds among the flagged ones; None without any."""
        return self.frauds / self.flagged if self.flagged else None


def together(counts: Sequence[Mapping[str, int]]) -> LabelledCounts:
    """Of several workers."""
    return LabelledCounts(
        sum(one["flagged"] for one in counts),
        sum(one["frauds"] for one in counts),
        # a worker of an earlier release does not say since when
        max((one.get("since_ms", 0) for one in counts), default=0),
    )


class LivePrecision:
    """Belongs to one event loop, which calls `counts` once a second.

    Args:
        labels: those that pass this worker.
        read: gives decisions.
        now_ms: the present, epoch milliseconds.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        labels: LabelledFlags,
        read: ReadFlagged,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._labels, self._read = labels, read
        self._now_ms, self._clock = now_ms, clock
        self._reading: asyncio.Task[None] | None = None
        self._next = float("-inf")

    def counts(self) -> dict[str, int]:
        """The figures; begins to read decisions that are not known. Never waits."""
        now_ms = self._now_ms()
        if self._clock() >= self._next and (self._reading is None or self._reading.done()):
            self._next = self._clock() + _EVERY_SECONDS
            if some := self._labels.undecided(_AT_ONCE, now_ms):
                self._reading = asyncio.create_task(self._learn(some))
        return LabelledCounts(*self._labels.counts(now_ms))._asdict()

    def close(self) -> None:
        """Nobody waits any more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _learn(self, labels: Sequence[RecentLabel]) -> None:
        try:
            found = await self._read(labels)
        except FraudstreamError:  # the next look tries again
            return
        self._labels.decided(labels, found)
