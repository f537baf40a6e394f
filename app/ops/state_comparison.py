"""States of workers on disk: read, also while the worker runs, and compared row by row."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rocksdict

from app.errors import UnavailableError
from app.stages.parked_labels import PREFIX, offset_of
from app.stages.reserved_rows import (
    IN_FORCE_KEY,
    PINS_KEY,
    POSITION_KEY,
    ModelOffsets,
    StatePosition,
)
from app.windows.row_format import head_key, segment_key, without_settings
from app.windows.window_row import RowRules, WindowRow

#: Tables whose rows are windows.
TABLES = ("cards", "terminals")
#: The table of labels that wait for their transactions.
PARKED = "labels"
#: Key and bytes of every row of one partition of one table.
Rows = Mapping[bytes, bytes]
#: Where a store keeps the changelog offset that it has come to: Faust's, written with the rows.
OFFSET_KEY = b"__faust\0offset__"
#: A worker may delete a file between our reading of its name and our opening it.
_ATTEMPTS, _PAUSE_SECONDS = 10, 0.2
_HEAD = b"h"


@dataclass(frozen=True)
class Difference:
    """What differs between two states of a key.

    Attributes:
        where: table and partition, and whose.
        key: the card or terminal, or a reserved row.
        field: the first thing that differs.
        one, other: what it is in either state.
    """

    where: str
    key: str
    field: str
    one: object
    other: object

    def __str__(self) -> str:
        return f"{self.where} {self.key}: {self.field} {self.one} and {self.other}"


def stores(datadir: Path, table: str, partition: int) -> list[Path]:
    """The stores of one partition of a table below a folder."""
    return sorted(datadir.rglob(f"{table}-{partition}.db"))


def read_store(store: Path) -> dict[bytes, bytes]:
    """Every row of a store as of one moment, whether its worker runs or not.

    A running worker holds the store's lock. It is opened as RocksDB's *secondary*, which takes no lock, writes
    nothing into the folder, and shows what the worker's batches have made of it up to one of them: rows,
    position and changelog offset (`OFFSET_KEY`) belong together.

    Raises:
        UnavailableError: it cannot be opened; the text says why.
    """
    options = rocksdict.Options(raw_mode=True)
    options.set_max_open_files(-1)  # opened at once, so that none can be deleted before it is read
    for attempt in range(_ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="fraudstream-secondary-") as own:
            try:
                database = rocksdict.Rdict(
                    str(store), options, access_type=rocksdict.AccessType.secondary(own)
                )
                try:
                    return dict(database.items())
                finally:
                    database.close()
            except Exception as error:  # rocksdict raises nothing narrower
                if attempt == _ATTEMPTS - 1:
                    msg = f"the store {store} cannot be read: {error}"
                    raise UnavailableError(msg) from error
        time.sleep(_PAUSE_SECONDS)
    raise AssertionError


def read_rows(datadir: Path, table: str, partition: int) -> Rows:
    """Every row that a worker has stored of a partition; empty without a store."""
    found = stores(datadir, table, partition)
    assert len(found) <= 1, found
    return read_store(found[0]) if found else {}


def differences(
    where: str,
    one: Rows,
    other: Rows,
    rules: RowRules,
    *,
    reserved: Iterable[bytes] = (POSITION_KEY, PINS_KEY, IN_FORCE_KEY),
    among: Callable[[bytes], bool] = lambda _: True,
) -> list[Difference]:
    """What differs between two states of a partition, a line each.

    Left out are what says nothing of the state: which rows wait to be healed, how often the pins were
    written, Faust's own row, segments that no head names any more, and by which settings a row was written: a state
    is used by those that fit alone.

    Args:
        where: for the lines.
        one: a state.
        other: another.
        rules: how long entries are kept.
        reserved: reserved rows that are compared.
        among: whether a card or terminal is compared.

    Raises:
        RowFormatError: a row is damaged.
    """
    found = []
    for key in reserved:
        mine, theirs = _reserved(key, one.get(key)), _reserved(key, other.get(key))
        if mine != theirs:
            found.append(Difference(where, key[1:].decode(), "row", mine, theirs))
    for key in keys(one, other):
        if not among(key):
            continue
        if _rows_of(key, one, rules) != _rows_of(key, other, rules):
            field, mine, theirs = _first_field(key, one, other, rules)
            name = key.decode(errors="replace")
            found.append(Difference(where, repr(name), field, mine, theirs))
    return found


def parked_differences(where: str, one: Rows, other: Rows) -> list[Difference]:
    """What differs between two states of a partition's parked labels."""
    names = {
        key: f"label at offset {offset_of(key)}" for key in parked_keys(one) | parked_keys(other)
    }
    names[POSITION_KEY] = POSITION_KEY[1:].decode()
    return [
        Difference(where, names[key], "row", one.get(key), other.get(key))
        for key in sorted(names)
        if one.get(key) != other.get(key)
    ]


