"""Alerts as people see them: read from Cassandra, grouped, with what was done about them."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from cassandra.cluster import Session
from cassandra.query import SimpleStatement

from app.cassandra.prediction_rows import epoch_ms
from app.cassandra.session import SCAN, explained
from app.domain.alerts import CAUSES, SEVERITIES, SHARDS, Group, day_of, place_of, rank
from app.durations import DAY_MS
from app.formats import iso
from app.settings import Settings

#: What alerts can be snoozed by.
KINDS = ("card", "terminal", "rule")
#: How far back a list looks that has no beginning.
DAYS_BACK = 7
#: Rows of a shard that are fetched at a time.
_PAGE_ROWS = 100
#: A longer period is not asked day by day: three years took 35,000 queries.
_FEW_DAYS = 31


@dataclass(frozen=True)
class Snooze:
    """Nobody is told of the alerts of a card, terminal or rule until a moment (epoch milliseconds)."""

    kind: str
    id: str
    until_ms: int
    by: str = ""
    note: str = ""


@dataclass(frozen=True)
class Snoozes:
    """The snoozes that are in force.

    Attributes:
        until_ms: by kind and id.
    """

    until_ms: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def until(self, alert: Mapping[str, Any], now_ms: int) -> int | None:
        """Until when nobody is told of an alert; None: people are.

        An alert of several rules, or of a rule and the model, is told while one of its causes is not snoozed.
        """
        whole = [("card", alert["card_id"]), ("terminal", alert["terminal_id"])]
        found = [self.until_ms.get(name, 0) for name in whole if name[1] is not None]
        if alert["rules"] and list(alert["causes"]) == ["rule"]:
            found.append(min(self.until_ms.get(("rule", rule), 0) for rule in alert["rules"]))
        latest = max(found, default=0)
        return latest if latest > now_ms else None


@dataclass
class Alert:
    """The alerts of one card within a window.

    Attributes:
        alert_id, card_id, severity, causes, rules: what they have in common; the highest severity.
        opened_at: when the window begins, epoch milliseconds; `opened` the same as ISO 8601.
        transactions: its rows, newest event first, as the topic has them.
        amount_minor, currency: sum of amounts.
        acked: who has seen to it, when, and the note; None: nobody.
        snoozed_until: until when nobody is told of it, epoch milliseconds; None: people are.
    """

    alert_id: str
    card_id: str
    opened_at: int
    transactions: list[dict[str, Any]]
    acked: dict[str, Any] | None = None
    snoozed_until: int | None = None

    @property
    def severity(self) -> str:
        """The highest one."""
        return max((row["severity"] for row in self.transactions), key=rank)

    @property
    def state(self) -> str:
        """open, acked or snoozed."""
        return "acked" if self.acked else "snoozed" if self.snoozed_until else "open"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = self.transactions
        return {
            **asdict(self),
            "opened": iso(self.opened_at),
            "state": self.state,
            "severity": self.severity,
            "causes": [cause for cause in CAUSES if any(cause in row["causes"] for row in rows)],
            "amount_minor": sum(row["amount_minor"] for row in rows),
            "currency": rows[0]["currency"],
        }


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
        read_alerts(session, settings, from_ms=query.from_ms, to_ms=query.to_ms, now_ms=now_ms)
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
    session: Session, settings: Settings, *, from_ms: int, to_ms: int, now_ms: int
) -> Iterator[Alert]:
    """Alerts whose windows begin within a period, newest first, with what was done about them.

    Args:
        session: to read with.
        settings: keyspace.
        from_ms: the period's first millisecond, epoch.
        to_ms: the one after its last.
        now_ms: the present: until when a snooze is in force.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the tables are missing.
    """
    with explained(settings):
        snoozes = read_snoozes(session, settings, now_ms)
        for day in _days(session, settings, from_ms, to_ms):
            shards = [
                map(_row, answer.result())
                for answer in _ask(session, settings, day, from_ms, to_ms)
            ]
            acks = _acks(session, settings, day)
            rows = heapq.merge(*shards, key=lambda row: (-row["opened_at"], row["alert_id"]))
            for alert_id, found in groupby(rows, itemgetter("alert_id")):
                yield _alert(alert_id, list(found), acks.get(alert_id), snoozes, now_ms)


def find_alert(session: Session, settings: Settings, alert_id: str, now_ms: int) -> Alert | None:
    """The alert of an id; None where there is none.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    found = _read(session, settings, alert_id)
    if found is None:
        return None
    return _alert(alert_id, *found, read_snoozes(session, settings, now_ms), now_ms)


def card_alerts(session: Session, settings: Settings, card_id: str, now_ms: int) -> list[Alert]:
    """All alerts of a card, newest first. Asks every node: for people.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    return _alerts_of(session, settings, "card_id", card_id, now_ms)


def terminal_alerts(
    session: Session, settings: Settings, terminal_id: str, now_ms: int
) -> list[Alert]:
    """All alerts with a transaction at a terminal, newest first. Asks every node: for people.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    return _alerts_of(session, settings, "terminal_id", terminal_id, now_ms)


def _alerts_of(
    session: Session, settings: Settings, column: str, name: str, now_ms: int
) -> list[Alert]:
    with explained(settings):
        query = f"SELECT alert_id FROM {settings.keyspace}.alerts WHERE {column} = %s"  # noqa: S608
        ids = {row["alert_id"] for row in session.execute(query, (name,))}
    snoozes = read_snoozes(session, settings, now_ms)
    alerts = [
        _alert(alert_id, *found, snoozes, now_ms)
        for alert_id in ids
        if (found := _read(session, settings, alert_id)) is not None
    ]
    return sorted(alerts, key=lambda alert: -alert.opened_at)


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


