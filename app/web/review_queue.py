"""Open alerts, ranked by expected loss, each given to one analyst at a time.

The ranking is a memory of this worker, a few seconds old. Who gets an alert, and whose verdict counts, is decided by
Cassandra (`app/cassandra/review_store.py`), so workers may differ in what they remember.

A verdict takes three steps: the review is written, the labels are on the topic, the review says so. If a worker dies in
between, whoever looks at the queue next repeats the rest; the labels are equal, and of equal labels one counts.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from app.cassandra.alert_store import DAYS_BACK, Alert
from app.cassandra.review_store import Ranking
from app.cassandra.reviews import Review
from app.domain.alert_seen import rows_seen, seen_of
from app.durations import DAY_MS
from app.errors import FraudstreamError, NotFoundError, UnavailableError, UsageError
from app.formats import iso
from app.settings import Settings
from app.web.replies import RefusedError

logger = logging.getLogger(__name__)

VERDICTS = ("fraud", "genuine")
#: How long an alert is kept for whoever took it.
LEASE_MS = 5 * 60_000
#: The ranking is read again when it is older, and not sooner than twenty times as long as that took: reading thousands
#: of alerts takes CPU from the stream.
_FRESH_SECONDS, _SHARE = 5.0, 20
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
#: Longest note.
_NOTE = 2_000
T = TypeVar("T")


class Store(Protocol):
    """See `app.cassandra.review_store.ReviewStore`."""

    def ranked(self, from_ms: int, to_ms: int, now_ms: int, most: int) -> Ranking:
        """Open alerts."""

    def unsent(self, from_ms: int, to_ms: int, decided_before_ms: int) -> list[str]:
        """Decided ones without labels."""

    def alert(self, alert_id: str, now_ms: int) -> Alert | None:
        """One alert."""

    def of_card(self, card_id: str, from_ms: int, now_ms: int) -> list[Alert]:
        """A card's open ones."""

    def claim(
        self, alert_id: str, by: str, until_ms: int, now_ms: int, decided_at: int | None = None
    ) -> Review:
        """Take one."""

    def release(self, alert_id: str, by: str) -> None:
        """Give one back."""

    def decide(self, alert_id: str, wanted: Review, decided_at: int | None = None) -> Review:
        """Write a verdict."""

    def close(self, alert_id: str, review: Review, now_ms: int) -> None:
        """Labels were sent."""


class Reviewing(Protocol):
    """What the queue needs of a worker."""

    @property
    def settings(self) -> Settings:
        """The deployment's settings."""

    @property
    def reviews(self) -> Store:
        """The store; it blocks."""

    async def look_up(self, ask: Callable[..., T], *arguments: Any) -> T:
        """Call something that blocks."""

    async def send_labels(self, labels: Sequence[dict[str, Any]]) -> None:
        """Append labels to the topic; done once they are durable."""


