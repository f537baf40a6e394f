"""Rows that belong together, and how they are cut into batches of the changelog."""

from app.errors import StateError

#: Around a record in a batch: lengths, deltas and the batch header's share.
RECORD_OVERHEAD_BYTES = 100

#: One row: its key and its bytes, None deletes it.
Row = tuple[bytes, bytes | None]
#: Rows that belong together: they travel in one record batch and one store batch.
RowGroup = list[Row]


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
