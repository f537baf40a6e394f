"""Labels and Cassandra: the transaction that a label speaks of is found, the label is stored and read again.

They are stored as predictions are (docs/adr/0008): by the driver's session, in threads, a transaction with its label
took a fifth more of the worker and three tenths more of Cassandra.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import PreparedStatement

from app.adapters.cassandra import SCAN, connect, explained
from app.adapters.label_rows import LABELS, pack_labels
from app.adapters.prediction_rows import epoch_ms
from app.adapters.row_writer import RowWriter
from app.domain.transaction import DeadRecordError
from app.errors import AwayError
from app.label_records import LabelRecord
from app.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Between two looks for a transaction that is not there yet, and between attempts to reach Cassandra, seconds.
_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 0.1, 5.0
_AWAY_SECONDS = 2.0
#: Questions asked at once: each asks every node.
_AT_ONCE = 32


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
        self._writer: RowWriter | None = None
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
            ids = [label.transaction_id for label in wanting]
            found = await self._patiently(partial(self._find, ids))
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
            writer = await self._patiently(self._connected)
            await writer.write(list(pack_labels(self._topic, partition, labels)))

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until Cassandra is there."""
        said = False
        while True:
            try:
                return await attempt()
            except AwayError as error:
                if not said:
                    logger.warning("labels wait: %s", error)
                    said = True
                await asyncio.sleep(_AWAY_SECONDS)

    async def _connected(self) -> RowWriter:
        async with self._connecting:
            if self._writer is None:
                self._session = await asyncio.to_thread(connect, self._settings)
                self._writer = RowWriter(self._session, self._settings, LABELS)
            return self._writer

    async def _find(self, transaction_ids: Sequence[str]) -> list[list[dict[str, Any]]]:
        await self._connected()
        assert self._session is not None
        return await asyncio.to_thread(_find, self._session, self._settings, transaction_ids)


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


def _find(
    session: Session, settings: Settings, transaction_ids: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """For each id, the transactions that have it: card, event time (epoch ms), terminal."""
    with explained(settings):
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