class ReviewQueue:
    """The queue of one worker.

    Args:
        worker: whose.
        now_ms: the present, epoch milliseconds.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        worker: Reviewing,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker, self._now_ms, self._clock = worker, now_ms, clock
        self._ranked: dict[str, Alert] = {}  # by id, the greatest expected loss first
        self._open = 0
        self._reviews: dict[str, Review] = {}
        self._offered: dict[str, float] = {}
        self._next_read, self._fault = float("-inf"), ""
        self._lock = asyncio.Lock()
        # held by the thread that reads, for as long as it does: a request may have given up long before
        self._reading = threading.Lock()
        self._read: tuple[Ranking, list[str], float] | None = None

    def now_ms(self) -> int:
        """The present, epoch milliseconds."""
        return self._now_ms()

    # ------------------------------------------------------------------ looking

    async def ranked(self, limit: int) -> tuple[list[tuple[Alert, str | None]], int]:
        """The open alerts with the greatest expected loss, it first, and who has them; and how many are open."""
        await self._renew()
        now = self._now_ms()
        best = islice(self._ranked.items(), limit)
        return [(alert, self._known(name).holder(now)) for name, alert in best], self._open

    async def look(self, alert_id: str) -> Alert:
        """One alert as it is.

        Raises:
            NotFoundError: there is none.
        """
        found = await self._ask(self._worker.reviews.alert, alert_id, self._now_ms())
        if found is None:
            msg = f"no alert {alert_id!r}"
            raise NotFoundError(msg)
        return found

    # ------------------------------------------------------------------ acting

    async def next(self, by: str, skip: Collection[str] = ()) -> Alert | None:
        """Take the alert with the greatest expected loss; one that the asker has already comes first.

        Args:
            by: who asks.
            skip: ids of alerts that they want later.

        Returns:
            None: there is none that nobody has.
        """
        await self._renew()
        now = self._now_ms()
        theirs = [name for name, known in self._reviews.items() if known.holder(now) == by]
        for name in [*theirs, *self._ranked]:
            if (
                name in skip
                or self._known(name).holder(now) not in (None, by)
                or not self._offer(name, by)
            ):
                continue
            if (await self._claim(name, by)).holder(self._now_ms()) != by:
                continue
            found = await self._ask(self._worker.reviews.alert, name, self._now_ms())
            if found is not None and found.state == "open":
                return found  # with the transactions that have come since
            await self._ask(self._worker.reviews.release, name, by)
            self._forget(name)
        return None

    async def give_back(self, by: str, alert_id: str) -> None:
        """Somebody else may have it."""
        await self.look(alert_id)
        await self._ask(self._worker.reviews.release, alert_id, by)
        self._reviews[alert_id] = replace(
            self._known(alert_id), claimed_by=None, claimed_until=None
        )
        self._offered.pop(alert_id, None)

    async def decide(
        self, by: str, alert_id: str, verdict: str, seen: str | Collection[str] | None, note: str
    ) -> int:
        """Decide an alert that the asker has; gives the number of labels. Deciding the same again is no error.

        Args:
            by: who.
            alert_id: which.
            verdict: one of `VERDICTS`.
            seen: what they saw: as `seen_of` gives it, or ids of transactions; None: all.
            note: free text, may be empty.

        Raises:
            NotFoundError: there is no such alert.
            RefusedError: somebody else has it, or has decided it, or it is not what was seen.
            UsageError: there is no such verdict.
        """
        if verdict not in VERDICTS:
            msg = f"verdict {verdict!r}: there are {', '.join(VERDICTS)}"
            raise UsageError(msg)
        if len(note) > _NOTE:
            msg = f"a note has at most {_NOTE:,} characters"
            raise UsageError(msg)
        alert = await self.look(alert_id)
        known = alert.review
        if (known.verdict, known.decided_by) == (verdict, by) and _is_of(alert, known, seen):
            self._forget(alert_id)
            return await self._finish(alert, known)
        if known.unsent:  # the next verdict would hide that
            await self._finish(alert, known)
        about = _about(alert, seen)
        if not about:
            if known.verdict is not None and not alert.todo:
                raise RefusedError(409, _why_not(known, by, self._now_ms()))
            raise RefusedError(400, "none of these transactions of this alert is to be decided")
        wanted = Review(
            None, None, verdict, by, self._now_ms(), about, note or None, known.earlier + known.transactions
        )  # fmt: skip
        review = await self._ask(self._worker.reviews.decide, alert_id, wanted, known.decided_at)
        if review != wanted:
            raise RefusedError(409, _why_not(review, by, self._now_ms(), known))
        count = await self._finish(alert, review)
        self._forget(alert_id)
        return count

    async def decide_card(
        self, by: str, card_id: str, verdict: str, note: str
    ) -> tuple[list[str], int, int]:
        """Decide the open alerts of a card; gives their ids, the number of labels, and of alerts that others have.

        Raises:
            UsageError: as `decide`.
        """
        now = self._now_ms()
        begin = now - DAYS_BACK * DAY_MS
        alerts = await self._ask(self._worker.reviews.of_card, card_id, begin, now)
        decided, labels, others = [], 0, 0
        for alert in alerts:
            name = alert.alert_id
            self._reviews[name] = alert.review
            if (await self._claim(name, by)).holder(self._now_ms()) != by:
                others += 1
                continue
            try:
                labels += await self.decide(by, name, verdict, seen_of(alert.todo), note)
            except RefusedError:  # the others are decided all the same
                others += 1
                continue
            decided.append(name)
        return decided, labels, others

    # ------------------------------------------------------------------ inside

    async def _ask(self, ask: Callable[..., T], *arguments: Any) -> T:
        return await self._worker.look_up(ask, *arguments)

    def _offer(self, name: str, by: str) -> bool:
        """Whether this worker offers it to nobody else at this moment."""
        now = self._clock()
        if self._offered.get(name, float("-inf")) > now and self._known(name).claimed_by != by:
            return False
        self._offered[name] = now + _OFFERED_SECONDS
        return True

    def _known(self, name: str) -> Review:
        return self._reviews.get(name, Review())

    async def _claim(self, alert_id: str, by: str) -> Review:
        now, known = self._now_ms(), self._known(alert_id).decided_at
        review = await self._ask(
            self._worker.reviews.claim, alert_id, by, now + LEASE_MS, now, known
        )
        self._reviews[alert_id] = review
        if review.decided_at != known:  # decided meanwhile
            self._forget(alert_id)
        return review

    def _forget(self, alert_id: str) -> None:
        self._open -= alert_id in self._ranked
        for known in (self._ranked, self._reviews, self._offered):
            known.pop(alert_id, None)

    async def _renew(self) -> None:
        """Read the ranking if it is old. One thread reads at a time, also where nobody waits for it any more."""
        async with self._lock:
            unsent = self._adopt()
            if not unsent and self._clock() >= self._next_read and not self._reading.locked():
                now = self._now_ms()
                end = now + self._worker.settings.max_future_skew + 1
                try:
                    await self._ask(self._read_all, end, now)
                    self._fault = ""
                except FraudstreamError as error:
                    self._next_read, self._fault = self._clock() + _FAILED_SECONDS, str(error)
                unsent = self._adopt()
            never = self._next_read == float("-inf")  # whoever began to read has gone
            if not self._ranked and (self._fault or never):
                raise UnavailableError(self._fault or "the queue is being read; try again")
        for name in unsent:
            try:
                alert = await self.look(name)
                if alert.review.unsent:
                    await self._finish(alert, alert.review)
            except FraudstreamError as error:  # whoever looks next tries again
                logger.warning("labels of the verdict on alert %s were not sent: %s", name, error)

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
        self._ranked, self._open = {alert.alert_id: alert for alert in found.alerts}, found.open
        self._reviews = {alert.alert_id: alert.review for alert in found.alerts}
        self._offered = {n: at for n, at in self._offered.items() if at > self._clock()}
        self._next_read, self._fault = self._clock() + max(_FRESH_SECONDS, _SHARE * took), ""
        return unsent

    async def _finish(self, alert: Alert, review: Review) -> int:
        """Send the labels of a verdict, and write down that they are sent. Safe to repeat."""
        ids = frozenset(review.transactions)
        rows = [row for row in alert.transactions if row["transaction_id"] in ids]
        assert review.decided_at is not None
        if review.unsent:
            await self._worker.send_labels(
                [label(row, review.verdict == "fraud", review.decided_at) for row in rows]
            )
            await self._ask(self._worker.reviews.close, alert.alert_id, review, self._now_ms())
        return len(rows)


def _about(alert: Alert, seen: str | Collection[str] | None) -> tuple[str, ...]:
    """Ids of an alert's undecided transactions that somebody saw."""
    if isinstance(seen, str):
        try:
            rows = rows_seen(alert.todo, seen)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if rows is None:
            if not alert.todo:
                return ()
            raise RefusedError(
                409, "the alert has other transactions than it had: look at it again"
            )
        return tuple(row["transaction_id"] for row in rows)
    ids = (row["transaction_id"] for row in alert.todo)
    return tuple(name for name in ids if seen is None or name in seen)


