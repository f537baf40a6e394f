"""What only Cassandra has, in files, and back: every cell with its time of writing, and with what is left of its life.

A cell keeps its time of writing. So a restored cell never replaces a newer one, and a row that was deleted since stays
deleted as long as Cassandra remembers that. Restoring twice changes nothing.
"""

import gzip
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent
from cassandra.query import SimpleStatement

from app.cassandra.erased_since_backup import ErasedRows
from app.cassandra.schema_shape import present_shape
from app.cassandra.session import SCAN, explained
from app.errors import SchemaError, UsageError
from app.settings import Settings

#: What people and commands wrote: no topic has it. In the order in which it is restored: a model is listed once its
#: artifact is there.
ONLY_HERE = (
    "model_artifacts", "models", "model_gates", "alert_acks", "alert_reviews", "alert_snoozes", "erasures",
    "audit_records",
)  # fmt: skip
#: What topics have, as long as they keep it.
FROM_TOPICS = ("predictions", "conflicting_predictions", "labels", "refunds", "alerts")
#: Cells that are written once all others are there: a worker that finds a manifest reads the whole model.
_LAST_CELLS = {"model_artifacts": "manifest"}
NOTHING_ERASED = ErasedRows(())
#: Rows of one page; a chunk of a model has half a megabyte.
_PAGE_ROWS, _PAGE_CHUNKS = 1_000, 16
#: Writes that are made from the file together, and how many of them are on their way at once.
_ROWS_AT_ONCE, _CHUNKS_AT_ONCE, _AT_ONCE = 1_000, 4, 32
_LENGTH_BYTES = 4
_MOST_ROW_BYTES = 1 << 28

#: Values by column, and by cell: when it was written (microseconds), and how long it had to live then (seconds).
Cells = dict[str, tuple[Any, int | None, int | None]]


class SavedRow(msgspec.Struct, array_like=True):
    """One row.

    Attributes:
        key: values of the primary key by column.
        cells: the others, those that are null left out.
    """

    key: dict[str, Any]
    cells: Cells


_encode = msgspec.msgpack.Encoder().encode
#: The only type of a table that msgpack lacks.
_DECIMAL = 1
_decode = msgspec.msgpack.Decoder(
    SavedRow, ext_hook=lambda _code, raw: Decimal(bytes(raw).decode())
).decode


