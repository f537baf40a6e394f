"""What one worker remembers of the open alerts: their ranking, how old it may be, and who has them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

from app.cassandra.alert_queries import DAYS_BACK
from app.cassandra.review_order import Ranking
from app.cassandra.review_rows import Review
from app.cassandra.stored_alert import Alert
from app.durations import DAY_MS
from app.errors import FraudstreamError, UnavailableError
from app.settings import Settings

T = TypeVar("T")

#: The ranking is read again when it is older, and not sooner than twenty times as long as that took: reading thousands
#: of alerts takes CPU from the stream.
_FRESH_SECONDS, _SHARE = 5.0, 20
#: What a request waits for a newer ranking where an older one is known: claims and verdicts do not depend on it.
_WAIT_SECONDS = 1.0
#: After a read that failed.
_FAILED_SECONDS = 30.0
#: Alerts that a worker remembers: those with the greatest expected loss.
_KEPT = 5_000
#: A verdict whose labels were not sent after this time is finished by whoever looks.
_FINISH_MS = 30_000
#: How much older than the queue its alert may be meanwhile.
_FINISH_DAYS = 3
#: One that this worker has just given to somebody is not offered to the next while Cassandra is asked.
_OFFERED_SECONDS = 10.0


class AlertRankings(Protocol):
    """What reads them (`app.cassandra.claims_and_verdicts.ReviewStore`)."""

    def ranked(self, from_ms: int, to_ms: int, now_ms: int, most: int) -> Ranking:
        """Open alerts."""

    def unsent(self, from_ms: int, to_ms: int, decided_before_ms: int) -> list[str]:
        """Decided ones without labels."""


class AlertReading(Protocol):
    """What the memory needs of a worker."""

    @property
    def settings(self) -> Settings:
        """The deployment's settings."""

    @property
    def reviews(self) -> AlertRankings:
        """The store; it blocks."""

    async def look_up(self, ask: Callable[..., T], *arguments: Any) -> T:
        """Call something that blocks."""


class OpenAlerts:
    """The memory.

    Args:
        worker: whose.
        now_ms: the present, epoch milliseconds.
        clock: seconds that never go back.

    Attributes:
        count: how many alerts are open, those that are not remembered included.
    """

    def __init__(
        self, worker: AlertReading, now_ms: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        self.count = 0
        self._worker, self._now_ms, self._clock = worker, now_ms, clock
        self._ranked: dict[str, Alert] = {}  # by id, the greatest expected loss first
        self._reviews: dict[str, Review] = {}
        self._offered: dict[str, float] = {}
        self._next_read, self._fault = float("-inf"), ""
        self._lock = asyncio.Lock()
        # held by the thread that reads, for as long as it does: a request may have given up long before
        self._reading = threading.Lock()
        self._read: tuple[Ranking, list[str], float] | None = None
        self._asking: asyncio.Task[None] | None = None
        #: Alerts that were claimed, given back or decided here since the reading began: it may not have seen that.
        self._touched: set[str] = set()

    def best(self, limit: int) -> list[Alert]:
        """Those with the greatest expected loss, it first."""
        return list(islice(self._ranked.values(), limit))

    def offers(self, by: str) -> Iterator[str]:
        """Ids in the order in which they are offered to somebody: what they have already comes first."""
        now = self._now_ms()
        theirs = [name for name, known in self._reviews.items() if known.holder(now) == by]
        return iter([*theirs, *self._ranked])

    def offer(self, name: str, by: str) -> bool:
        """Whether somebody may have it; then it is offered to nobody else for a moment."""
        if self.review(name).holder(self._now_ms()) not in (None, by):
            return False
        now = self._clock()
        if self._offered.get(name, float("-inf")) > now and self.review(name).claimed_by != by:
            return False
        self._offered[name] = now + _OFFERED_SECONDS
        return True

    def review(self, name: str) -> Review:
        """What is known of an alert's review."""
        return self._reviews.get(name, Review())

    def keep(self, name: str, review: Review) -> None:
        """Remember a review."""
        self._reviews[name] = review
        self._touched.add(name)

    def free(self, name: str, review: Review) -> None:
        """Remember the review of an alert that was given back."""
        self.keep(name, review)
        self._offered.pop(name, None)

    def forget(self, name: str) -> None:
        """It is not open any more."""
        self._touched.add(name)
        self.count -= name in self._ranked
        for known in (self._ranked, self._reviews, self._offered):
            known.pop(name, None)

    async def renew(self) -> list[str]:
        """Read the ranking if it is old. One thread reads at a time, also where nobody waits for it any more.

        Where a ranking is known, a slow read goes on without whoever asks: it holds from the next request on.

        Returns:
            Ids of decided alerts whose labels are still to be sent.

        Raises:
            UnavailableError: nothing is known yet, and it cannot be read now.
        """
        async with self._lock:
            unsent = self._adopt()
            if not unsent and self._clock() >= self._next_read and not self._is_read:
                self._asking = asyncio.create_task(self._ask_all())
                await asyncio.wait({self._asking}, timeout=_WAIT_SECONDS if self._ranked else None)
                unsent = self._adopt()
            never = self._next_read == float("-inf")  # whoever began to read has gone
            if not self._ranked and (self._fault or never):
                raise UnavailableError(self._fault or "the queue is being read; try again")
        return unsent

    @property
    def _is_read(self) -> bool:
        """Whether the ranking is being read."""
        return self._reading.locked() or (self._asking is not None and not self._asking.done())

    async def _ask_all(self) -> None:
        now = self._now_ms()
        end = now + self._worker.settings.max_future_skew + 1
        self._touched.clear()
        try:
            await self._worker.look_up(self._read_all, end, now)
            self._fault = ""
        except FraudstreamError as error:
            self._next_read, self._fault = self._clock() + _FAILED_SECONDS, str(error)

    def _read_all(self, end: int, now: int) -> None:
        """Read the ranking; in a thread, which leaves what it found to the next request."""
        if not self._reading.acquire(blocking=False):
            return
        try:
            began, begin = self._clock(), end - DAYS_BACK * DAY_MS
            store = self._worker.reviews
            found = store.ranked(begin, end, now, _KEPT)
            unsent = store.unsent(begin - _FINISH_DAYS * DAY_MS, end, now - _FINISH_MS)
            self._read = found, unsent, self._clock() - began
        finally:
            self._reading.release()

    def _adopt(self) -> list[str]:
        """Take over what a thread has read; gives alerts whose labels are to be sent."""
        if self._read is None:
            return []
        (found, unsent, took), self._read = self._read, None
        known, reviews = self._ranked, self._reviews
        self._ranked = {alert.alert_id: alert for alert in found.alerts}
        self._reviews = {alert.alert_id: alert.review for alert in found.alerts}
        self.count = found.open
        for name in self._touched & self._ranked.keys():
            if name in known:
                self._reviews[name] = reviews.get(name, Review())
            else:  # decided meanwhile
                self.forget(name)
        self._touched.clear()
        self._offered = {n: at for n, at in self._offered.items() if at > self._clock()}
        self._next_read, self._fault = self._clock() + max(_FRESH_SECONDS, _SHARE * took), ""
        return unsent
