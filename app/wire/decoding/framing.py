"""Confluent's wire format: which schema a value was written with, and where its data begins."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from app.domain.transaction import DeadRecordError

#: Header in which newer serializers put the schema, in place of the value's first bytes.
SCHEMA_HEADER = "__value_schema_id"
_BY_ID, _BY_GUID = 0, 1
_MOST_INDEXES = 100


class Frame(NamedTuple):
    """How a value is framed.

    Attributes:
        schema: the schema's id, or its GUID.
        data: what was written with it; for Protobuf with the message indexes before it.
    """

    schema: int | str
    data: bytes


def frame_of(value: bytes, headers: Sequence[tuple[str, bytes]]) -> Frame | None:
    """The frame of a value; None where it has none.

    Raises:
        DeadRecordError: it is cut off.
    """
    for name, named in reversed(headers) if headers else ():
        if name == SCHEMA_HEADER and named:
            return _of(named, value)
    return _of(value, b"") if value[0] == _BY_ID else None


def _of(framed: bytes, data: bytes) -> Frame:
    """The frame at the beginning of `framed`; what is behind it stands before `data`."""
    if framed[0] == _BY_ID and len(framed) >= 5:
        return Frame(int.from_bytes(framed[1:5], "big"), framed[5:] + data)
    if framed[0] == _BY_GUID and len(framed) >= 17:
        return Frame(str(UUID(bytes=framed[1:17])), framed[17:] + data)
    msg = "the value begins like Confluent's wire format and is cut off within its schema id"
    raise DeadRecordError("undecodable", msg)


def read_indexes(data: bytes) -> tuple[tuple[int, ...], int]:
    """Which message of a Protobuf file it is, from outer to inner, and where the message begins.

    Raises:
        DeadRecordError: they are damaged.
    """
    count, at = _read_varint(data, 0)
    if not 0 <= count <= _MOST_INDEXES:
        raise DeadRecordError("undecodable", f"{count} message indexes are out of range")
    indexes = []
    for _ in range(count):
        index, at = _read_varint(data, at)
        indexes.append(index)
    return tuple(indexes) or (0,), at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise DeadRecordError("undecodable", "the message indexes are cut off")
