"""What the scoring stage forgets at an erase record: labels that wait at terminals, and name the card."""

from typing import cast

from app.blocks.core.partition import RowReader
from app.blocks.core.ports import RowScanner
from app.stages.state import BlockRows, Position
from app.windows.row_format import HEAD_PREFIX, has_waiting, key_of_head
from app.wire.erase_records import EraseMessage
from app.wire.label_records import label_names_card


def forget_labels(
    message: EraseMessage, offset: int, rows: BlockRows, position: Position, state: RowReader
) -> str:
    """Take a card's labels out of the rows of a partition: they are kept as they came.

    Args:
        message: names the card.
        offset: its place on `enriched`.
        rows: those of the block; changed ones are in place.
        position: of the partition; changed in place.
        state: where all rows of the partition are found.

    Returns:
        What the message is counted as.
    """
    if message.offset <= position.seen.get(message.partition, -1):
        return "replayed"
    position.seen[message.partition] = message.offset
    waiting = {row.key for row in rows.touched()}
    for key, raw in cast(RowScanner, state).scan(HEAD_PREFIX):
        if has_waiting(raw):
            waiting.add(key_of_head(key))
    for key in sorted(waiting):
        row = rows.read(key)
        left = [label for label in row.waiting if not label_names_card(label, message.card_id)]
        if len(left) < len(row.waiting) and rows.advance(row, offset):
            row.waiting = left
    return "erased"
