"""Tables and columns: those that the migrations make, those that Cassandra has, and how they differ.

A recorded migration proves that a table was made once, not that it is still there: people drop columns and tables.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cassandra.cluster import Session

_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)\.(\w+)\s*\(", re.IGNORECASE)
_ADDED = re.compile(
    r"ALTER TABLE \w+\.(\w+) ADD (?:IF NOT EXISTS )?(.+)", re.IGNORECASE | re.DOTALL
)
_INDEX = re.compile(r"CREATE INDEX IF NOT EXISTS (\w+) ON \w+\.(\w+)", re.IGNORECASE)
_KEY = re.compile(r"PRIMARY KEY\s*\((.*)\)$", re.IGNORECASE | re.DOTALL)

_ALONE = "primarykey"


@dataclass
class Table:
    """One table.

    Attributes:
        columns: type by name, as Cassandra spells it.
        partition_key, clustering: the primary key, in order.
    """

    columns: dict[str, str] = field(default_factory=dict)
    partition_key: tuple[str, ...] = ()
    clustering: tuple[str, ...] = ()


@dataclass
class Shape:
    """The tables of a keyspace by name, and the table of each index by the index's name."""

    tables: dict[str, Table] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)


@dataclass
class Differences:
    """What a keyspace lacks.

    Attributes:
        tables: names of missing tables.
        columns: (table, column, type) of missing columns that can be added.
        indexes: names of missing indexes of tables that are there.
        broken: what nothing can repair, a line each.
    """

    tables: list[str] = field(default_factory=list)
    columns: list[tuple[str, str, str]] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lacking = [f"table {name}" for name in self.tables]
        lacking += [f"column {table}.{column}" for table, column, _ in self.columns]
        return ", ".join(lacking)


def shape_of(statements: Iterable[str]) -> Shape:
    """What statements of migrations make."""
    shape = Shape()
    for statement in statements:
        if match := _TABLE.match(statement):
            shape.tables[match[2]] = _table(_inside(statement, match.end()))
        elif match := _ADDED.fullmatch(statement):
            added = match[2].strip()
            columns = added[1:-1] if added.startswith("(") else added
            shape.tables[match[1]].columns |= dict(map(_column, _parts(columns)))
        elif match := _INDEX.match(statement):
            shape.indexes[match[1]] = match[2]
    return shape


def present_shape(session: Session, keyspace: str) -> Shape:
    """What Cassandra has."""
    shape = Shape()
    keys: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for row in _read(session, "columns", keyspace):
        table = shape.tables.setdefault(row["table_name"], Table())
        table.columns[row["column_name"]] = _spelled(row["type"])
        kinds = keys.setdefault(row["table_name"], {})
        kinds.setdefault(row["kind"], []).append((row["position"], row["column_name"]))
    for name, table in shape.tables.items():
        table.partition_key = tuple(name for _, name in sorted(keys[name].get("partition_key", [])))
        table.clustering = tuple(column for _, column in sorted(keys[name].get("clustering", [])))
    for row in _read(session, "indexes", keyspace):
        shape.indexes[row["index_name"]] = row["table_name"]
    return shape


def compare(wanted: Shape, present: Shape) -> Differences:
    """What is missing of what is wanted; columns and tables that people added are theirs."""
    found = Differences()
    for name, table in wanted.tables.items():
        have = present.tables.get(name)
        if have is None:
            found.tables.append(name)
            continue
        if (have.partition_key, have.clustering) != (table.partition_key, table.clustering):
            found.broken.append(f"table {name} has another primary key")
            continue
        for column, kind in table.columns.items():
            if column not in have.columns:
                found.columns.append((name, column, kind))
            elif have.columns[column] != kind:
                found.broken.append(
                    f"column {name}.{column} is {have.columns[column]} instead of {kind}"
                )
    for index, name in wanted.indexes.items():
        if index not in present.indexes and name not in found.tables:
            found.indexes.append(index)
    return found


def _read(session: Session, what: str, keyspace: str) -> Iterator[Any]:
    yield from session.execute(
        f"SELECT * FROM system_schema.{what} WHERE keyspace_name = %s",  # noqa: S608
        (keyspace,),
    )


def _table(body: str) -> Table:
    table = Table()
    for part in _parts(body):
        if key := _KEY.match(part):
            first, *rest = _parts(key[1])
            names = first.strip("()").split(",")
            table.partition_key = tuple(name.strip() for name in names)
            table.clustering = tuple(rest)
            continue
        name, kind = _column(part)
        if kind.endswith(_ALONE):
            table.partition_key, kind = (name,), kind.removesuffix(_ALONE)
        table.columns[name] = kind
    return table


def _column(text: str) -> tuple[str, str]:
    name, kind = text.split(None, 1)
    return name, _spelled(kind)


def _spelled(kind: str) -> str:
    return "".join(kind.split()).lower()


def _inside(text: str, start: int) -> str:
    """What stands between the parenthesis before `start` and the one that closes it."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return text[start:]


def _parts(text: str) -> list[str]:
    """Cut at the commas that stand in no brackets."""
    parts, depth, current = [], 0, ""
    for letter in text:
        depth += {"(": 1, "<": 1, ")": -1, ">": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += letter
    return [*parts, current.strip()]
