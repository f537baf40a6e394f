"""Rows as the values part of an INSERT of the native protocol: for each column a 4-byte length and the bytes. Pure."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: In place of a value: the column is not written, not even as null.
UNSET = struct.pack(">i", -2)


@dataclass(frozen=True)
class PackedTable:
    """A table whose rows are written packed.

    Attributes:
        name: in the deployment's keyspace.
        columns: in the order of a packed row.
        holds: what a row is, for messages.
        routing_key: the partition key of a packed row, as the partitioner hashes it.
        place: where a packed row came from, for messages.
    """

    name: str
    columns: tuple[str, ...]
    holds: str
    routing_key: Callable[[bytes], bytes]
    place: Callable[[bytes], str]

    def insert(self, keyspace: str, ttl_seconds: int | None = None) -> str:
        """The statement that takes its rows.

        Args:
            keyspace: the deployment's.
            ttl_seconds: how long a row lives; None: as the table says.
        """
        marks = ", ".join("?" * len(self.columns))
        using = "" if ttl_seconds is None else f" USING TTL {ttl_seconds}"
        return f"INSERT INTO {keyspace}.{self.name} ({', '.join(self.columns)}) VALUES ({marks}){using}"  # noqa: S608


def text_cell(text: str) -> bytes:
    """A text with its length."""
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def cells(row: bytes) -> Iterator[bytes]:
    """The values of a packed row; empty where there is none."""
    at = 0
    while at < len(row):
        size = max(0, int.from_bytes(row[at : at + 4], "big", signed=True))
        yield row[at + 4 : at + 4 + size]
        at += 4 + size
