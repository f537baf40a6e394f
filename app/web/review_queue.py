"""Open alerts, ranked by expected loss, each given to one analyst at a time.

The ranking is a memory of this worker (review_order_cache.py). Who gets an alert, and whose verdict counts, is decided
by Cassandra (`app/cassandra/claims_and_verdicts.py`), so workers may differ in what they remember.

A verdict takes three steps: the review is written, the labels are on the topic, the review says so. If a worker dies in
between, whoever looks at the queue next repeats the rest; the labels are equal, and of equal labels one counts.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from app.cassandra.alert_queries import DAYS_BACK
from app.cassandra.review_rows import Review
from app.cassandra.stored_alert import Alert
from app.domain.alert_seen import rows_seen, seen_of
from app.durations import DAY_MS
from app.errors import FraudstreamError, NotFoundError, UsageError
from app.web.replies import RefusedError
from app.web.review_order_cache import OpenAlerts
from app.web.review_reads import ReviewingWorker
from app.wire.label_records import label_of_row

logger = logging.getLogger(__name__)

VERDICTS = ("fraud", "genuine")
#: How long an alert is kept for whoever took it.
LEASE_MS = 5 * 60_000
#: Longest note.
_NOTE = 2_000
T = TypeVar("T")


class ReviewQueue:
    """The queue of one worker.

    Args:
        worker: whose.
        now_ms: the present, epoch milliseconds.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        worker: ReviewingWorker,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker, self._now_ms = worker, now_ms
        self._open = OpenAlerts(worker, now_ms, clock)

    def now_ms(self) -> int:
        """The present, epoch milliseconds."""
        return self._now_ms()

    # ------------------------------------------------------------------ looking

    async def ranked(self, limit: int) -> tuple[list[tuple[Alert, str | None]], int]:
        """The open alerts with the greatest expected loss, it first, and who has them; and how many are open."""
        await self._renew()
        now = self._now_ms()
        best = self._open.best(limit)
        found = [(alert, self._open.review(alert.alert_id).holder(now)) for alert in best]
        return found, self._open.count

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
        for name in self._open.offers(by):
            if name in skip or not self._open.offer(name, by):
                continue
            if (await self._claim(name, by)).holder(self._now_ms()) != by:
                continue
            found = await self._ask(self._worker.reviews.alert, name, self._now_ms())
            if found is not None and found.state == "open":
                return found  # with the transactions that have come since
            await self._ask(self._worker.reviews.release, name, by)
            self._open.forget(name)
        return None

    async def take(self, by: str, alert_id: str) -> Alert:
        """Take one alert, or keep it for another five minutes.

        Args:
            by: who asks.
            alert_id: which.

        Returns:
            The alert as it is.

        Raises:
            NotFoundError: there is no such alert.
            RefusedError: somebody else has it, or nothing of it is to be decided.
        """
        alert = await self.look(alert_id)
        if not alert.todo:
            handled = alert.handled
            assert handled is not None
            raise RefusedError(409, f"{handled['by']} has already handled it: {handled['note']}")
        self._open.keep(alert_id, alert.review)
        review = await self._claim(alert_id, by)
        if review.holder(self._now_ms()) != by:
            raise RefusedError(409, _why_not(review, by, self._now_ms(), alert.review))
        return replace(alert, review=review)

    async def give_back(self, by: str, alert_id: str) -> None:
        """Somebody else may have it."""
        await self.look(alert_id)
        await self._ask(self._worker.reviews.release, alert_id, by)
        given_back = replace(self._open.review(alert_id), claimed_by=None, claimed_until=None)
        self._open.free(alert_id, given_back)

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
            msg = f"verdict {verdict!r}: choose {', '.join(VERDICTS)}"
            raise UsageError(msg)
        if len(note) > _NOTE:
            msg = f"a note has at most {_NOTE:,} characters"
            raise UsageError(msg)
        alert = await self.look(alert_id)
        known = alert.review
        if (known.verdict, known.decided_by) == (verdict, by) and _is_of(alert, known, seen):
            self._open.forget(alert_id)
            return await self._finish(alert, known)
        if known.unsent:  # the next verdict would hide that
            await self._finish(alert, known)
        about = _about(alert, seen)
        if not about:
            if known.verdict is not None and not alert.todo:
                raise RefusedError(409, _why_not(known, by, self._now_ms()))
            raise RefusedError(400, "all of these transactions have a verdict already")
        wanted = Review(
            None, None, verdict, by, self._now_ms(), about, note or None, known.earlier + known.transactions
        )  # fmt: skip
        review = await self._ask(self._worker.reviews.decide, alert_id, wanted, known.decided_at)
        if review != wanted:
            raise RefusedError(409, _why_not(review, by, self._now_ms(), known))
        count = await self._finish(alert, review)
        self._open.forget(alert_id)
        return count

    async def decide_card(
        self, by: str, card_id: str, verdict: str, note: str
    ) -> tuple[list[str], int, int]:
        """Decide the open alerts of a card; gives their ids, the number of labels, and of alerts that others have.

        Raises:
            UsageError: as `decide`.
        """
        alerts = await self._ask(self._worker.reviews.of_card, card_id, *self._recent())
        seen = {alert.alert_id: seen_of(alert.todo) for alert in alerts}
        return await self._decide_all(by, alerts, verdict, seen, note)

    async def decide_terminal(
        self, by: str, terminal_id: str, verdict: str, note: str
    ) -> tuple[list[str], int, int]:
        """Decide what open alerts have at a terminal; gives the same. Their transactions elsewhere stay open.

        Raises:
            UsageError: as `decide`.
        """
        alerts = await self._ask(self._worker.reviews.of_terminal, terminal_id, *self._recent())
        there = {
            alert.alert_id: {
                row["transaction_id"] for row in alert.todo if row["terminal_id"] == terminal_id
            }
            for alert in alerts
        }
        alerts = [alert for alert in alerts if there[alert.alert_id]]
        return await self._decide_all(by, alerts, verdict, there, note)

    def _recent(self) -> tuple[int, int]:
        now = self._now_ms()
        return now - DAYS_BACK * DAY_MS, now

    async def _decide_all(
        self,
        by: str,
        alerts: Sequence[Alert],
        verdict: str,
        seen: Mapping[str, str | Collection[str]],
        note: str,
    ) -> tuple[list[str], int, int]:
        decided, labels, others = [], 0, 0
        for alert in alerts:
            name = alert.alert_id
            self._open.keep(name, alert.review)
            if (await self._claim(name, by)).holder(self._now_ms()) != by:
                others += 1
                continue
            try:
                labels += await self.decide(by, name, verdict, seen[name], note)
            except RefusedError:  # the others are decided all the same
                others += 1
                continue
            decided.append(name)
        return decided, labels, others

    # ------------------------------------------------------------------ inside

    async def _ask(self, ask: Callable[..., T], *arguments: Any) -> T:
        return await self._worker.look_up(ask, *arguments)

    async def _claim(self, alert_id: str, by: str) -> Review:
        now, known = self._now_ms(), self._open.review(alert_id).decided_at
        review = await self._ask(
            self._worker.reviews.claim, alert_id, by, now + LEASE_MS, now, known
        )
        self._open.keep(alert_id, review)
        if review.decided_at != known:  # decided meanwhile
            self._open.forget(alert_id)
        return review

    async def _renew(self) -> None:
        for name in await self._open.renew():
            try:
                alert = await self.look(name)
                if alert.review.unsent:
                    await self._finish(alert, alert.review)
            except FraudstreamError as error:  # whoever looks next tries again
                logger.warning("labels of the verdict on alert %s were not sent: %s", name, error)

    async def _finish(self, alert: Alert, review: Review) -> int:
        """Send the labels of a verdict, and write down that they are sent. Safe to repeat."""
        ids = frozenset(review.transactions)
        rows = [row for row in alert.transactions if row["transaction_id"] in ids]
        assert review.decided_at is not None
        if review.unsent:
            await self._worker.send_labels(
                [
                    label_of_row(row, is_fraud=review.verdict == "fraud", at_ms=review.decided_at)
                    for row in rows
                ]
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
                409, "the transactions of the alert have changed: load the page again"
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


def _why_not(review: Review, by: str, now_ms: int, known: Review | None = None) -> str:
    if review.verdict is not None and (known is None or review.decided_at != known.decided_at):
        return f"{review.decided_by} has already decided it: {review.verdict}"
    holder = review.holder(now_ms)
    if holder is None or holder == by:
        return "the claim has ended: take the alert again"
    return f"{holder} has taken it in the meantime"
