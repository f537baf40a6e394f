"""Reads of labels: of one transaction, of all, and which of several labels of a transaction wins."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from app.cassandra.prediction_rows import epoch_ms, moment_of
from app.cassandra.session import SCAN, explained, prepared
from app.settings import Settings

#: Questions asked at once: each asks every node.
_AT_ONCE = 32
_ALL: Mapping[str, Any] = {}


def label_of(
    session: Session, settings: Settings, transaction_id: str, event_time_ms: int
) -> dict[str, Any] | None:
    """What is known of a transaction: `is_fraud`, `labelled_at` (epoch ms); None without a label.

    A label belongs to the transaction of its id and event time, as at its terminal: the card that it names may be
    wrong.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    key = transaction_id, event_time_ms
    return labels_of(session, settings, [key]).get(key)


def labels_of(
    session: Session, settings: Settings, transactions: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], dict[str, Any]]:
    """The same of several transactions, given as id and event time (epoch ms); those without a label are left out.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    columns = ", ".join(_VERDICT)
    with explained(settings):
        statement = prepared(
            session,
            f"SELECT {columns} FROM {settings.keyspace}.labels WHERE transaction_id = ?",  # noqa: S608
        )
        answers = execute_concurrent_with_args(
            session, statement, [(name,) for name, _ in transactions], concurrency=_AT_ONCE
        )
        found = {}
        for key, answer in zip(transactions, answers, strict=True):
            rows = (tuple(row[name] for name in _VERDICT) for row in answer.result_or_exc)
            if label := _latest(rows).get(key[1]):
                found[key] = {"is_fraud": label[-1], "labelled_at": epoch_ms(label[0])}
        return found


def scan_labels(session: Session, settings: Settings) -> Iterator[tuple[str, int, int]]:
    """The source of every stored label, in no useful order: topic, partition, offset.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    return _scan(session, settings, "source_topic, source_partition, source_offset")


def scan_verdicts(
    session: Session, settings: Settings, from_ms: int | None = None, to_ms: int | None = None
) -> Iterator[tuple[int, str, bool]]:
    """Event time (epoch ms), transaction id and verdict of every labelled transaction: of its labels the one that wins.

    Args:
        session: to read with.
        settings: keyspace.
        from_ms: event times of transactions from here on, epoch milliseconds; None: from the first.
        to_ms: event times below it; None: to the last.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    bounds = {"event_time >= %s": from_ms, "event_time < %s": to_ms}
    period = {text: moment_of(at) for text, at in bounds.items() if at is not None}
    rows = _scan(session, settings, f"transaction_id, {', '.join(_VERDICT)}", period)
    for transaction_id, same_id in groupby(rows, itemgetter(0)):  # they are one partition
        for event_time_ms, label in _latest(row[1:] for row in same_id).items():
            yield event_time_ms, transaction_id, label[-1]


def scan_arrivals(session: Session, settings: Settings) -> Iterator[int]:
    """When each stored label arrived, epoch ms, in no useful order.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    for (received_at,) in _scan(session, settings, "received_at"):
        arrived = epoch_ms(received_at)
        if arrived is not None:
            yield arrived


#: What decides which of several labels wins, after the event time of their transaction; the verdict comes last.
_VERDICT = ("event_time", "labelled_at", "source_partition", "source_offset", "is_fraud")


def _latest(rows: Iterable[tuple[Any, ...]]) -> dict[int, tuple[Any, ...]]:
    """By event time, the label that wins: the latest, and of equally late ones the one that came last."""
    latest: dict[int, tuple[Any, ...]] = {}
    for moment, *label in rows:
        event_time_ms = epoch_ms(moment)
        assert event_time_ms is not None
        if event_time_ms not in latest or tuple(label) > latest[event_time_ms]:
            latest[event_time_ms] = tuple(label)
    return latest


def _scan(
    session: Session, settings: Settings, columns: str, filters: Mapping[str, Any] = _ALL
) -> Iterator[Any]:
    """Rows of the table; `filters`: conditions with their values, by which Cassandra leaves out others."""
    where = f" WHERE {' AND '.join(filters)} ALLOW FILTERING" if filters else ""
    with explained(settings):
        yield from session.execute(
            f"SELECT {columns} FROM {settings.keyspace}.labels{where}",  # noqa: S608
            tuple(filters.values()) or None,
            execution_profile=SCAN,
        )


def find_places(
    session: Session, settings: Settings, transaction_ids: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """For each id, the transactions that have it: card, event time (epoch ms), terminal.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    with explained(settings):
        statement = prepared(
            session,
            f"SELECT card_id, event_time, terminal_id FROM {settings.keyspace}.predictions "  # noqa: S608
            "WHERE transaction_id = ?",
        )
        answers = execute_concurrent_with_args(
            session, statement, [(name,) for name in transaction_ids], concurrency=_AT_ONCE
        )
        return [
            [{**row, "event_time_ms": epoch_ms(row["event_time"])} for row in answer.result_or_exc]
            for answer in answers
        ]
