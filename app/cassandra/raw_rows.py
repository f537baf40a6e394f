"""Rows as Cassandra sends them: collections and decimals as bytes, moments as epoch milliseconds.

The driver builds a dictionary of its own for each map and a sorted set for each set: more than half of the
time of a whole-table read. Whoever reads a million rows to compare them takes the bytes instead.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
from cassandra.cluster import Session
from cassandra.cqltypes import (
    BytesType,
    DateType,
    DecimalType,
    ListType,
    LongType,
    MapType,
    SetType,
)
from cassandra.protocol import ProtocolHandler, ResultMessage

from app.cassandra.session import SCAN, explained
from app.settings import Settings

Row = TypeVar("Row")
_AS_BYTES = (MapType, SetType, ListType, DecimalType)


class _RawResult(ProtocolHandler.message_types_by_opcode[ResultMessage.opcode]):  # type: ignore[misc,unused-ignore]
    """The driver's own result message, but for the types that it decodes to."""

    @classmethod
    def read_type(cls, f: Any, user_type_map: Any) -> Any:
        """The type of a column."""
        kind = super().read_type(f, user_type_map)
        if issubclass(kind, _AS_BYTES):
            return BytesType
        return LongType if issubclass(kind, DateType) else kind


class _RawHandler(ProtocolHandler):  # type: ignore[misc,unused-ignore]
    message_types_by_opcode = {
        **ProtocolHandler.message_types_by_opcode,
        ResultMessage.opcode: _RawResult,
    }


def read_raw(session: Session) -> None:
    """From now on, let a session give lists, sets, maps and decimals as bytes, moments as integers."""
    session.client_protocol_handler = _RawHandler


def scan_rows(session: Session, settings: Settings, table: str, row: type[Row]) -> Iterator[Row]:
    """Every row of a table, in no useful order.

    Args:
        session: see `read_raw`.
        settings: keyspace.
        table: its name.
        row: a named tuple; its fields are the columns that are read.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    made: Any = row
    with explained(settings):
        rows = session.execute(
            f"SELECT {', '.join(made._fields)} FROM {settings.keyspace}.{table}",  # noqa: S608
            execution_profile=SCAN,
        )
        yield from map(made._make, rows)


def texts(raw: bytes | None) -> tuple[str, ...]:
    """The texts of a list or set; none of what is null."""
    return tuple(part.decode() for part in _parts(raw, 1))


def doubles(raw: bytes | None) -> dict[str, float]:
    """A map of text to double; empty for what is null.

    Raises:
        ValueError: a value has not the size of a double.
    """
    parts = _parts(raw, 2)
    values = [np.frombuffer(part, ">f8").item() for part in parts[1::2]]
    return dict(zip([part.decode() for part in parts[::2]], values, strict=True))


def decimal(raw: bytes) -> Decimal:
    """A decimal."""
    unscaled = int.from_bytes(raw[4:], "big", signed=True)
    return Decimal(unscaled).scaleb(-int.from_bytes(raw[:4], "big", signed=True))


def _parts(raw: bytes | None, width: int) -> list[bytes]:
    parts: list[bytes] = []
    if raw:
        at = 4
        for _ in range(int.from_bytes(raw[:4], "big") * width):
            size = int.from_bytes(raw[at : at + 4], "big")
            parts.append(raw[at + 4 : at + 4 + size])
            at += 4 + size
    return parts


class DoubleMaps:
    """Maps of the same names to doubles, many at once.

    Args:
        names: the keys that every map must have, and no others.
    """

    def __init__(self, names: list[str]) -> None:
        # a map is sorted by its keys' bytes
        self._order = np.argsort(np.argsort(np.array([name.encode() for name in names], object)))
        template = bytearray(len(names).to_bytes(4, "big"))
        constant = [True] * 4
        for name in sorted(names, key=str.encode):
            key = name.encode()
            template += len(key).to_bytes(4, "big") + key + (8).to_bytes(4, "big") + bytes(8)
            constant += [True] * (8 + len(key)) + [False] * 8
        self._template = np.frombuffer(bytes(template), np.uint8)
        self._constant = np.array(constant)

    def read(self, maps: list[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
        """Which maps have exactly the names, shape (n,); and values, shape (n, k), in the names' order."""
        size = len(self._template)
        blank = self._template.tobytes()
        fits = np.array([raw is not None and len(raw) == size for raw in maps], np.bool_)
        same = [raw if ok else blank for raw, ok in zip(maps, fits, strict=True)]
        cells = np.frombuffer(b"".join(same), np.uint8).reshape(len(maps), size)  # type: ignore[arg-type]
        fits &= (cells[:, self._constant] == self._template[self._constant]).all(axis=1)
        values = np.ascontiguousarray(cells[:, ~self._constant]).view(">f8")
        return fits, values.astype(np.float64)[:, self._order]
