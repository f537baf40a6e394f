"""Rows as the values part of an INSERT of the native protocol: for each column a 4-byte length and the bytes. Pure."""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from app.errors import StateError

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
        expires: whether the table leaves it to its rows how long they live.
    """

    name: str
    columns: tuple[str, ...]
    holds: str
    routing_key: Callable[[bytes], bytes]
    expires: bool = False

    def insert(self, keyspace: str, ttl_seconds: int) -> str:
        """The statement that takes its rows.

        Args:
            keyspace: the deployment's.
            ttl_seconds: how long rows live, 0 for ever.
        """
        marks = ", ".join("?" * len(self.columns))
        using = f" USING TTL {ttl_seconds}" if self.expires else ""
        return f"INSERT INTO {keyspace}.{self.name} ({', '.join(self.columns)}) VALUES ({marks}){using}"  # noqa: S608

    def place(self, row: bytes) -> str:
        """Where a packed row came from, for messages: topic/partition/offset. Messages reach logs: no ids."""
        found = dict(zip(self.columns, _cells(row), strict=True))
        return "/".join((
            found["source_topic"].decode(),
            str(int.from_bytes(found["source_partition"], "big")),
            str(int.from_bytes(found["source_offset"], "big")),
        ))  # fmt: skip


def unstorable(what: str, error: Exception) -> StateError:
    """The error of a record that cannot be packed; its text has names of fields and types, but no values.

    Args:
        what: the kind of record.
        error: what packing it raised.
    """
    kind = type(error).__name__
    safe = isinstance(
        error, KeyError | TypeError | struct.error
    )  # others quote what they cannot read
    return StateError(f"this {what} cannot be stored ({f'{kind}: {error}' if safe else kind})")


def text_cell(text: str) -> bytes:
    """A text with its length."""
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def texts_cell(texts: Iterable[str]) -> bytes:
    """A list of texts with its length."""
    encoded = [text_cell(text) for text in texts]
    body = len(encoded).to_bytes(4, "big") + b"".join(encoded)
    return len(body).to_bytes(4, "big") + body


def _cells(row: bytes) -> Iterator[bytes]:
    """The values of a packed row; empty where there is none."""
    at = 0
    while at < len(row):
        size = max(0, int.from_bytes(row[at : at + 4], "big", signed=True))
        yield row[at + 4 : at + 4 + size]
        at += 4 + size
