"""Live precision: of the transactions that were flagged and have got a label lately, the share that are fraud.

Labels are remembered as they pass this worker. What was decided about their transactions is read from Cassandra by key,
each once, and only while somebody looks.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from app.durations import DAY_MS
from app.errors import FraudstreamError
from app.metrics.recent_labels import RecentLabel, RecentLabels

#: Labels that arrived in this time count.
WINDOW_MS = DAY_MS
#: How often labels are counted and decisions read, and how many of these at a time.
_EVERY_SECONDS, _AT_ONCE = 2.0, 500
Key = tuple[str, int]
#: Gives by transaction whether it was flagged; those that are not stored are left out.
ReadFlagged = Callable[[Sequence[RecentLabel]], Awaitable[Mapping[Key, bool]]]


class LabelledCounts(NamedTuple):
    """What live precision rests on.

    Attributes:
        labels: labelled transactions whose decision is known.
        flagged: those of them that were declined or sent to review.
        frauds: those of the flagged ones that are fraud.
    """

    labels: int = 0
    flagged: int = 0
    frauds: int = 0

    @property
    def precision(self) -> float | None:
        """The share of frauds among the flagged ones; None without any."""
        return self.frauds / self.flagged if self.flagged else None


def together(counts: Sequence[Mapping[str, int]]) -> LabelledCounts:
    """Of several workers."""
    return LabelledCounts(*(sum(one[name] for one in counts) for name in LabelledCounts._fields))


class LivePrecision:
    """Belongs to one event loop.

    Args:
        labels: the newest ones.
        read: gives decisions.
        now_ms: the present, epoch milliseconds.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        labels: RecentLabels,
        read: ReadFlagged,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._labels, self._read = labels, read
        self._now_ms, self._clock = now_ms, clock
        self._flagged: dict[Key, bool | None] = {}  # None: it is not stored
        self._reading: asyncio.Task[None] | None = None
        self._counts, self._next = LabelledCounts(), float("-inf")

    def counts(self) -> dict[str, int]:
        """The figures, some seconds old; begins to read the decisions that are not known. Never waits."""
        if self._clock() >= self._next:
            self._next = self._clock() + _EVERY_SECONDS
            self._count()
        return self._counts._asdict()

    def _count(self) -> None:
        begin = self._now_ms() - WINDOW_MS
        recent = {
            (one.transaction_id, one.event_time_ms): one
            for one in self._labels.newest()
            if one.received_at >= begin
        }
        self._flagged = {key: known for key, known in self._flagged.items() if key in recent}
        unknown = [one for key, one in recent.items() if key not in self._flagged]
        if unknown and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._learn(unknown[:_AT_ONCE]))
        flagged = [recent[key] for key, known in self._flagged.items() if known]
        self._counts = LabelledCounts(
            sum(known is not None for known in self._flagged.values()),
            len(flagged),
            sum(one.is_fraud for one in flagged),
        )

    def close(self) -> None:
        """Nobody waits any more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _learn(self, labels: Sequence[RecentLabel]) -> None:
        try:
            found: Mapping[Key, Any] = await self._read(labels)
        except FraudstreamError:  # the next look tries again
            return
        for one in labels:
            key = one.transaction_id, one.event_time_ms
            self._flagged[key] = found.get(key)
        self._next = float("-inf")  # count them at the next look
