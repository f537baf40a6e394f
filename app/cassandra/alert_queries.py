"""Queries of alerts: of a period, a card, a terminal or an id; and acknowledgements."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from app.cassandra.alert_day_rows import (
    COLUMNS,
    HANDLED,
    Follower,
    newest_of_day,
    place_in_day,
    whole_day,
)
from app.cassandra.prediction_rows import epoch_ms, moment_of
from app.cassandra.review_rows import Review
from app.cassandra.session import SCAN, explained, prepared
from app.cassandra.snoozes import Snoozes, read_snoozes
from app.cassandra.stored_alert import Alert, Handled, ack_of, alert_of, alert_row, is_done_by
from app.domain.alert_policy import SEVERITIES, SHARDS, Group, day_of, is_alert_id, place_of, rank
from app.durations import DAY_MS
from app.settings import Settings

#: How far back a list looks that has no beginning.
DAYS_BACK = 7
#: Rows of a shard that are fetched at a time: of alerts, and of what was done about them.
_PAGE_ROWS, _HANDLED_ROWS = 100, 3
#: Acknowledgements and reviews of a shard that are fetched at a time where all are read.
_DAY_ROWS = 5_000
#: Rows of a card or terminal that are looked at: an index has no order, so these are any.
_INDEX_ROWS = 10_000
#: Alerts of a card that are read at a time.
_AT_ONCE = 50
#: A longer period is not asked day by day: three years took 35,000 queries.
_FEW_DAYS = 31


@dataclass(frozen=True)
class AlertQuery:
    """Which alerts somebody wants to see.

    Attributes:
        from_ms: first millisecond of event time at which one may begin, epoch.
        to_ms: the one after the last.
        severity: those at least so severe.
        card_id: all of a card, whatever their time; None: of every card.
        everything: also those that are acknowledged or snoozed.
        limit: how many at most.
    """

    from_ms: int
    to_ms: int
    severity: str = SEVERITIES[0]
    card_id: str | None = None
    everything: bool = False
    limit: int = 50

    @classmethod
    def of(
        cls, now_ms: int, skew_ms: int, from_ms: int | None, to_ms: int | None, **others: Any
    ) -> "AlertQuery":
        """Of a period that may lack its ends: until now, and a week.

        Args:
            now_ms: the present, epoch milliseconds.
            skew_ms: how far ahead of it an event time may be.
            from_ms: the beginning, or None.
            to_ms: the end, or None.
            others: further attributes.
        """
        end = now_ms + skew_ms + 1 if to_ms is None else to_ms
        return cls(end - DAYS_BACK * DAY_MS if from_ms is None else from_ms, end, **others)


def list_alerts(
    session: Session, settings: Settings, query: AlertQuery, now_ms: int
) -> tuple[list[Alert], bool]:
    """The newest alerts that somebody wants to see, and whether there are more.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    found: Iterable[Alert] = (
        read_alerts(
            session,
            settings,
            from_ms=query.from_ms,
            to_ms=query.to_ms,
            now_ms=now_ms,
            # perhaps half of them are so severe
            wanted=query.limit * (1 + (query.severity != SEVERITIES[0])),
        )
        if query.card_id is None
        else card_alerts(session, settings, query.card_id, now_ms)
    )
    wanted = (
        alert
        for alert in found
        if rank(alert.severity) >= rank(query.severity)
        and (query.everything or alert.state == "open")
    )
    return list(islice(wanted, query.limit)), next(wanted, None) is not None