def _is_of(alert: Alert, review: Review, seen: str | Collection[str] | None) -> bool:
    """Whether a verdict is the one that somebody gives again: about what they saw."""
    if seen is None:
        return not alert.todo
    if isinstance(seen, str):
        ids = frozenset(review.transactions)
        return seen == seen_of(r for r in alert.transactions if r["transaction_id"] in ids)
    return set(seen) == set(review.transactions)


def label(row: dict[str, Any], is_fraud: bool, at_ms: int) -> dict[str, Any]:
    """The record for `labels` of a transaction.

    Args:
        row: with its id, card, terminal and event time.
        is_fraud: the verdict.
        at_ms: when it was given, epoch milliseconds.
    """
    terminal = {} if row["terminal_id"] is None else {"terminal_id": row["terminal_id"]}
    return {
        "transaction_id": row["transaction_id"],
        "is_fraud": is_fraud,
        "labelled_at": iso(at_ms),
        "card_id": row["card_id"],
        "event_time": iso(row["event_time_ms"]),
        **terminal,
    }


def _why_not(review: Review, by: str, now_ms: int, known: Review | None = None) -> str:
    if review.verdict is not None and (known is None or review.decided_at != known.decided_at):
        return f"{review.decided_by} has decided it already: {review.verdict}"
    holder = review.holder(now_ms)
    if holder is None or holder == by:
        return "the claim has ended: take the alert again"
    return f"{holder} has taken it in the meantime"
