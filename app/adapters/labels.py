"""Labels and Cassandra: the transaction that a label speaks of is found, the label is stored and read again.

Labels are few beside transactions and never urgent, so they go through the driver's session, in threads.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import BatchStatement, BatchType, PreparedStatement

from app.adapters.cassandra import SCAN, connect, explained
from app.adapters.prediction_rows import epoch_ms
from app.domain.transaction import DeadRecordError
from app.errors import AwayError
from app.label_records import LabelRecord
from app.settings import Settings

logger = logging.getLogger(__name__)

#: Between two looks for a transaction that is not there yet, and between attempts to reach Cassandra, seconds.
_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.1, 5.0
_AWAY_SECONDS = 2.0
#: Questions asked at once: each asks every node.
_AT_ONCE = 32
#: Labels of one batch: some 200 bytes each.
_BATCH_LABELS = 50
_COLUMNS = (
    "transaction_id", "card_id", "labelled_at", "source_partition", "source_offset", "source_topic",
    "is_fraud", "event_time", "terminal_id", "received_at",
)  # fmt: skip


class LabelStore:
    """Finds and stores, for as long as it takes; belongs to one event loop.

    Args:
        settings: where Cassandra is, and how long a label waits.
        topic: where labels come from.
        clock_ms: the time, for how long a label has waited.
    """

    def __init__(self, settings: Settings, topic: str, clock_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._topic = topic
        self._clock_ms = clock_ms
        self._session: Session | None = None
        self._connecting = asyncio.Lock()

    async def complete(self, labels: Sequence[LabelRecord]) -> dict[int, DeadRecordError]:
        """Fill in what labels do not say: card, terminal and event time.

        One whose transaction is not there is looked for again until it has waited long enough. While
        Cassandra is away nothing is given up.

        Returns:
            By offset, why a label's transaction could not be found.
        """
        lost: dict[int, DeadRecordError] = {}
        wanting = [label for label in labels if not label.whole]
        pause = _FIRST_LOOK_SECONDS
        while wanting:
            asked_at = self._clock_ms()
            found = await self._persist(_find, [label.transaction_id for label in wanting])
            still = []
            for label, same_id in zip(wanting, found, strict=True):
                rows = [row for row in same_id if _fits(label, row)]
                if len(rows) == 1:
                    _fill(label, rows[0])
                elif rows:
                    msg = f"{len(rows)} transactions have this id: say card_id and event_time too"
                    lost[label.offset] = DeadRecordError("ambiguous_transaction", msg)
                elif asked_at - label.received_at > self._settings.label_wait:
                    msg = "no such transaction has been scored and stored while the label waited"
                    lost[label.offset] = DeadRecordError("unknown_transaction", msg)
                else:
                    still.append(label)
            wanting = still
            if wanting:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_LOOK_SECONDS)
        return lost

    async def store(self, partition: int, labels: Sequence[LabelRecord]) -> None:
        """Write the labels of one partition; done once Cassandra has them all."""
        if labels:
            await self._persist(_write, self._topic, partition, labels)

    async def _persist(self, work: Callable[..., Any], *args: Any) -> Any:
        said = False
        while True:
            try:
                session = await self._connected()
                return await asyncio.to_thread(_explained, work, session, self._settings, *args)
            except AwayError as error:
                if not said:
                    logger.warning("labels wait: %s", error)
                    said = True
                await asyncio.sleep(_AWAY_SECONDS)

    async def _connected(self) -> Session:
        async with self._connecting:
            if self._session is None:
                self._session = await asyncio.to_thread(connect, self._settings)
            return self._session


def label_of(
    session: Session, settings: Settings, transaction_id: str, card_id: str
) -> dict[str, Any] | None:
    """What is known of a transaction: `is_fraud`, `labelled_at` (epoch ms); None without a label.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    with explained(settings):
        row = session.execute(
            f"SELECT is_fraud, labelled_at FROM {settings.keyspace}.labels "  # noqa: S608
            "WHERE transaction_id = %s AND card_id = %s LIMIT 1",
            (transaction_id, card_id),
        ).one()
    if row is None:
        return None
    return {"is_fraud": row["is_fraud"], "labelled_at": epoch_ms(row["labelled_at"])}


def scan_labels(session: Session, settings: Settings) -> Iterator[tuple[str, int, int]]:
    """The source of every stored label, in no useful order: topic, partition, offset.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    return _scan(session, settings, "source_topic, source_partition, source_offset")


def scan_verdicts(session: Session, settings: Settings) -> Iterator[tuple[str, str, bool]]:
    """Card id, transaction id and verdict of every stored label; of one transaction the one that holds first.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    return _scan(session, settings, "card_id, transaction_id, is_fraud")


def _scan(session: Session, settings: Settings, columns: str) -> Iterator[Any]:
    with explained(settings):
        yield from session.execute(
            f"SELECT {columns} FROM {settings.keyspace}.labels",  # noqa: S608
            execution_profile=SCAN,
        )


def _explained(work: Callable[..., Any], session: Session, settings: Settings, *args: Any) -> Any:
    with explained(settings):
        return work(session, settings, *args)


def _find(
    session: Session, settings: Settings, transaction_ids: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """For each id, the transactions that have it: card, event time (epoch ms), terminal."""
    statement = _prepared(
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


def _write(
    session: Session, settings: Settings, topic: str, partition: int, labels: Sequence[LabelRecord]
) -> None:
    marks = ", ".join("?" * len(_COLUMNS))
    statement = _prepared(
        session,
        f"INSERT INTO {settings.keyspace}.labels ({', '.join(_COLUMNS)}) "  # noqa: S608
        f"VALUES ({marks}) USING TTL {settings.ttl_seconds}",
    )
    batches = [
        session.execute_async(batch) for batch in _batches(statement, topic, partition, labels)
    ]
    for batch in batches:
        batch.result()


def _batches(
    statement: PreparedStatement, topic: str, partition: int, labels: Sequence[LabelRecord]
) -> Iterator[BatchStatement]:
    for start in range(0, len(labels), _BATCH_LABELS):
        batch = BatchStatement(BatchType.UNLOGGED)
        batch.is_idempotent = True
        for label in labels[start : start + _BATCH_LABELS]:
            batch.add(
                statement,
                (
                    label.transaction_id, label.card_id, label.labelled_at_ms, partition,
                    label.offset, topic, label.is_fraud, label.event_time_ms, label.terminal_id,
                    label.received_at,
                ),
            )  # fmt: skip
        yield batch


def _fits(label: LabelRecord, row: dict[str, Any]) -> bool:
    """Whether a transaction is the one that a label speaks of, as far as the label says."""
    said = {
        "card_id": label.card_id,
        "terminal_id": label.terminal_id,
        "event_time_ms": label.event_time_ms,
    }
    return all(value is None or row[name] == value for name, value in said.items())


def _fill(label: LabelRecord, row: dict[str, Any]) -> None:
    label.card_id, label.terminal_id = row["card_id"], row["terminal_id"]
    label.event_time_ms = row["event_time_ms"]


_statements: WeakKeyDictionary[Session, dict[str, PreparedStatement]] = WeakKeyDictionary()


def _prepared(session: Session, text: str) -> PreparedStatement:
    statements = _statements.setdefault(session, {})
    if text not in statements:
        statements[text] = session.prepare(text)
        statements[text].is_idempotent = True
    return statements[text]
