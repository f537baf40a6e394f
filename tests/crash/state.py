"""Rows of a stopped worker's tables, and what differs between two of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import rocksdict

from app.domain.row_format import head_key, segment_key
from app.domain.window_row import RowRules, WindowRow
from app.handlers.rows import PINS_KEY, POSITION_KEY, Pins

TABLES = ("cards", "terminals")
#: Key and bytes of every row of one partition of one table.
Rows = Mapping[bytes, bytes]


def read_rows(datadir: Path, table: str, partition: int) -> Rows:
    """Every row that a stopped worker has stored; empty without a store."""
    found = list(datadir.rglob(f"{table}-{partition}.db"))
    assert len(found) <= 1, found
    if not found:
        return {}
    options = rocksdict.Options(raw_mode=True)
    database = rocksdict.Rdict(str(found[0]), options, access_type=rocksdict.AccessType.read_only())
    try:
        return dict(database.items())
    finally:
        database.close()


def differences(where: str, one: Rows, other: Rows, rules: RowRules) -> list[str]:
    """What differs between two states of a partition, a line each.

    Left out are what says nothing of the state: which rows wait to be healed, how often the pins were
    written, Faust's own row, and segments that no head names any more.
    """
    found = []
    for key in (POSITION_KEY, PINS_KEY):
        if _reserved(key, one.get(key)) != _reserved(key, other.get(key)):
            found.append(f"{where} {key!r}: {one.get(key)!r} and {other.get(key)!r}")
    keys = {key[1:] for rows in (one, other) for key in rows if key.startswith(b"h")}
    for key in sorted(keys):
        mine, theirs = (_rows_of(key, rows, rules) for rows in (one, other))
        if mine != theirs:
            found.append(f"{where} {key!r}: {_named(mine)} and {_named(theirs)}")
    return found


def heads(rows: Rows) -> int:
    """Number of cards or terminals."""
    return sum(key.startswith(b"h") for key in rows)


def labels(rows: Rows, rules: RowRules) -> tuple[int, int]:
    """How many transactions have a label, and how many labels wait for theirs."""
    marked = waiting = 0
    for key in rows:
        if key.startswith(b"h"):
            row = WindowRow.read(key[1:], rules, rows.get)
            marked += sum(label is not None for label in row.labels())
            waiting += len(row.waiting)
    return marked, waiting


def _reserved(key: bytes, raw: bytes | None) -> object:
    return Pins.read(raw).pins if key == PINS_KEY else raw


def _rows_of(key: bytes, rows: Rows, rules: RowRules) -> list[tuple[bytes, bytes | None]]:
    """A key's head and the segments that it names."""
    row = WindowRow.read(key, rules, rows.get)
    names = [head_key(key), *(segment_key(key, ref.number) for ref in row.refs)]
    return [(name, rows.get(name)) for name in names]


def _named(rows: Iterable[tuple[bytes, bytes | None]]) -> str:
    said = [
        f"{name[:1].decode()}{int.from_bytes(raw[:8], 'big')}:{len(raw)}" if raw else "nothing"
        for name, raw in rows
    ]
    return "+".join(said)
