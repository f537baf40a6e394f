"""Claims and verdicts of analysts, by lightweight transaction: whoever is told "yes" has the alert, and nobody else.

Clocks only decide how long a claim lasts. That a transaction gets one verdict does not depend on them.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from app.cassandra.alert_queries import (
    card_alerts,
    days_back,
    find_alert,
    is_stored,
    key_of,
    read_alerts,
    read_reviews,
    terminal_alerts,
)
from app.cassandra.lightweight_transactions import settled
from app.cassandra.prediction_rows import moment_of
from app.cassandra.review_order import Ranking, ranking
from app.cassandra.review_rows import Review
from app.cassandra.session import explained, shared_session
from app.cassandra.stored_alert import Alert
from app.domain.alert_policy import place_of
from app.settings import Settings

#: Open alerts of a card or terminal that are decided together, the newest.
_TOGETHER = 200


class ReviewStore:
    """The table `alert_reviews`, and the alerts. Blocks; uses the session that this process keeps for reads.

    Every method raises UnavailableError while Cassandra does not answer, and SchemaError without the tables.

    Args:
        settings: keyspace, how long rows are kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._table = f"{settings.keyspace}.alert_reviews"

    def ranked(self, from_ms: int, to_ms: int, now_ms: int, most: int) -> Ranking:
        """The open alerts of a period."""
        found = read_alerts(
            self._session, self._settings, from_ms=from_ms, to_ms=to_ms, now_ms=now_ms, todo_only=True
        )  # fmt: skip
        return ranking(found, most)

    def unsent(self, from_ms: int, to_ms: int, decided_before_ms: int) -> list[str]:
        """Alerts of a period with a verdict that is older than a moment, and whose labels were not all sent."""
        return [
            name
            for day in days_back(from_ms, to_ms)
            for name, review in read_reviews(self._session, self._settings, day).items()
            if review.unsent and (review.decided_at or 0) < decided_before_ms
        ]

    def alert(self, alert_id: str, now_ms: int) -> Alert | None:
        """One alert and its review; None: there is no such alert."""
        return find_alert(self._session, self._settings, alert_id, now_ms)

    def is_stored(self, alert_id: str) -> bool:
        """Whether there is such an alert."""
        return is_stored(self._session, self._settings, alert_id)

    def of_card(self, card_id: str, from_ms: int, now_ms: int) -> list[Alert]:
        """The open alerts of a card that began since a moment; of very many, the newest."""
        found = card_alerts(self._session, self._settings, card_id, now_ms)
        return _open_since(found, from_ms)

    def of_terminal(self, terminal_id: str, from_ms: int, now_ms: int) -> list[Alert]:
        """The same of a terminal: alerts with a transaction there."""
        found = terminal_alerts(self._session, self._settings, terminal_id, now_ms)
        return _open_since(found, from_ms)

    def claim(
        self, alert_id: str, by: str, until_ms: int, now_ms: int, decided_at: int | None = None
    ) -> Review:
        """Take an alert, if nobody has it, and its latest verdict is the one that the asker knows.

        Args:
            alert_id: which.
            by: who asks.
            until_ms: until when they want it, epoch milliseconds.
            now_ms: the present.
            decided_at: when the latest verdict was given that they know; None: they know of none.

        Returns:
            The review as it is now: it was taken if `holder` is the asker.
        """
        wanted = Review(by, until_ms)
        first = (
            f"INSERT INTO {self._table} (day, shard, opened_at, alert_id, claimed_by, claimed_until) "  # noqa: S608
            f"VALUES (%s, %s, %s, %s, %s, %s) IF NOT EXISTS USING TTL {self._settings.ttl_seconds}"
        )
        key = key_of(place_of(alert_id))
        found = self._try(alert_id, first, (*key, by, moment_of(until_ms)), wanted)
        if (
            found == wanted
            or found.holder(now_ms) not in (None, by)
            or found.decided_at != decided_at
        ):
            return found
        again = (
            f"UPDATE {self._table} USING TTL {self._settings.ttl_seconds} "  # noqa: S608
            f"SET claimed_by = %s, claimed_until = %s WHERE {_WHERE} "
            "IF claimed_by = %s AND claimed_until = %s AND decided_at = %s"
        )
        before = (found.claimed_by, _moment(found.claimed_until), _moment(decided_at))
        return self._try(
            alert_id, again, (by, moment_of(until_ms), *key, *before),
            replace(found, claimed_by=by, claimed_until=until_ms),
        )  # fmt: skip

    def release(self, alert_id: str, by: str) -> None:
        """Give an alert back, if the asker has it."""
        self._try(
            alert_id,
            f"UPDATE {self._table} USING TTL {self._settings.ttl_seconds} SET claimed_by = null, "  # noqa: S608
            f"claimed_until = null WHERE {_WHERE} IF claimed_by = %s",
            (*key_of(place_of(alert_id)), by),
            Review(),
        )

    def decide(self, alert_id: str, wanted: Review, decided_at: int | None = None) -> Review:
        """Write a verdict, if the asker has the alert and its latest verdict is the one that they know.

        Args:
            alert_id: which.
            wanted: the verdict, by whom, when, and what it is about.
            decided_at: when the latest verdict was given that they know; None: they know of none.

        Returns:
            The review as it is now: with this verdict, or with what kept it from being written.
        """
        assert wanted.decided_at is not None
        statement = (
            f"UPDATE {self._table} USING TTL {self._settings.ttl_seconds} SET verdict = %s, "  # noqa: S608
            "decided_by = %s, decided_at = %s, transactions = %s, note = %s, earlier = %s, labelled_at = null, "
            f"claimed_by = null, claimed_until = null WHERE {_WHERE} IF claimed_by = %s AND decided_at = %s"
        )
        values = (
            wanted.verdict, wanted.decided_by, moment_of(wanted.decided_at), list(wanted.transactions), wanted.note,
            list(wanted.earlier),
        )  # fmt: skip
        key = key_of(place_of(alert_id))
        before = wanted.decided_by, _moment(decided_at)
        found = self._try(alert_id, statement, (*values, *key, *before), wanted)
        # an attempt of ours whose outcome was unknown may be the one that won
        return wanted if found.decision == wanted.decision else found

    def close(self, alert_id: str, review: Review, now_ms: int) -> None:
        """Write down that the labels of a verdict are on their topic."""
        self._try(
            alert_id,
            f"UPDATE {self._table} USING TTL {self._settings.ttl_seconds} SET labelled_at = %s "  # noqa: S608
            f"WHERE {_WHERE} IF decided_at = %s",
            (moment_of(now_ms), *key_of(place_of(alert_id)), _moment(review.decided_at)),
            review,
        )

    @property
    def _session(self) -> Session:
        return shared_session(self._settings)

    def _try(
        self, alert_id: str, statement: str, values: tuple[Any, ...], wanted: Review
    ) -> Review:
        """What is there after a lightweight transaction."""
        there = SimpleStatement(
            f"SELECT * FROM {self._table} WHERE {_WHERE}",  # noqa: S608
            consistency_level=ConsistencyLevel.SERIAL,
        )

        def attempt() -> Review:
            if self._session.execute(statement, values).was_applied:
                return wanted
            row = self._session.execute(there, key_of(place_of(alert_id))).one()
            return Review() if row is None else Review.read(row)

        with explained(self._settings):
            return settled(attempt)


def _open_since(alerts: Iterator[Alert], from_ms: int) -> list[Alert]:
    """The open ones of some alerts, newest first, that began since a moment."""
    recent = takewhile(lambda alert: alert.opened_at >= from_ms, alerts)
    return list(islice((alert for alert in recent if alert.state == "open"), _TOGETHER))


def _moment(moment_ms: int | None) -> Any:
    return None if moment_ms is None else moment_of(moment_ms)


_WHERE = "day = %s AND shard = %s AND opened_at = %s AND alert_id = %s"
