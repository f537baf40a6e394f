"""Which of several rows of one key wins in recovery: the one with the highest offset, deleted rows included.

A row starts with `last_offset`, eight bytes, big-endian. A deleted row has none: a worker that was frozen, and still
writes what it had in flight, would bring it back. So each deletion leaves a hash of the row's key and the offset of the
record that deleted it, in a reserved row of the partition.
"""

import struct
from hashlib import blake2b
from typing import Self

import msgspec

from app.blocks.core.row_groups import Row

_OFFSET = struct.Struct(">q")
#: The reserved row of deletions.
DELETED_KEY = b"\0deleted"
#: Deletions that are remembered, the newest ones: a frozen worker is no older than a few of them.
MAX_DELETIONS = 256
_HASH_BYTES = 8

_decode = msgspec.msgpack.Decoder(dict[bytes, tuple[int, int]]).decode
_encode = msgspec.msgpack.Encoder().encode


def row_offset(raw: bytes) -> int:
    """The offset of the last input record whose effect is in this row."""
    offset: int = _OFFSET.unpack_from(raw)[0]
    return offset


def supersedes(candidate: bytes, current: bytes | None) -> bool:
    """Whether a row from the changelog replaces the one that is there, or is the same.

    The highest offset wins, not the last one written: a worker that was stopped and continued after its
    partitions moved may still append an older row. Of different rows of one offset (two workers that
    pinned a model) the first wins: whoever wrote the second found a foreign record before it, and stopped.
    """
    return current is None or row_offset(candidate) > row_offset(current) or candidate == current


class Deletions:
    """The newest deletions of one partition.

    Args:
        found: by hash of a row's key: the offset of the record that deleted it, and a number that its owner keeps.
    """

    def __init__(self, found: dict[bytes, tuple[int, int]] | None = None) -> None:
        self._found = found or {}

    def __bool__(self) -> bool:
        return bool(self._found)

    @classmethod
    def read(cls, raw: bytes | None) -> Self:
        """Those of the reserved row, none without it."""
        return cls() if raw is None else cls(_decode(raw[8:]))

    def add(self, key: bytes, offset: int, number: int = 0) -> None:
        """A record deletes a row."""
        hashed = _hashed(key)
        self._found.pop(hashed, None)
        self._found[hashed] = offset, number
        while len(self._found) > MAX_DELETIONS:
            del self._found[next(iter(self._found))]

    def offset(self, key: bytes) -> int:
        """The record that deleted the row of a key, -1 where none did."""
        return self._found.get(_hashed(key), (-1, 0))[0]

    def number(self, key: bytes) -> int:
        """What was kept of the row of a key, 0 where nothing was."""
        return self._found.get(_hashed(key), (-1, 0))[1]

    def row(self, offset: int) -> Row:
        """The reserved row. Write it before the rows that are deleted, in one group with them."""
        return DELETED_KEY, offset.to_bytes(8, "big", signed=True) + _encode(self._found)


def follows(key: bytes, raw: bytes | None, current: bytes | None, deletions: Deletions) -> bool:
    """Whether a row from the changelog, or a deletion (None), replaces what is there.

    Args:
        key: of the row.
        raw: what the changelog has.
        current: what is there, None without a row.
        deletions: what was deleted up to here.
    """
    deleted_at = deletions.offset(key) if deletions else -1
    if raw is None:  # a frozen worker may delete once more what has been made again since
        return current is None or deleted_at < 0 or row_offset(current) <= deleted_at
    if current is None:
        return deleted_at < 0 or row_offset(raw) > deleted_at
    return supersedes(raw, current)


def _hashed(key: bytes) -> bytes:
    return blake2b(key, digest_size=_HASH_BYTES).digest()
