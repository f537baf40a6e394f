"""Open alerts, ranked by expected loss, each given to one analyst at a time.

The ranking is a memory of this worker, a few seconds old. Who gets an alert, and whose verdict counts, is decided by
Cassandra (`app/cassandra/review_store.py`), so workers may differ in what they remember.

A verdict takes three steps: the review is written, the labels are on the topic, the alert is acknowledged. If a worker
dies in between, whoever looks at the queue next repeats the rest; the labels are equal, and of equal labels one counts.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeVar

from app.cassandra.alert_store import DAYS_BACK, Alert
from app.cassandra.review_store import Review
from app.domain.alerts import expected_loss
from app.durations import DAY_MS
from app.errors import NotFoundError, UsageError
from app.formats import iso
from app.settings import Settings
from app.web.replies import RefusedError

VERDICTS = ("fraud", "genuine")
#: How long an alert is kept for whoever took it.
LEASE_MS = 5 * 60_000
#: The ranking is read again when it is older, and not sooner than twenty times as long as that took: reading thousands
#: of alerts takes CPU from the stream.
_FRESH_SECONDS, _SHARE = 5.0, 20
#: A verdict whose labels were not sent after this time is finished by whoever looks.
_FINISH_MS = 30_000
#: One that this worker has just given to somebody is not offered to the next while Cassandra is asked.
_OFFERED_SECONDS = 10.0
#: Longest note.
_NOTE = 2_000
T = TypeVar("T")


class Store(Protocol):
    """See `app.cassandra.review_store.ReviewStore`."""

    def alerts(self, from_ms: int, to_ms: int, now_ms: int) -> list[tuple[Alert, Review | None]]:
        """Open alerts and their reviews."""

    def alert(self, alert_id: str, now_ms: int) -> tuple[Alert, Review] | None:
        """One of them."""

    def of_card(self, card_id: str, now_ms: int) -> list[Alert]:
        """A card's open ones."""

    def claim(self, alert_id: str, by: str, until_ms: int, now_ms: int) -> Review:
        """Take one."""

    def release(self, alert_id: str, by: str) -> None:
        """Give one back."""

    def decide(self, alert_id: str, wanted: Review) -> Review:
        """Write a verdict."""

    def close(self, alert_id: str, review: Review) -> None:
        """Acknowledge one."""


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
        self._reviews: dict[str, Review] = {}
        self._offered: dict[str, float] = {}
        self._read_at, self._took = float("-inf"), 0.0
        self._lock = asyncio.Lock()

    # ------------------------------------------------------------------ looking

    async def ranked(self) -> list[tuple[Alert, str | None]]:
        """Undecided alerts, the greatest expected loss first, and who has them."""
        await self._renew()
        now = self._now_ms()
        return [
            (alert, self._reviews.get(name, Review()).holder(now))
            for name, alert in self._ranked.items()
        ]

    async def look(self, alert_id: str) -> tuple[Alert, Review]:
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
            holder = self._reviews.get(name, Review()).holder(now)
            if name in skip or holder not in (None, by) or not self._offer(name, by):
                continue
            review = await self._claim(name, by)
            if review.holder(self._now_ms()) != by:
                continue
            found = await self._ask(self._worker.reviews.alert, name, self._now_ms())
            if found is not None and found[0].state == "open":
                return found[0]  # with the transactions that have come since
            await self._ask(self._worker.reviews.release, name, by)
            self._forget(name)
        return None

    async def give_back(self, by: str, alert_id: str) -> None:
        """Somebody else may have it."""
        await self.look(alert_id)
        await self._ask(self._worker.reviews.release, alert_id, by)
        self._reviews[alert_id] = Review()
        self._offered.pop(alert_id, None)

    async def decide(
        self, by: str, alert_id: str, verdict: str, seen: Collection[str] | None, note: str
    ) -> int:
        """Decide an alert that the asker has; gives the number of labels.

        Args:
            by: who.
            alert_id: which.
            verdict: one of `VERDICTS`.
            seen: ids of the transactions that they saw; None: all.
            note: free text, may be empty.

        Raises:
            NotFoundError: there is no such alert.
            RefusedError: somebody else has it, or has decided it.
            UsageError: there is no such verdict.
        """
        if verdict not in VERDICTS:
            msg = f"verdict {verdict!r}: there are {', '.join(VERDICTS)}"
            raise UsageError(msg)
        if len(note) > _NOTE:
            msg = f"a note has at most {_NOTE:,} characters"
            raise UsageError(msg)
        alert, _ = await self.look(alert_id)
        ids = [row["transaction_id"] for row in alert.transactions]
        about = tuple(name for name in ids if seen is None or name in seen)
        if not about:
            raise RefusedError(400, "none of these transactions is of this alert")
        wanted = Review(None, None, verdict, by, self._now_ms(), about, note or None)
        review = await self._ask(self._worker.reviews.decide, alert_id, wanted)
        if review != wanted:
            raise RefusedError(409, _why_not(review, by, self._now_ms()))
        count = await self._finish(alert, review)
        self._forget(alert_id)
        return count

    async def decide_card(
        self, by: str, card_id: str, verdict: str, note: str
    ) -> tuple[list[str], int, int]:
        """Decide all open alerts of a card; gives their ids, the number of labels, and of alerts that others have.

        Raises:
            UsageError: as `decide`.
        """
        alerts = await self._ask(self._worker.reviews.of_card, card_id, self._now_ms())
        decided, labels, others = [], 0, 0
        for alert in alerts:
            review = await self._claim(alert.alert_id, by)
            if review.holder(self._now_ms()) != by:
                others += 1
                continue
            seen = {row["transaction_id"] for row in alert.transactions}
            labels += await self.decide(by, alert.alert_id, verdict, seen, note)
            decided.append(alert.alert_id)
        return decided, labels, others

    # ------------------------------------------------------------------ inside

    async def _ask(self, ask: Callable[..., T], *arguments: Any) -> T:
        return await self._worker.look_up(ask, *arguments)

    def _offer(self, name: str, by: str) -> bool:
        """Whether this worker offers it to nobody else at this moment."""
        now = self._clock()
        if (
            self._offered.get(name, float("-inf")) > now
            and self._reviews.get(name, Review()).claimed_by != by
        ):
            return False
        self._offered[name] = now + _OFFERED_SECONDS
        return True

    async def _claim(self, alert_id: str, by: str) -> Review:
        now = self._now_ms()
        review = await self._ask(self._worker.reviews.claim, alert_id, by, now + LEASE_MS, now)
        self._reviews[alert_id] = review
        if review.verdict is not None:
            self._forget(alert_id)
        return review

    def _forget(self, alert_id: str) -> None:
        for known in (self._ranked, self._reviews, self._offered):
            known.pop(alert_id, None)

    async def _renew(self) -> None:
        async with self._lock:
            age = self._clock() - self._read_at
            if age < max(_FRESH_SECONDS, _SHARE * self._took):
                return
            began, now = self._clock(), self._now_ms()
            end = now + self._worker.settings.max_future_skew + 1
            found = await self._ask(self._worker.reviews.alerts, end - DAYS_BACK * DAY_MS, end, now)
            undecided = [(a, r) for a, r in found if r is None or r.verdict is None]
            undecided.sort(key=lambda one: -expected_loss(one[0].transactions))
            self._ranked = {alert.alert_id: alert for alert, _ in undecided}
            self._reviews = {alert.alert_id: review for alert, review in undecided if review}
            self._offered = {n: at for n, at in self._offered.items() if at > self._clock()}
            self._read_at, self._took = self._clock(), self._clock() - began
        for alert, review in found:
            undone = review is not None and review.verdict is not None
            if review and undone and now - (review.decided_at or 0) > _FINISH_MS:
                await self._finish(alert, review)

    async def _finish(self, alert: Alert, review: Review) -> int:
        """Send the labels of a verdict, and acknowledge its alert. Safe to repeat."""
        rows = [row for row in alert.transactions if row["transaction_id"] in review.transactions]
        assert review.decided_at is not None
        await self._worker.send_labels(
            [label(row, review.verdict == "fraud", review.decided_at) for row in rows]
        )
        await self._ask(self._worker.reviews.close, alert.alert_id, review)
        return len(rows)


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


def _why_not(review: Review, by: str, now_ms: int) -> str:
    if review.verdict is not None:
        return f"{review.decided_by} has decided it already: {review.verdict}"
    holder = review.holder(now_ms)
    if holder is None or holder == by:
        return "the claim has ended: take the alert again"
    return f"{holder} has taken it in the meantime"