def save_table(session: Session, settings: Settings, table: str, file: Path) -> int:
    """Write every row of a table into a file; returns how many.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    key, others = _columns(session, settings, table)
    asked = [
        *key,
        *others,
        *(f"writetime({name})" for name in others),
        *(f"ttl({name})" for name in others),
    ]
    statement = SimpleStatement(
        f"SELECT {', '.join(asked)} FROM {settings.keyspace}.{table}",  # noqa: S608
        fetch_size=_PAGE_CHUNKS if table == "model_artifacts" else _PAGE_ROWS,
    )
    count = 0
    with explained(settings), gzip.open(file, "wb", compresslevel=3) as output:
        for row in session.execute(statement, execution_profile=SCAN):
            values = [_plain(value) for value in row[: len(key) + len(others)]]
            written, lives = row[len(values) : len(values) + len(others)], row[-len(others) :]
            cells = {
                name: (value, at, ttl)
                for name, value, at, ttl in zip(
                    others, values[len(key) :], written, lives, strict=True
                )
                if value is not None
            }
            encoded = _encode(SavedRow(dict(zip(key, values, strict=False)), cells))
            output.write(len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded)
            count += 1
    return count


def restore_table(
    session: Session,
    settings: Settings,
    table: str,
    file: Path,
    saved_at: float,
    erased: ErasedRows = NOTHING_ERASED,
) -> tuple[int, int]:
    """Write the rows of a file into a table. What is expired or erased by now is left out.

    Args:
        session: of the driver.
        settings: keyspace.
        table: its name.
        file: as `save_table` wrote it.
        saved_at: when that was, epoch seconds.
        erased: recognises rows of cards that were erased since.

    Returns:
        How many rows were written, and how many were left out because their card was erased.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing, or lacks a column of the file.
        UsageError: the file is damaged.
    """
    known = {name for columns in _columns(session, settings, table) for name in columns}
    passed = int(max(0.0, time.time() - saved_at))
    prepared: dict[tuple[tuple[str, ...], bool, bool], Any] = {}
    left_out = 0

    def insert(names: tuple[str, ...], *, timed: bool, lives: bool) -> Any:
        statement = prepared.get((names, timed, lives))
        if statement is None:
            using = ["TIMESTAMP ?"] * timed + ["TTL ?"] * lives
            text = (
                f"INSERT INTO {settings.keyspace}.{table} ({', '.join(names)}) "  # noqa: S608
                f"VALUES ({', '.join('?' * len(names))})"
            )
            text += f" USING {' AND '.join(using)}" if using else ""
            statement = prepared[names, timed, lives] = session.prepare(text)
        return statement

    def kept() -> Iterator[SavedRow]:
        nonlocal left_out
        for row in _rows_in(file):
            written = max((at or 0 for _, at, _ in row.cells.values()), default=0)
            if erased.has(table, row.key | {n: cell[0] for n, cell in row.cells.items()}, written):
                left_out += 1
            else:
                yield row

    def statements(row: SavedRow) -> Iterator[tuple[Any, list[Any]]]:
        # cells of one write go back in one
        writes: dict[tuple[int | None, int | None], dict[str, Any]] = {}
        for name, (value, at, ttl) in row.cells.items():
            if ttl is None or ttl > passed:
                left = None if ttl is None else ttl - passed
                writes.setdefault((at, left), {})[name] = value
        for (at, left), cells in writes.items():
            values = {**row.key, **cells}
            using = [one for one in (at, left) if one is not None]
            # the driver takes lists for sets, and integers for moments
            yield (
                insert(tuple(values), timed=at is not None, lives=left is not None),
                [*values.values(), *using],
            )

    def write(rows: Iterable[SavedRow]) -> int:
        count = 0

        def of_all() -> Iterator[tuple[Any, list[Any]]]:
            nonlocal count
            for row in rows:
                if lacking := {*row.key, *row.cells} - known:
                    msg = (
                        f"table {settings.keyspace}.{table} lacks the column {min(lacking)} of {file}: run "
                        "`fraudstream migrate` of the release that wrote the backup"
                    )
                    raise SchemaError(msg)
                made = list(statements(row))
                count += bool(made)
                yield from made

        left = of_all()
        # lists: the driver would take them from a generator in the thread that receives answers, also that to `prepare`
        while several := list(islice(left, some)):
            execute_concurrent(session, several, concurrency=_AT_ONCE)
        return count

    some = _CHUNKS_AT_ONCE if table == "model_artifacts" else _ROWS_AT_ONCE
    with explained(settings):
        last = _LAST_CELLS.get(table)
        if last is None:
            return write(kept()), left_out
        count = write(SavedRow(row.key, _without(row.cells, last)) for row in kept())
        write(SavedRow(row.key, {last: row.cells[last]}) for row in kept() if last in row.cells)
        return count, left_out


def _without(cells: Cells, name: str) -> Cells:
    return {key: cell for key, cell in cells.items() if key != name}


def _rows_in(file: Path) -> Iterator[SavedRow]:
    with gzip.open(file, "rb") as lines:
        while length := lines.read(_LENGTH_BYTES):
            size = int.from_bytes(length, "big")
            try:
                if size > _MOST_ROW_BYTES:
                    raise msgspec.DecodeError  # noqa: TRY301
                yield _decode(lines.read(size))
            except msgspec.DecodeError:
                msg = f"{file} is damaged: restore from another backup"
                raise UsageError(msg) from None


def _columns(session: Session, settings: Settings, table: str) -> tuple[list[str], list[str]]:
    """Columns of the primary key, in its order, and the others by name.

    Raises:
        SchemaError: there is no such table.
    """
    found = present_shape(session, settings.keyspace).tables.get(table)
    if found is None:
        msg = f"keyspace {settings.keyspace} lacks the table {table}: run `fraudstream migrate`"
        raise SchemaError(msg)
    key = [*found.partition_key, *found.clustering]
    return key, sorted(found.columns.keys() - key)


def _plain(value: Any) -> Any:
    """A value as the file has it: moments as epoch milliseconds."""
    if isinstance(value, datetime):
        return round(value.replace(tzinfo=UTC).timestamp() * 1000)
    if isinstance(value, Decimal):
        return msgspec.msgpack.Ext(_DECIMAL, str(value).encode())
    if hasattr(value, "items"):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, str | bytes | int | float) or value is None:
        return value
    return [_plain(one) for one in value]
