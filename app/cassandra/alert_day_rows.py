"""Rows of a day of `alerts` and of the tables beside it, newest first, and read as far as wanted."""

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

from cassandra.cluster import Session

from app.cassandra.alert_rows import ALERTS
from app.cassandra.prediction_rows import epoch_ms, moment_of
from app.cassandra.session import prepared
from app.domain.alert_policy import SHARDS, shard_of
from app.settings import Settings

#: Rows of a shard that are fetched at a time, at least, where all are read.
_PAGE_ROWS = 100
#: A list asks for so many times as many rows of a shard when a quarter of the first ones is left.
_MORE_TIMES = 4
#: Tables of what people have done about alerts.
HANDLED = ("alert_acks", "alert_reviews")
#: What tells a row of a shard from others.
_ROW_KEY = ("alert_id", "transaction_id", "source_partition", "source_offset")
#: What is read of a table: of alerts, the columns of which `app.cassandra.stored_alert.alert_row` makes something.
COLUMNS = {
    "alerts": ", ".join(name for name in ALERTS.columns if name not in ("day", "shard", "amount")),
    **dict.fromkeys(HANDLED, "*"),
}


def whole_day(
    session: Session, settings: Settings, day: str, from_ms: int, to_ms: int, table: str, rows: int
) -> Iterator[dict[str, Any]]:
    """The rows of a day, newest first: all shards are asked at once, for `rows` of each at a time."""
    answers = [
        _ask_shard(session, settings, (day, shard, from_ms, to_ms), table, rows)
        for shard in range(SHARDS)
    ]
    return heapq.merge(*map(_rows, answers), key=place_in_day)


def newest_of_day(
    session: Session, settings: Settings, day: str, from_ms: int, to_ms: int, table: str, first: int
) -> Iterator[dict[str, Any]]:
    """The same in one query for the `first` rows of every shard. A shard is asked for more once those are read."""
    query = prepared(
        session,
        f"SELECT {COLUMNS[table]} FROM {settings.keyspace}.{table} "  # noqa: S608
        f"WHERE day = ? AND shard IN ({', '.join(map(str, range(SHARDS)))}) "
        "AND opened_at >= ? AND opened_at < ? PER PARTITION LIMIT ?",
    )
    answer = session.execute_async(query.bind((day, moment_of(from_ms), moment_of(to_ms), first)))

    def rows_of(shard: int, found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if len(found) < first:
            yield from found
            return
        ahead = first - max(1, first // 4)
        yield from found[:ahead]
        # those of the last moment come again: its other rows may not have been among the first
        last_ms = epoch_ms(found[-1]["opened_at"]) or 0
        place = day, shard, from_ms, last_ms + 1
        more = _ask_shard(session, settings, place, table, _MORE_TIMES * first)
        yield from found[ahead:]
        known = {_row_key(row) for row in found if epoch_ms(row["opened_at"]) == last_ms}
        yield from (row for row in _rows(more) if _row_key(row) not in known)

    def rows() -> Iterator[dict[str, Any]]:
        by_shard: dict[int, list[dict[str, Any]]] = {}
        for row in answer.result():
            by_shard.setdefault(shard_of(row["alert_id"]), []).append(row)
        yield from heapq.merge(*(rows_of(*one) for one in by_shard.items()), key=place_in_day)

    return rows()


def _ask_shard(
    session: Session, settings: Settings, place: tuple[str, int, int, int], table: str, rows: int
) -> Any:
    """Ask for the rows of a day and shard in a period, newest first, `rows` at a time."""
    day, shard, from_ms, to_ms = place
    query = prepared(
        session,
        f"SELECT {COLUMNS[table]} FROM {settings.keyspace}.{table} "  # noqa: S608
        "WHERE day = ? AND shard = ? AND opened_at >= ? AND opened_at < ?",
    )
    bound = query.bind((day, shard, moment_of(from_ms), moment_of(to_ms)))
    bound.fetch_size = rows
    return session.execute_async(bound)


def _row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in _ROW_KEY)


class Follower:
    """Rows of a table beside the alerts, in the same order: read only as far as the alerts are.

    Args:
        rows: in the order of their places.
    """

    def __init__(self, rows: Iterator[dict[str, Any]]) -> None:
        self._rows = rows
        self._row = next(rows, None)

    def __call__(self, place: tuple[int, str]) -> dict[str, Any] | None:
        """The row of a place, which is not before the last one; None: there is none."""
        while self._row is not None and place_in_day(self._row) < place:
            self._row = next(self._rows, None)
        return self._row if self._row is not None and place_in_day(self._row) == place else None


def _rows(answer: Any) -> Iterator[dict[str, Any]]:
    # a generator: the driver's result begins anew whenever it is iterated, and heapq.merge does so with the last one
    rows = answer.result()
    # of the pages that follow
    answer.message.fetch_size = max(_PAGE_ROWS, answer.message.fetch_size)
    yield from rows


def place_in_day(row: Mapping[str, Any]) -> tuple[int, str]:
    """By which rows are in order: newest first, then by alert."""
    return -(epoch_ms(row["opened_at"]) or 0), row["alert_id"]
