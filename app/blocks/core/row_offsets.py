"""What the block transport asks of a row: it starts with `last_offset`, eight bytes, big-endian."""

import struct
from collections.abc import Iterable, Mapping

from app.errors import StateError

_OFFSET = struct.Struct(">q")
#: Around a record in a batch: lengths, deltas and the batch header's share.
RECORD_OVERHEAD_BYTES = 100

#: One row: its key and its bytes, None deletes it.
Row = tuple[bytes, bytes | None]
#: Rows that belong together: they travel in one record batch and one store batch.
RowGroup = list[Row]


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


def newest(
    stored: Iterable[tuple[bytes, bytes]],
    overlay: Mapping[bytes, tuple[int, bytes | None]],
    prefix: bytes,
) -> list[tuple[bytes, bytes]]:
    """Rows whose keys start with a prefix, as blocks in flight have left them.

    Args:
        stored: the stored ones.
        overlay: number of the block, and bytes, of rows that are not stored yet.
        prefix: of their keys.
    """
    found: dict[bytes, bytes | None] = dict(stored)
    found |= {key: raw for key, (_, raw) in overlay.items() if key.startswith(prefix)}
    return [(key, raw) for key, raw in found.items() if raw is not None]


def chunk_groups(groups: list[RowGroup], limit_bytes: int) -> list[list[Row]]:
    """Cut groups into chunks that fit one record batch each; a group is never divided.

    Args:
        groups: rows in the order in which they are written.
        limit_bytes: largest chunk.

    Raises:
        StateError: one group alone is larger than the limit.
    """
    chunks: list[list[Row]] = []
    chunk: list[Row] = []
    filled = 0
    for group in groups:
        size = 0
        for key, raw in group:
            size += len(key) + RECORD_OVERHEAD_BYTES + (0 if raw is None else len(raw))
        if size > limit_bytes:
            msg = f"the rows of one key need {size} bytes, a batch holds {limit_bytes}"
            raise StateError(msg)
        if chunk and filled + size > limit_bytes:
            chunks.append(chunk)
            chunk, filled = [], 0
        chunk += group
        filled += size
    if chunk:
        chunks.append(chunk)
    return chunks
