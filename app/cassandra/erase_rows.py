"""Erasing a card from Cassandra: every row that names it, and the record that it was done.

Rows are deleted one by one, each as of the time when it was written: a row that the same card gets after its erasure,
even under the same key, is a newer one and stays.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from app.cassandra.erase_audit_records import AUDIT_RECORDS, pseudonymise
from app.cassandra.prediction_rows import epoch_ms, moment_of
from app.cassandra.replay_targets import replayed_keyspace
from app.cassandra.session import SCAN, explained
from app.domain.audit_objects import CardErasure
from app.settings import Settings
from app.topics import Topics

#: Requests at once: months of a card, rows that are deleted.
_AT_ONCE = 32
#: No event is older (app/domain/event_times.py).
_FIRST_YEAR = 1973


@dataclass(frozen=True)
class CardTable:
    """A table whose rows name a card.

    Attributes:
        name: the table.
        key: columns of its primary key.
        written: a column that every row has beside its key: its time of writing is the row's.
        by: how the rows of a card are found: `month` (one partition per month), `index`, or `scan`.
    """

    name: str
    key: tuple[str, ...]
    written: str
    by: str


_SOURCE = ("source_partition", "source_offset")
ALERT_KEY = ("day", "shard", "opened_at", "alert_id")
#: Every table with rows of transactions of one card; `fraudstream erase` deletes from all of them. Those that hang on
#: its alerts and snoozes follow: see `delete_card`. tests/unit/test_erase.py compares this with the migrations.
CARD_TABLES = (
    CardTable("predictions", ("card_id", "month", "event_time", "transaction_id"), "source_topic", "month"),
    CardTable(
        "conflicting_predictions",
        ("card_id", "month", "event_time", "transaction_id", *_SOURCE),
        "source_topic",
        "month",
    ),
    CardTable(
        "refunds",
        ("card_id", "month", "event_time", "transaction_id", "amount_minor"),
        "source_topic",
        "month",
    ),
    CardTable("alerts", (*ALERT_KEY, "event_time", "transaction_id", *_SOURCE), "source_topic", "index"),
    CardTable(
        "labels", ("transaction_id", "card_id", "labelled_at", *_SOURCE), "source_topic", "scan"
    ),
)  # fmt: skip
#: What people have noted of an alert: one row per alert, which goes with the last of its transactions.
ALERT_TABLES = ("alert_acks", "alert_reviews")
#: A row per card whose alerts are snoozed.
SNOOZES = "alert_snoozes"
#: Among the numbers of an erasure: not a table.
KEPT = "changes_kept"


@dataclass(frozen=True)
class Before:
    """Which rows an erasure is about: those of source records before it.

    Attributes:
        partition: the card's partition of `transactions`.
        offset: of the erase record there; None: all rows.
        labels: the same by partition of `labels`.
        at_ms: when it was asked for, epoch milliseconds: a snooze has no source record; None: now.
        received_ms: when the broker appended the erase record, epoch milliseconds; None where that is not known.
        labels_received_ms: the same of the first one on `labels`.
    """

    partition: int = 0
    offset: int | None = None
    labels: dict[int, int] = field(default_factory=dict)
    at_ms: int | None = None
    received_ms: int | None = None
    labels_received_ms: int | None = None

    def covers(
        self, table: str, partition: int, offset: int, received_ms: int | None = None
    ) -> bool:
        """Whether a row of a source record is from before the erasure.

        By the offset; and by the broker's time, because offsets say nothing of a topic of that name that was deleted
        since: its records may have higher ones.

        Args:
            table: the row's.
            partition: of its source record.
            offset: of its source record.
            received_ms: when the broker appended that; None where the row does not say.
        """
        if self.offset is None:
            return True
        if table == "labels":
            since_ms, before = self.labels_received_ms, self.labels.get(partition)
        else:
            since_ms = self.received_ms
            before = self.offset if partition == self.partition else None
        if since_ms is not None and received_ms is not None and received_ms < since_ms:
            return True
        return before is None or offset < before

    def covers_snooze(self, snoozed_at_ms: int | None) -> bool:
        """Whether a snooze of the card is from before the erasure."""
        return self.at_ms is None or (snoozed_at_ms or 0) <= self.at_ms


@dataclass(frozen=True)
class Erasure:
    """One erased card, as it is recorded.

    Attributes:
        id: names it, also in the headers of its records.
        at_ms: when, epoch milliseconds.
        by: who asked for it.
        reason: why.
        place: partition and offset of its record on `transactions`.
        labels: by partition of `labels`, the offset of its record there.
        deleted: rows by table, of `audit_records` those that are changed; under `KEPT`, changes that name the card and
            had to be kept.
        gone_by: by topic, when its last record of the card is gone at the latest, epoch milliseconds.
        card_hash, salt: by which a card is recognised.
    """

    id: str
    at_ms: int
    by: str
    reason: str
    place: tuple[int, int]
    labels: dict[int, int] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    gone_by: dict[str, int] = field(default_factory=dict)
    card_hash: str = ""
    salt: str = ""

    @property
    def rows(self) -> dict[str, int]:
        """By table, how many rows were deleted; empty: the erasure is not finished."""
        return {name: number for name, number in self.deleted.items() if name != KEPT}

    @property
    def kept(self) -> int:
        """How many changes on `control` name the card and are kept: their place in the log decides something."""
        return self.deleted.get(KEPT, 0)

    def is_of(self, card_id: str) -> bool:
        """Whether it erased this card."""
        return self.card_hash == hash_of(card_id, self.salt)


def hash_of(card_id: str, salt: str) -> str:
    """What an erasure keeps of its card."""
    return sha256(f"{salt}/{card_id}".encode()).hexdigest()


def delete_card(
    session: Session,
    settings: Settings,
    card_id: str,
    before: Before,
    *,
    card_hash: str | None = None,
    dry_run: bool = False,
) -> dict[str, int]:
    """Delete the rows of a card, and take it out of audit records; gives their number by table.

    Args:
        session: to read and write with.
        settings: keyspace.
        card_id: the card.
        before: which of its rows.
        card_hash: what takes its place in audit records; None: they are not looked at, because all would be read.
        dry_run: delete nothing, only count.

    Raises:
        UnavailableError: Cassandra does not answer, or the user may not.
        SchemaError: a table is missing.
    """
    deleted: dict[str, int] = {}
    with explained(settings):
        left: dict[tuple[Any, ...], int] = {}
        of_alerts: set[tuple[Any, ...]] = set()
        for table in CARD_TABLES:
            rows = []
            for row in _rows_of(session, settings, table, card_id):
                place = row["source_partition"], row["source_offset"]
                alert = tuple(row[name] for name in ALERT_KEY) if table.name == "alerts" else None
                if before.covers(table.name, *place, epoch_ms(row["received_at"])):
                    rows.append(row)
                    of_alerts |= {alert} if alert else set()
                elif alert:
                    left[alert] = 1
            deleted[table.name] = len(rows)
            if not dry_run:
                _delete(session, settings, table, rows)
        for name in ALERT_TABLES:
            gone = sorted(of_alerts - left.keys())
            deleted[name] = _of_alerts(session, settings, name, gone, dry_run=dry_run)
        deleted[SNOOZES] = _snooze(session, settings, card_id, before, dry_run=dry_run)
        if card_hash is not None:
            erasure = CardErasure(card_id, card_hash)
            deleted[AUDIT_RECORDS] = pseudonymise(
                session, settings, erasure, before.at_ms, dry_run=dry_run
            )
    return deleted


def replays_beside(session: Session, settings: Settings) -> list[str]:
    """Names of the replays whose keyspaces are there: they have copies of what was replayed.

    Raises:
        UnavailableError: Cassandra does not answer.
    """
    with explained(settings):
        rows = session.execute(
            "SELECT keyspace_name, comment FROM system_schema.tables WHERE table_name = 'replay' ALLOW FILTERING"
        )
        return replay_names(
            settings.keyspace, [(row["keyspace_name"], row["comment"]) for row in rows]
        )


def replay_names(keyspace: str, replays: Iterable[tuple[str, str]]) -> list[str]:
    """The replays of a deployment, by the names that `replay --remove` takes.

    Args:
        keyspace: the deployment's.
        replays: their keyspaces, and the comments of the tables that mark them: other deployments' as well.
    """
    start = f"{keyspace}_"
    return sorted(
        one.removeprefix(start)
        for one, comment in replays
        # a replay of an earlier release does not say whose it is: it may be ours
        if one.startswith(start) and replayed_keyspace(comment) in (keyspace, None)
    )


def record_erasure(session: Session, settings: Settings, erasure: Erasure) -> None:
    """Write down that a card was erased; it stays, whatever the time to live of other rows.

    Raises:
        UnavailableError, SchemaError: see `delete_card`.
    """
    with explained(settings):
        session.execute(
            f"INSERT INTO {settings.keyspace}.erasures (source_topic, erased_at, id, card_hash, salt, erased_by, "  # noqa: S608
            "reason, source_partition, source_offset, labels, deleted, gone_by) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) USING TTL 0",
            (
                Topics(settings).transactions.name, moment_of(erasure.at_ms), erasure.id,
                erasure.card_hash, erasure.salt, erasure.by, erasure.reason, *erasure.place,
                erasure.labels, erasure.deleted,
                {topic: moment_of(at_ms) for topic, at_ms in erasure.gone_by.items()},
            ),
        )  # fmt: skip


def read_erasures(session: Session, settings: Settings) -> list[Erasure]:
    """Every erasure of these topics, the newest first.

    Raises:
        UnavailableError, SchemaError: see `delete_card`.
    """
    with explained(settings):
        rows = session.execute(
            f"SELECT * FROM {settings.keyspace}.erasures WHERE source_topic = %s",  # noqa: S608
            (Topics(settings).transactions.name,),
        )
        return [
            Erasure(
                row["id"],
                epoch_ms(row["erased_at"]) or 0,
                row["erased_by"] or "",
                row["reason"] or "",
                (row["source_partition"], row["source_offset"]),
                dict(row["labels"] or {}),
                dict(row["deleted"] or {}),
                {topic: epoch_ms(at) or 0 for topic, at in (row["gone_by"] or {}).items()},
                row["card_hash"] or "",
                row["salt"] or "",
            )
            for row in rows
        ]


def _rows_of(
    session: Session, settings: Settings, table: CardTable, card_id: str
) -> Iterator[dict[str, Any]]:
    columns = list(dict.fromkeys((*table.key, *_SOURCE, "received_at")))
    text = (
        f"SELECT {', '.join(columns)}, WRITETIME({table.written}) AS written "  # noqa: S608
        f"FROM {settings.keyspace}.{table.name} WHERE card_id = ?"
    )
    if table.by == "month":
        statement = session.prepare(f"{text} AND month = ?")
        asked = [(card_id, month) for month in _months()]
        answers = execute_concurrent_with_args(session, statement, asked, concurrency=_AT_ONCE)
        for answer in answers:
            yield from answer.result_or_exc
        return
    # one row per label, and few are of one card: not worth an index on every write
    if table.by == "scan":
        text += " ALLOW FILTERING"
    statement = session.prepare(text)
    for row in session.execute(statement, (card_id,), execution_profile=SCAN):
        yield row if isinstance(row, dict) else dict(zip((*columns, "written"), row, strict=True))


def _delete(
    session: Session, settings: Settings, table: CardTable, rows: Sequence[dict[str, Any]]
) -> None:
    if not rows:
        return
    where = " AND ".join(f"{name} = ?" for name in table.key)
    statement = session.prepare(
        f"DELETE FROM {settings.keyspace}.{table.name} USING TIMESTAMP ? WHERE {where}"  # noqa: S608
    )
    keys = [(row["written"], *(row[name] for name in table.key)) for row in rows]
    for answer in execute_concurrent_with_args(session, statement, keys, concurrency=_AT_ONCE):
        _ = answer.result_or_exc


def _of_alerts(
    session: Session,
    settings: Settings,
    table: str,
    alerts: Sequence[tuple[Any, ...]],
    *,
    dry_run: bool,
) -> int:
    where = " AND ".join(f"{name} = %s" for name in ALERT_KEY)
    found = 0
    for alert in alerts:
        named = f"FROM {settings.keyspace}.{table} WHERE {where}"
        if list(session.execute(f"SELECT alert_id {named}", alert)):  # noqa: S608
            found += 1
            if not dry_run:
                session.execute(f"DELETE {named}", alert)
    return found


def _snooze(
    session: Session, settings: Settings, card_id: str, before: Before, *, dry_run: bool
) -> int:
    named = f"FROM {settings.keyspace}.{SNOOZES} WHERE kind = 'card' AND id = %s"
    rows = list(session.execute(f"SELECT snoozed_at {named}", (card_id,)))  # noqa: S608
    found = sum(before.covers_snooze(epoch_ms(row["snoozed_at"])) for row in rows)
    if found and not dry_run:
        session.execute(f"DELETE {named}", (card_id,))
    return found


def _months() -> Iterator[str]:
    """The months in which an event can be: up to next month, because clocks may be ahead."""
    today = datetime.fromtimestamp(time.time(), UTC)
    for year in range(_FIRST_YEAR, today.year + 1):
        for month in range(1, 13):
            yield f"{year:04d}-{month:02d}"
    if today.month == 12:  # noqa: PLR2004
        yield f"{today.year + 1:04d}-01"