def read_alerts(
    session: Session,
    settings: Settings,
    *,
    from_ms: int,
    to_ms: int,
    now_ms: int,
    todo_only: bool = False,
    wanted: int = 50,
) -> Iterator[Alert]:
    """Alerts whose windows begin within a period, newest first, with what was done about them.

    Args:
        session: to read with.
        settings: keyspace.
        from_ms: the period's first millisecond, epoch.
        to_ms: the one after its last.
        now_ms: the present: until when a snooze is in force.
        todo_only: only those with a transaction that nobody has seen to; the others cost little.
        wanted: about how many are read; more cost further queries.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the tables are missing.
    """
    with explained(settings):
        snoozes: Snoozes | None = None
        # the queue reads all of them
        read, beside = (whole_day, _DAY_ROWS) if todo_only else (newest_of_day, _HANDLED_ROWS)
        for day in _days(session, settings, from_ms, to_ms):
            ask = partial(read, session, settings, day, from_ms, to_ms)
            rows = ask("alerts", _PAGE_ROWS if todo_only else 2 + 2 * wanted // SHARDS)
            # asked before any is waited for
            handled = [ask(table, beside) for table in HANDLED]
            snoozes = snoozes or read_snoozes(session, settings, now_ms)
            ack_at, review_at = map(Follower, handled)
            for alert_id, found in groupby(rows, itemgetter("alert_id")):
                raw = list(found)
                place = place_in_day(raw[0])
                acked, reviewed = ack_at(place), review_at(place)
                ack = ack_of(acked) if acked else None
                review = Review.read(reviewed) if reviewed else Review()
                is_done = is_done_by(ack, review)
                if todo_only and all(
                    is_done(row["transaction_id"], epoch_ms(row["received_at"])) for row in raw
                ):
                    continue
                yield alert_of(alert_id, list(map(alert_row, raw)), ack, review, snoozes, now_ms)


def read_reviews(session: Session, settings: Settings, day: str) -> dict[str, Review]:
    """By alert, the reviews of a day.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    with explained(settings):
        text = f"SELECT * FROM {settings.keyspace}.alert_reviews WHERE day = ? AND shard = ?"  # noqa: S608
        query = prepared(session, text)
        answers = [session.execute_async(query.bind((day, shard))) for shard in range(SHARDS)]
        return {row["alert_id"]: Review.read(row) for one in answers for row in one.result()}


def find_alert(session: Session, settings: Settings, alert_id: str, now_ms: int) -> Alert | None:
    """The alert of an id; None where there is none.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    return next(_read(session, settings, [alert_id], now_ms), None)


def is_stored(session: Session, settings: Settings, alert_id: str) -> bool:
    """Whether there is an alert of an id.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    with explained(settings):
        return is_alert_id(alert_id) and bool(
            _by_id(session, settings, "alerts", alert_id).result().one()
        )


def card_alerts(session: Session, settings: Settings, card_id: str, now_ms: int) -> Iterator[Alert]:
    """The alerts of a card, newest first, read as they are asked for. Asks every node: for people.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    found = _indexed(session, settings, "card_id", card_id, (COLUMNS["alerts"],))
    found.sort(key=itemgetter("event_time"), reverse=True)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        rows.setdefault(row["alert_id"], []).append(row)
    # an alert is of one card: these are all of its rows
    known = rows if len(found) < _INDEX_ROWS else None
    return _read(session, settings, sorted(rows, reverse=True), now_ms, known)


def terminal_alerts(
    session: Session, settings: Settings, terminal_id: str, now_ms: int
) -> Iterator[Alert]:
    """The same of a terminal: alerts with at least one transaction there, which may have others, too.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    found = _indexed(session, settings, "terminal_id", terminal_id, ("alert_id",))
    # an id begins with the time
    return _read(
        session, settings, sorted({row["alert_id"] for row in found}, reverse=True), now_ms
    )


def alert_ids(
    session: Session, settings: Settings, card_id: str
) -> dict[tuple[str, int | None], str]:
    """The alerts of a card's transactions, by their id and event time (epoch ms). Asks every node: for people.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    columns = ("alert_id", "transaction_id", "event_time")
    return {
        (row["transaction_id"], epoch_ms(row["event_time"])): row["alert_id"]
        for row in _indexed(session, settings, "card_id", card_id, columns)
    }


def alert_of_transaction(
    session: Session, settings: Settings, card_id: str, transaction_id: str, event_time_ms: int
) -> str | None:
    """The id of the alert that a card's transaction is part of; None: it raised none. Asks every node: for people.

    By its card, not by its place: the place depends on FRAUDSTREAM_ALERT_WINDOW, which may have been another one.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    text = (
        f"SELECT alert_id FROM {settings.keyspace}.alerts WHERE card_id = ? AND transaction_id = ? "  # noqa: S608
        "AND event_time = ? LIMIT 1 ALLOW FILTERING"  # of the card's alerts, which the index finds
    )
    with explained(settings):
        values = card_id, transaction_id, moment_of(event_time_ms)
        found = list(session.execute(prepared(session, text).bind(values)))
    return str(found[0]["alert_id"]) if found else None


def terminal_rows(session: Session, settings: Settings, terminal_id: str) -> list[dict[str, Any]]:
    """The transactions at a terminal that are part of an alert, newest event first. Asks every node: for people.

    Of a terminal with more than 10,000, any 10,000.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    columns = (
        "alert_id", "transaction_id", "card_id", "terminal_id", "event_time", "amount_minor", "score",
        "threshold", "action", "rules", "flags",
    )  # fmt: skip
    found = [
        {
            **row,
            "event_time_ms": epoch_ms(row["event_time"]),
            "rules": list(row["rules"] or ()),
            "flags": list(row["flags"] or ()),
        }
        for row in _indexed(session, settings, "terminal_id", terminal_id, columns)
    ]
    return sorted(found, key=lambda row: -(row["event_time_ms"] or 0))


def _indexed(
    session: Session, settings: Settings, column: str, name: str, columns: Sequence[str]
) -> list[dict[str, Any]]:
    with explained(settings):
        query = prepared(
            session,
            f"SELECT {', '.join(columns)} FROM {settings.keyspace}.alerts WHERE {column} = ? "  # noqa: S608
            f"LIMIT {_INDEX_ROWS}",
        )
        return list(session.execute(query.bind((name,))))


def acknowledge(
    session: Session, settings: Settings, alert_id: str, *, by: str, note: str, now_ms: int
) -> None:
    """Write down that somebody has seen to an alert; the latest one counts.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    with explained(settings):
        session.execute(
            f"INSERT INTO {settings.keyspace}.alert_acks (day, shard, opened_at, alert_id, acked_at, acked_by, note) "  # noqa: S608
            f"VALUES (%s, %s, %s, %s, %s, %s, %s) USING TTL {settings.ttl_seconds}",
            (*key_of(place_of(alert_id)), moment_of(now_ms), by, note),
        )


def read_handled(
    session: Session, settings: Settings, alert_ids: Iterable[str]
) -> dict[str, Handled]:
    """By id, what was done about alerts; those that nobody has seen to are left out.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    handled = {}
    for some in _batched(filter(is_alert_id, alert_ids)):
        with explained(settings):
            answers = [
                [list(one.result()) for one in asked]
                for asked in [
                    [_by_id(session, settings, table, name) for table in HANDLED] for name in some
                ]
            ]
        for name, (acks, reviews) in zip(some, answers, strict=True):
            ack = ack_of(acks[0]) if acks else None
            review = Review.read(reviews[0]) if reviews else Review()
            at_ms = max(ack["at"] if ack else 0, review.decided_at or 0)
            if at_ms:
                handled[name] = Handled(at_ms, is_done_by(ack, review))
    return handled


def _read(
    session: Session,
    settings: Settings,
    alert_ids: Sequence[str],
    now_ms: int,
    known: Mapping[str, list[dict[str, Any]]] | None = None,
) -> Iterator[Alert]:
    """Alerts by their ids, some at a time; those that do not exist are left out. `known`: all rows by alert."""
    snoozes: Snoozes | None = None
    tables = HANDLED if known else ("alerts", *HANDLED)
    for some in _batched(filter(is_alert_id, alert_ids)):
        with explained(settings):
            asked = [[_by_id(session, settings, table, name) for table in tables] for name in some]
            snoozes = snoozes or read_snoozes(session, settings, now_ms)
            answers = [[list(one.result()) for one in about] for about in asked]
        for name, (*found, acks, reviews) in zip(some, answers, strict=True):
            rows = found[0] if found else (known or {})[name]
            if rows:
                ack = ack_of(acks[0]) if acks else None
                review = Review.read(reviews[0]) if reviews else Review()
                yield alert_of(name, list(map(alert_row, rows)), ack, review, snoozes, now_ms)


def _by_id(session: Session, settings: Settings, table: str, alert_id: str) -> Any:
    query = prepared(
        session,
        f"SELECT {COLUMNS[table]} FROM {settings.keyspace}.{table} "  # noqa: S608
        "WHERE day = ? AND shard = ? AND opened_at = ? AND alert_id = ?",
    )
    return session.execute_async(query.bind(key_of(place_of(alert_id))))


def _batched(names: Iterable[str]) -> Iterator[list[str]]:
    left = iter(names)
    while some := list(islice(left, _AT_ONCE)):
        yield some


def _days(session: Session, settings: Settings, from_ms: int, to_ms: int) -> Iterator[str]:
    """The days of a period, newest first. Of a long one, those that have alerts: each day costs a query per shard."""
    days = days_back(from_ms, to_ms)
    if to_ms - from_ms <= _FEW_DAYS * DAY_MS:
        return days
    query = SimpleStatement(f"SELECT DISTINCT day, shard FROM {settings.keyspace}.alerts")  # noqa: S608
    present = {day for day, _ in session.execute(query, execution_profile=SCAN)}
    return (day for day in days if day in present)


def key_of(place: Group) -> tuple[str, int, datetime, str]:
    """The key of an alert's row, in the tables of alerts, acknowledgements and reviews."""
    return place.day, place.shard, moment_of(place.opened_at), place.alert_id


def days_back(from_ms: int, to_ms: int) -> Iterator[str]:
    """The days of a period, newest first."""
    for day in range((to_ms - 1) // DAY_MS, from_ms // DAY_MS - 1, -1):
        yield day_of(day * DAY_MS)
