"""Reading `predictions`: one transaction, a card's newest, or the whole table by token ranges."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import PreparedStatement

from app.cassandra.alert_queries import alert_of_transaction
from app.cassandra.label_queries import label_of
from app.cassandra.packed_rows import PackedTable
from app.cassandra.prediction_columns import month_of
from app.cassandra.prediction_rows import COLUMNS, PREDICTIONS, row_dict, tables_of
from app.cassandra.session import SCAN, explained, prepared, shared_session
from app.domain.alert_policy import may_raise_alert
from app.domain.prediction_flags import CONFLICTING
from app.settings import Settings

#: Rows of a page of a scan at most; with features some 800 bytes each.
_PAGE_ROWS = 2_000
#: Cassandra builds a page in its heap: 2,000 rows with unknown fields of 0.9 MB ended a node with a small one.
_PAGE_BYTES = 2 << 20
#: Until the size of rows is known.
_FIRST_PAGE_ROWS = 16
#: Every how many rows one is measured.
_MEASURED = 8
#: Token ranges asked at once.
_RANGES_AT_ONCE = 4
#: Ranges a scan is cut into: enough that the last ones do not leave a range alone, and none is too large.
_RANGES = 64
#: Of a period, more: a page comes when it is full, and where few rows are of the period it takes a whole range.
_RANGES_OF_A_PERIOD = 512
#: Tokens of the Murmur3 partitioner.
_FIRST_TOKEN, _LAST_TOKEN = -(2**63), 2**63 - 1
#: Rows asked for at once by their keys.
_KEYS_AT_ONCE = 32
#: Months asked at once for a card, growing; together as far back as `card_predictions` looks.
_MONTHS_AT_ONCE = (2, 6, 16, 48, 48)


def find_transactions(
    session: Session, settings: Settings, transaction_id: str
) -> list[dict[str, Any]]:
    """Every scored transaction with an id: of each card the first, then those that conflict with it. See `row_dict`.

    Cards may share an id; the one with the newest event comes first. Asks every node (an SAI index): for people and
    rare look-ups.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    with explained(settings):
        rows: list[dict[str, Any]] = []
        for table in tables_of(settings):
            query = _select(session, settings, table.columns, "transaction_id = ?", table)
            found = list(session.execute(query, (transaction_id,)))
            found.sort(key=lambda row: row["event_time"], reverse=True)
            rows += found
    return [row_dict(row, settings.minor_unit_digits) for row in rows]


def is_scored(settings: Settings, transaction_id: str) -> bool:
    """Whether a transaction with an id is stored: cheaper than `find_transaction`, whose session it uses; blocks.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    session = shared_session(settings)
    with explained(settings):
        answers = [
            session.execute_async(
                _select(session, settings, ("card_id",), "transaction_id = ? LIMIT 1", table).bind(
                    (transaction_id,)
                )
            )
            for table in tables_of(settings)
        ]
        return any(answer.result().one() for answer in answers)


def find_transaction(settings: Settings, transaction_id: str) -> dict[str, Any] | None:
    """The stored row of a transaction, the newest if several cards used the same id; None without any.

    With `label`: what is known of it by now, `is_fraud` and `labelled_at` (epoch ms), None without a label. A label is
    of the first transaction of its card with that id: conflicting ones have none. With `alert_id`: the alert that it
    is part of, None without one. With `others`: the other rows with this id, each with its label and alert, in the
    order of `find_transactions`.

    Uses the session that this process keeps for reads; blocks.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    session = shared_session(settings)
    found = find_transactions(session, settings, transaction_id)
    if not found:
        return None
    for row in found:
        conflicts = CONFLICTING in row["flags"]
        row["label"] = (
            None if conflicts else label_of(session, settings, transaction_id, row["event_time_ms"])
        )
        row["alert_id"] = None
        if may_raise_alert(row["is_fraud"], row["flags"], row["rules"]):
            row["alert_id"] = alert_of_transaction(
                session, settings, row["card_id"], transaction_id, row["event_time_ms"]
            )
    return {**found[0], "others": found[1:]}


def decisions_of(
    session: Session, settings: Settings, transactions: Sequence[tuple[str, str, int]]
) -> dict[tuple[str, int], dict[str, Any]]:
    """What was decided about transactions, by key: few nodes are asked.

    Args:
        session: to read with.
        settings: keyspace.
        transactions: card id, transaction id and event time (epoch ms) of each.

    Returns:
        By transaction id and event time `is_fraud`, `action` and `rules`; those that are not stored are left out.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with explained(settings):
        query = _select(session, settings, ("is_fraud", "action", "rules"), _BY_KEY)
        keys = [
            (card_id, month_of(event_time_ms), event_time_ms, transaction_id)
            for card_id, transaction_id, event_time_ms in transactions
        ]
        answers = execute_concurrent_with_args(session, query, keys, concurrency=_KEYS_AT_ONCE)
        for (_, _, event_time_ms, transaction_id), answer in zip(keys, answers, strict=True):
            for row in answer.result_or_exc:
                found[transaction_id, event_time_ms] = row
    return found


def card_predictions(
    session: Session,
    settings: Settings,
    card_id: str,
    limit: int,
    *,
    before_ms: int | None = None,
) -> list[dict[str, Any]]:
    """A card's newest rows, newest event first. See `row_dict`.

    Args:
        session: to read with.
        settings: keyspace.
        card_id: the card.
        limit: rows at most.
        before_ms: event times below it, epoch milliseconds; now and the future skew if not given.
            Looks ten years back from there.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    if before_ms is None:
        before_ms = time.time_ns() // 1_000_000 + settings.max_future_skew + 1
    months = _months_back(before_ms)
    found: list[dict[str, Any]] = []
    with explained(settings):
        columns = tables_of(settings).predictions.columns
        query = _select(
            session, settings, columns, "card_id = ? AND month = ? AND event_time < ? LIMIT ?"
        )
        for count in _MONTHS_AT_ONCE:
            asked = [next(months) for _ in range(count)]
            answers = [
                session.execute_async(query, (card_id, month, before_ms, limit)) for month in asked
            ]
            for answer in answers:
                found += answer.result()
            if len(found) >= limit:
                break
    return [row_dict(row, settings.minor_unit_digits) for row in found[:limit]]


