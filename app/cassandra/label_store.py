"""Labels and Cassandra: the transaction that a label speaks of is found, the label is stored and read again.

They are stored as predictions are (docs/adr/0008): by the driver's session, in threads, a transaction with its label
took a fifth more of the worker and three tenths more of Cassandra.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import PreparedStatement

from app.cassandra.label_rows import LABELS, pack_labels
from app.cassandra.prediction_rows import epoch_ms
from app.cassandra.row_writer import RowWriter
from app.cassandra.session import SCAN, explained, shared_session
from app.errors import NotAnsweringError
from app.settings import Settings
from app.wire.label_records import LabelRecord

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A look-up that takes longer counts as no answer: a block of labels waits for it.
FIND_SECONDS = 2.0
#: Between attempts to reach Cassandra.
_AWAY_SECONDS = 2.0
#: Look-ups whose threads may hang before no further one is made.
_MOST_ASKING = 4
_NO_ANSWER = f"Cassandra did not answer a look-up within {FIND_SECONDS:g} s"
#: Questions asked at once: each asks every node.
_AT_ONCE = 32


class LabelStore:
    """Finds the transactions of labels, and stores labels; belongs to one event loop.

    Args:
        settings: where Cassandra is.
        topic: where labels come from.

    Attributes:
        away: why Cassandra could not be asked the last time; None when it answered.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self.away: str | None = None
        self._settings = settings
        self._topic = topic
        self._session: Session | None = None
        self._writer: RowWriter | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Future[Any]] = set()
        self._ask_again_at = 0.0

    async def find(
        self, transaction_ids: Sequence[str], seconds: float = FIND_SECONDS
    ) -> list[list[dict[str, Any]]]:
        """For each id, the transactions that have it: card, event time (epoch ms), terminal.

        Raises:
            NotAnsweringError: Cassandra does not answer in time, or did not a moment ago.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._ask_again_at:
            raise NotAnsweringError(self.away or "Cassandra does not answer")
        deadline = loop.time() + seconds
        try:
            await self._within(self._connected(), deadline)
            if len(self._asking) >= _MOST_ASKING:  # threads that hang: no further ones
                raise NotAnsweringError(_NO_ANSWER)
            asking = asyncio.ensure_future(
                asyncio.to_thread(find_places, self._session, self._settings, transaction_ids)
            )
            self._asking.add(asking)
            asking.add_done_callback(self._asked)
            found: list[list[dict[str, Any]]] = await self._within(asking, deadline)
        except NotAnsweringError as error:
            if self.away is None:
                logger.warning("labels are not looked up, they wait: %s", error)
            self.away = str(error)
            self._ask_again_at = loop.time() + _AWAY_SECONDS
            raise
        if self.away is not None:
            logger.warning("labels are looked up again")
            self.away = None
        return found

    def _asked(self, asking: asyncio.Future[Any]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # nobody may wait for it any more

    async def _within(self, work: asyncio.Future[T], deadline: float) -> T:
        """What a task leads to; one that takes longer goes on, since its thread cannot be stopped."""
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait({work}, timeout=left)
        if not done:
            raise NotAnsweringError(_NO_ANSWER)
        return work.result()

    async def store(self, partition: int, labels: Sequence[LabelRecord]) -> None:
        """Write the labels of one partition; done once Cassandra has them all, however long that takes."""
        if not labels:
            return
        said = False
        while True:
            try:
                await asyncio.shield(self._connected())
                break
            except NotAnsweringError as error:
                if not said:
                    logger.warning("labels wait: %s", error)
                    said = True
                await asyncio.sleep(_AWAY_SECONDS)
        assert self._writer is not None
        await self._writer.write(list(pack_labels(self._topic, partition, labels)))

    def _connected(self) -> asyncio.Task[None]:
        """The one attempt to connect, successful or under way; a new one after a failure."""
        task = self._connecting
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._connecting = asyncio.create_task(self._connect())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _connect(self) -> None:
        self._session = await asyncio.to_thread(shared_session, self._settings)
        self._writer = RowWriter(self._session, self._settings, LABELS)


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
    with explained(settings):
        rows = session.execute(
            f"SELECT {', '.join(_VERDICT)} FROM {settings.keyspace}.labels "  # noqa: S608
            "WHERE transaction_id = %s",
            (transaction_id,),
        )
        found = _latest(tuple(row[name] for name in _VERDICT) for row in rows)
    if event_time_ms not in found:
        return None
    labelled_at, *_, is_fraud = found[event_time_ms]
    return {"is_fraud": is_fraud, "labelled_at": epoch_ms(labelled_at)}


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
        statement = _prepared(
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


def scan_verdicts(session: Session, settings: Settings) -> Iterator[tuple[int, str, bool]]:
    """Event time (epoch ms), transaction id and verdict of every labelled transaction: of its labels the one that wins.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    rows = _scan(session, settings, f"transaction_id, {', '.join(_VERDICT)}")
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


def _scan(session: Session, settings: Settings, columns: str) -> Iterator[Any]:
    with explained(settings):
        yield from session.execute(
            f"SELECT {columns} FROM {settings.keyspace}.labels",  # noqa: S608
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


_statements: WeakKeyDictionary[Session, dict[str, PreparedStatement]] = WeakKeyDictionary()


def _prepared(session: Session, text: str) -> PreparedStatement:
    statements = _statements.setdefault(session, {})
    if text not in statements:
        statements[text] = session.prepare(text)
        statements[text].is_idempotent = True
    return statements[text]
