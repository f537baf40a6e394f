"""Claims and verdicts of analysts, by lightweight transaction: whoever is told "yes" has the alert, and nobody else.

Clocks only decide how long a claim lasts. That an alert gets one verdict does not depend on them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cassandra import ConsistencyLevel, OperationTimedOut, WriteTimeout
from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from app.cassandra.alert_store import (
    Alert,
    acknowledge,
    card_alerts,
    find_alert,
    key_of,
    moment_of,
    read_alerts,
)
from app.cassandra.prediction_rows import epoch_ms
from app.cassandra.session import explained, shared_session
from app.domain.alerts import SHARDS, place_of
from app.errors import AwayError
from app.settings import Settings

#: Attempts of a lightweight transaction whose outcome nobody could tell. Repeating it is safe: it says who won.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Review:
    """What is known of an alert's review.

    Attributes:
        claimed_by, claimed_until: who looks at it, and until when it is kept for them, epoch milliseconds.
        verdict: `fraud` or `genuine`; None: undecided.
        decided_by, decided_at: who decided and when, epoch milliseconds.
        transactions: ids of those that the verdict is about: what the analyst saw.
        note: theirs.
    """

    claimed_by: str | None = None
    claimed_until: int | None = None
    verdict: str | None = None
    decided_by: str | None = None
    decided_at: int | None = None
    transactions: tuple[str, ...] = ()
    note: str | None = None

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "Review":
        """A row of the table."""
        return cls(
            row.get("claimed_by"),
            epoch_ms(row.get("claimed_until")),
            row.get("verdict"),
            row.get("decided_by"),
            epoch_ms(row.get("decided_at")),
            tuple(row.get("transactions") or ()),
            row.get("note"),
        )

    @property
    def decision(self) -> tuple[str | None, str | None, int | None]:
        """What was decided, by whom and when."""
        return self.verdict, self.decided_by, self.decided_at

    def holder(self, now_ms: int) -> str | None:
        """Who has it now; None: nobody."""
        held = self.verdict is None and (self.claimed_until or 0) > now_ms
        return self.claimed_by if held else None


class ReviewStore:
    """The table `alert_reviews`, and the alerts. Blocks; uses the session that this process keeps for reads.

    Every method raises UnavailableError while Cassandra does not answer, and SchemaError without the tables.

    Args:
        settings: keyspace, how long rows are kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._table = f"{settings.keyspace}.alert_reviews"

    def alerts(self, from_ms: int, to_ms: int, now_ms: int) -> list[tuple[Alert, Review | None]]:
        """The open alerts of a period, newest first, and their reviews."""
        session = self._session
        found = read_alerts(session, self._settings, from_ms=from_ms, to_ms=to_ms, now_ms=now_ms)
        alerts = [alert for alert in found if alert.state == "open"]
        reviews = self._of_days({place_of(alert.alert_id).day for alert in alerts})
        return [(alert, reviews.get(alert.alert_id)) for alert in alerts]

    def alert(self, alert_id: str, now_ms: int) -> tuple[Alert, Review] | None:
        """One alert and its review; None: there is no such alert."""
        alert = find_alert(self._session, self._settings, alert_id, now_ms)
        if alert is None:
            return None
        with explained(self._settings):
            query = f"SELECT * FROM {self._table} WHERE {_WHERE}"  # noqa: S608
            row = self._session.execute(query, key_of(place_of(alert_id))).one()
        return alert, Review() if row is None else Review.read(row)

    def of_card(self, card_id: str, now_ms: int) -> list[Alert]:
        """The open alerts of a card."""
        found = card_alerts(self._session, self._settings, card_id, now_ms)
        return [alert for alert in found if alert.state == "open"]

    def claim(self, alert_id: str, by: str, until_ms: int, now_ms: int) -> Review:
        """Take an alert, if nobody has it and nobody has decided it.

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
        if found == wanted or found.verdict is not None or found.holder(now_ms) not in (None, by):
            return found
        again = (
            f"UPDATE {self._table} USING TTL {self._settings.ttl_seconds} "  # noqa: S608
            f"SET claimed_by = %s, claimed_until = %s WHERE {_WHERE} "
            "IF claimed_by = %s AND claimed_until = %s AND verdict = null"
        )
        until = None if found.claimed_until is None else moment_of(found.claimed_until)
        return self._try(
            alert_id, again, (by, moment_of(until_ms), *key, found.claimed_by, until), wanted
        )

    def release(self, alert_id: str, by: str) -> None:
        """Give an alert back, if the asker has it."""
        self._try(
            alert_id,
            f"UPDATE {self._table} USING TTL {self._settings.ttl_seconds} SET claimed_by = null, "  # noqa: S608
            f"claimed_until = null WHERE {_WHERE} IF claimed_by = %s AND verdict = null",
            (*key_of(place_of(alert_id)), by),
            Review(),
        )

    def decide(self, alert_id: str, wanted: Review) -> Review:
        """Write a verdict, if the asker has the alert and nobody has decided it.

        Args:
            alert_id: which.
            wanted: the verdict, by whom, when, and what it is about.

        Returns:
            The review as it is now: with this verdict, or with what kept it from being written.
        """
        assert wanted.decided_at is not None
        statement = (
            f"UPDATE {self._table} USING TTL {self._settings.ttl_seconds} SET verdict = %s, "  # noqa: S608
            f"decided_by = %s, decided_at = %s, transactions = %s, note = %s WHERE {_WHERE} "
            "IF claimed_by = %s AND verdict = null"
        )
        values = (
            wanted.verdict, wanted.decided_by, moment_of(wanted.decided_at), list(wanted.transactions), wanted.note,
        )  # fmt: skip
        key = key_of(place_of(alert_id))
        found = self._try(alert_id, statement, (*values, *key, wanted.decided_by), wanted)
        # an attempt of ours whose outcome was unknown may be the one that won
        return wanted if found.decision == wanted.decision else found

    def close(self, alert_id: str, review: Review) -> None:
        """Acknowledge a decided alert: its labels are on their way."""
        assert review.decided_at is not None
        note = f"{review.verdict}: {review.note}" if review.note else str(review.verdict)
        acknowledge(
            self._session, self._settings, alert_id,
            by=str(review.decided_by), note=note, now_ms=review.decided_at,
        )  # fmt: skip

    @property
    def _session(self) -> Session:
        return shared_session(self._settings)

    def _of_days(self, days: Iterable[str]) -> dict[str, Review]:
        query = f"SELECT * FROM {self._table} WHERE day = %s AND shard = %s"  # noqa: S608
        with explained(self._settings):
            answers = [
                self._session.execute_async(query, (day, shard))
                for day in days
                for shard in range(SHARDS)
            ]
            return {
                row["alert_id"]: Review.read(row) for answer in answers for row in answer.result()
            }

    def _try(
        self, alert_id: str, statement: str, values: tuple[Any, ...], wanted: Review
    ) -> Review:
        """What is there after a lightweight transaction; one whose outcome is unknown is repeated."""
        key = key_of(place_of(alert_id))
        there = SimpleStatement(
            f"SELECT * FROM {self._table} WHERE {_WHERE}",  # noqa: S608
            consistency_level=ConsistencyLevel.SERIAL,
        )
        with explained(self._settings):
            for _ in range(_ATTEMPTS):
                try:
                    if self._session.execute(statement, values).was_applied:
                        return wanted
                    row = self._session.execute(there, key).one()
                except (WriteTimeout, OperationTimedOut):
                    continue
                return Review() if row is None else Review.read(row)
        msg = "Cassandra did not say whether the alert was taken: try again"
        raise AwayError(msg)


_WHERE = "day = %s AND shard = %s AND opened_at = %s AND alert_id = %s"