def scan_predictions(
    session: Session,
    settings: Settings,
    columns: Sequence[str] = COLUMNS,
    *,
    table: PackedTable = PREDICTIONS,
    page_rows: int = _PAGE_ROWS,
    from_ms: int | None = None,
    to_ms: int | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Every row of a table, or of a period, in no useful order; pages of several token ranges are fetched ahead.

    Pages are bounded in bytes, by the size of the rows read before them. Event time is the first clustering column, so
    Cassandra reads a period as one slice of each partition and skips files that hold nothing of it.

    Args:
        session: to read with.
        settings: keyspace.
        columns: what each tuple holds; fewer columns are faster (`features` is half of the work).
        table: `predictions`, or that of conflicting ones.
        page_rows: rows fetched at a time, at most.
        from_ms: event times from here on, epoch milliseconds; None: from the first.
        to_ms: event times below it; None: to the last.

    Yields:
        Tuples as the driver reads them: moments are datetimes in UTC without a zone.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    with explained(settings):
        period = {
            text: moment
            for text, moment in (("event_time >= ?", from_ms), ("event_time < ?", to_ms))
            if moment is not None
        }
        # a slice of clustering keys is no filter over rows, but Cassandra wants the words for one without a partition
        where = " AND ".join((_IN_RANGE, *period)) + (" ALLOW FILTERING" if period else "")
        query = _select(session, settings, columns, where, table)
        waiting = deque(_ranges(_RANGES_OF_A_PERIOD if period else _RANGES))
        pages: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        open_ranges = 0
        fetched = min(page_rows, _FIRST_PAGE_ROWS)
        while waiting or open_ranges:
            while waiting and open_ranges < _RANGES_AT_ONCE:
                part = query.bind((*waiting.popleft(), *period.values()))
                part.fetch_size = fetched
                future = session.execute_async(part, execution_profile=SCAN)
                # called for each page, in the driver's thread
                future.add_callbacks(_page, _failure, (pages, future), {}, (pages,), {})
                open_ranges += 1
            rows, future = pages.get()
            if future is None:
                raise rows
            if rows:
                fetched = max(1, min(page_rows, _PAGE_BYTES // _row_bytes(rows)))
            if future.has_more_pages:
                future.message.fetch_size = fetched
                future.start_fetching_next_page()
            else:
                open_ranges -= 1
            yield from rows


def scan_scored(
    session: Session, settings: Settings, columns: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """As `scan_predictions`, and those that conflict behind them: every transaction that was scored."""
    for table in tables_of(settings):
        yield from scan_predictions(session, settings, columns, table=table)


_BY_KEY = "card_id = ? AND month = ? AND event_time = ? AND transaction_id = ?"
_IN_RANGE = "token(card_id, month) >= ? AND token(card_id, month) <= ?"


def _row_bytes(rows: list[Any]) -> int:
    """About how many bytes a row has, from some of a page."""
    some = rows[::_MEASURED]
    sizes = [len(value) for row in some for value in row if hasattr(value, "__len__")]
    return 1 + sum(sizes) // len(some)


def _page(rows: list[Any], pages: "SimpleQueue[tuple[Any, Any]]", future: Any) -> None:
    pages.put((rows, future))


def _failure(error: BaseException, pages: "SimpleQueue[tuple[Any, Any]]") -> None:
    pages.put((error, None))


def _select(
    session: Session,
    settings: Settings,
    columns: Sequence[str],
    where: str,
    table: PackedTable = PREDICTIONS,
) -> PreparedStatement:
    text = f"SELECT {', '.join(columns)} FROM {settings.keyspace}.{table.name} WHERE {where}"  # noqa: S608
    return prepared(session, text)


def _ranges(count: int) -> Iterator[tuple[int, int]]:
    """The whole ring in ranges, both ends included."""
    step = 2**64 // count
    for number in range(count):
        low = _FIRST_TOKEN + number * step
        yield low, _LAST_TOKEN if number == count - 1 else low + step - 1


def _months_back(before_ms: int) -> Iterator[str]:
    """The month of a moment and those before it."""
    year, month = map(int, month_of(before_ms - 1).split("-"))
    while True:
        yield f"{year:04d}-{month:02d}"
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)
