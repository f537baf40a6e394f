"""What the scoring stage deletes at an erase record: labels that wait at terminals and name the card.

Which terminals have such labels is found by reading all rows of the partition: once, before the first erase record
since the partition was assigned, and in parts, between which other partitions work. From then on it is kept up to date.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from app.blocks.core.interfaces import RowScanner
from app.blocks.core.partition import RowReader
from app.stages.block_rows import BlockRows
from app.stages.reserved_rows import StatePosition
from app.windows.row_format import HEAD_PREFIX, has_waiting, head_key, key_of_head, waiting_labels
from app.wire.erase_records import EraseMessage, is_of_erasure
from app.wire.input_records import SourceRecord
from app.wire.label_records import label_names_card

#: What is kept in `RowReader.memo`: the terminals at which labels wait, and some at which none do any more. They stay,
#: because a block may be computed twice.
_WAITING = "waiting"


def find_waiting(
    _partition: int, records: Sequence[SourceRecord], state: RowReader, _until_ms: float
) -> Coroutine[Any, Any, None] | None:
    """Find the terminals at which labels wait, if an erase record is among the messages that come next."""
    if _WAITING in state.memo or not any(is_of_erasure(record.value or b"") for record in records):
        return None
    return _find_waiting(state)


async def _find_waiting(state: RowReader) -> None:
    found: set[bytes] = set()
    for page in cast(RowScanner, state).pages(HEAD_PREFIX):
        found |= {key_of_head(key) for key, raw in page if has_waiting(raw)}
        await asyncio.sleep(0)
    state.memo[_WAITING] = found


def note_waiting(rows: BlockRows, state: RowReader) -> None:
    """Keep what was found up to date, behind a block; nothing was found before the first erase record."""
    waiting: set[bytes] | None = state.memo.get(_WAITING)
    if waiting is not None:
        waiting |= {row.key for row in rows.touched() if row.waiting}


def forget_labels(
    message: EraseMessage, offset: int, rows: BlockRows, position: StatePosition, state: RowReader
) -> str:
    """Remove a card's waiting labels from the rows of a partition.

    Args:
        message: the erase record.
        offset: its place on `enriched`.
        rows: those of the block; changed in place.
        position: of the partition; changed in place.
        state: reads all rows of the partition.

    Returns:
        The outcome under which the message is counted.
    """
    if message.offset <= position.seen.get(message.partition, -1):
        return "replayed"
    position.seen[message.partition] = message.offset
    waiting: set[bytes] | None = state.memo.get(_WAITING)
    if waiting is None:  # whoever reads in one go, such as a replay, does not prepare
        heads = cast(RowScanner, state).scan(HEAD_PREFIX)
        waiting = {key_of_head(key) for key, raw in heads if has_waiting(raw)}
    touched = {row.key: row for row in rows.touched()}
    waiting |= {key for key, row in touched.items() if row.waiting}
    state.memo[_WAITING] = waiting
    for key in sorted(waiting):
        row = touched.get(key)
        labels = waiting_labels(state.get(head_key(key))) if row is None else row.waiting
        left = [label for label in labels if not label_names_card(label, message.card_id)]
        if len(left) < len(labels):
            row = rows.read(key)
            if rows.advance(row, offset):
                row.waiting = left
    return "erased"