def snooze(session: Session, settings: Settings, wanted: Snooze, *, now_ms: int) -> None:
    """Tell nobody of a card's, terminal's or rule's alerts until a moment; one in the past ends an earlier snooze.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    seconds = max(1, (wanted.until_ms - now_ms) // 1000)
    with explained(settings):
        session.execute(
            f"INSERT INTO {settings.keyspace}.alert_snoozes (kind, id, until, snoozed_at, snoozed_by, note) "  # noqa: S608
            f"VALUES (%s, %s, %s, %s, %s, %s) USING TTL {seconds}",
            (
                wanted.kind,
                wanted.id,
                moment_of(wanted.until_ms),
                moment_of(now_ms),
                wanted.by,
                wanted.note,
            ),
        )


def list_snoozes(session: Session, settings: Settings, now_ms: int) -> list[Snooze]:
    """The snoozes that are in force, by kind and id.

    Raises:
        UnavailableError, SchemaError: as `read_alerts`.
    """
    query = f"SELECT * FROM {settings.keyspace}.alert_snoozes WHERE kind = %s"  # noqa: S608
    with explained(settings):
        found = [
            Snooze(kind, row["id"], epoch_ms(row["until"]) or 0, row["snoozed_by"], row["note"])
            for kind in KINDS
            for row in session.execute(query, (kind,))
        ]
    return [one for one in found if one.until_ms > now_ms]


def read_snoozes(session: Session, settings: Settings, now_ms: int) -> Snoozes:
    """The same, to ask about alerts."""
    found = list_snoozes(session, settings, now_ms)
    return Snoozes({(one.kind, one.id): one.until_ms for one in found})


def _read(
    session: Session, settings: Settings, alert_id: str
) -> tuple[list[dict[str, Any]], dict[str, Any] | None] | None:
    """The rows of an alert, and who has seen to it; None where there is no such alert."""
    try:
        place = place_of(alert_id)
    except ValueError:
        return None
    with explained(settings):
        query = (
            f"SELECT * FROM {settings.keyspace}.alerts "  # noqa: S608
            "WHERE day = %s AND shard = %s AND opened_at = %s AND alert_id = %s"
        )
        rows = [_row(row) for row in session.execute(query, key_of(place))]
        if not rows:
            return None
        ack = session.execute(query.replace(".alerts ", ".alert_acks "), key_of(place)).one()
    return rows, None if ack is None else _ack(ack)


def _alert(
    alert_id: str,
    rows: list[dict[str, Any]],
    ack: dict[str, Any] | None,
    snoozes: Snoozes,
    now_ms: int,
) -> Alert:
    # nobody is told of it where nobody would be told of any of its transactions
    untils = [snoozes.until(row, now_ms) for row in rows]
    snoozed = None if None in untils else min(until for until in untils if until is not None)
    return Alert(alert_id, rows[0]["card_id"], rows[0]["opened_at"], rows, ack, snoozed)


def _days(session: Session, settings: Settings, from_ms: int, to_ms: int) -> Iterator[str]:
    """The days of a period, newest first. Of a long one, those that have alerts: each day costs a query per shard."""
    days = _days_back(from_ms, to_ms)
    if to_ms - from_ms <= _FEW_DAYS * DAY_MS:
        return days
    query = SimpleStatement(f"SELECT DISTINCT day, shard FROM {settings.keyspace}.alerts")  # noqa: S608
    present = {day for day, _ in session.execute(query, execution_profile=SCAN)}
    return (day for day in days if day in present)


def _ask(session: Session, settings: Settings, day: str, from_ms: int, to_ms: int) -> list[Any]:
    """Ask for the alerts of a day, all shards at once; further pages come as they are read."""
    statement = SimpleStatement(
        f"SELECT * FROM {settings.keyspace}.alerts "  # noqa: S608
        "WHERE day = %s AND shard = %s AND opened_at >= %s AND opened_at < %s",
        fetch_size=_PAGE_ROWS,
    )
    period = moment_of(from_ms), moment_of(to_ms)
    return [session.execute_async(statement, (day, shard, *period)) for shard in range(SHARDS)]


def _acks(session: Session, settings: Settings, day: str) -> dict[str, dict[str, Any]]:
    query = f"SELECT * FROM {settings.keyspace}.alert_acks WHERE day = %s AND shard = %s"  # noqa: S608
    answers = [session.execute_async(query, (day, shard)) for shard in range(SHARDS)]
    return {row["alert_id"]: _ack(row) for answer in answers for row in answer.result()}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the topic has it."""
    found = {
        name: list(value) if isinstance(value, (list, tuple)) else value
        for name, value in row.items()
        if name not in ("day", "shard", "event_time", "amount")
    }
    for name in ("causes", "rules", "reasons", "flags"):
        found[name] = list(row[name] or ())
    for name in ("opened_at", "received_at"):
        found[name] = epoch_ms(row[name])
    return found | {"event_time_ms": epoch_ms(row["event_time"])}


def _ack(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"at": epoch_ms(row["acked_at"]), "by": row["acked_by"], "note": row["note"]}


def key_of(place: Group) -> tuple[str, int, datetime, str]:
    """The key of an alert's row, in the tables of alerts, acknowledgements and reviews."""
    return place.day, place.shard, moment_of(place.opened_at), place.alert_id


def _days_back(from_ms: int, to_ms: int) -> Iterator[str]:
    for day in range((to_ms - 1) // DAY_MS, from_ms // DAY_MS - 1, -1):
        yield day_of(day * DAY_MS)


def moment_of(moment_ms: int) -> datetime:
    """A moment as the driver writes it."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC)