def parked_keys(rows: Rows) -> set[bytes]:
    """Row keys of parked labels."""
    return {key for key in rows if key.startswith(PREFIX)}


def keys(*states: Rows) -> list[bytes]:
    """The cards or terminals of some states."""
    return sorted({key[1:] for rows in states for key in rows if key.startswith(_HEAD)})


def heads(rows: Rows) -> int:
    """Number of cards or terminals."""
    return sum(key.startswith(_HEAD) for key in rows)


def labels(rows: Rows, rules: RowRules) -> tuple[int, int]:
    """How many transactions have a label, and how many labels wait for theirs."""
    marked = waiting = 0
    for key in keys(rows):
        row = WindowRow.read(key, rules, rows.get)
        marked += sum(label is not None for label in row.labels())
        waiting += len(row.waiting)
    return marked, waiting


def _reserved(key: bytes, raw: bytes | None) -> object:
    if key == PINS_KEY:
        return ModelOffsets.read(raw).pins
    if raw is None or key != POSITION_KEY:
        return raw
    position = StatePosition.decode(raw, "")
    return position.last_offset, position.seen, position.labels


def _rows_of(key: bytes, rows: Rows, rules: RowRules) -> list[tuple[bytes, bytes | None]]:
    """A key's head and the segments that it names."""
    row = WindowRow.read(key, rules, rows.get)
    names = [head_key(key), *(segment_key(key, ref.number) for ref in row.refs)]
    return [(name, raw and without_settings(raw)) for name in names for raw in [rows.get(name)]]


def _first_field(key: bytes, one: Rows, other: Rows, rules: RowRules) -> tuple[str, object, object]:
    """The first thing in which two states of a key differ, and what it is in either."""
    head = head_key(key)
    if (head in one) != (head in other):
        mine, theirs = ("there" if head in rows else "missing" for rows in (one, other))
        return "row", mine, theirs
    both = zip(
        *(_fields(WindowRow.read(key, rules, rows.get)) for rows in (one, other)), strict=True
    )
    for (name, mine), (_, theirs) in both:
        if mine == theirs:
            continue
        if not isinstance(mine, list):
            return name, mine, theirs
        at = next(n for n, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1])
        return f"{name} {at}", mine[at], theirs[at]
    mine, theirs = (_named(_rows_of(key, rows, rules)) for rows in (one, other))
    return "bytes", mine, theirs


def _fields(row: WindowRow) -> Iterator[tuple[str, Any]]:
    yield "last_offset", row.last_offset
    yield "entries", row.count
    yield "newest_ms", row.newest_ms
    yield "floor_ms", row.floor_ms
    yield "entry", [(at, minor, counted, id8.hex()) for at, minor, counted, id8 in row.entries()]
    yield "label", list(row.labels())
    yield "waiting labels", len(row.waiting)


def _named(rows: Iterable[tuple[bytes, bytes | None]]) -> str:
    said = [
        f"{name[:1].decode()}{int.from_bytes(raw[:8], 'big')}:{len(raw)}" if raw else "nothing"
        for name, raw in rows
    ]
    return "+".join(said)
