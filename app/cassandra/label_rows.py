"""Labels as packed Cassandra rows. Pure, no I/O."""

import struct
from collections.abc import Iterator, Sequence

from app.cassandra.packed_rows import UNSET, PackedTable, text_cell
from app.wire.label_records import LabelItem, LabelRecord

_COLUMNS = (
    "transaction_id", "card_id", "source_topic", "terminal_id",
    "labelled_at", "source_partition", "source_offset", "is_fraud", "event_time", "received_at",
)  # fmt: skip
#: The columns from labelled_at on, the length of each before it.
_fixed = struct.Struct(">iqiiiqi?iqiq").pack


def pack_labels(
    topic: str, partition: int, labels: Sequence[LabelRecord | LabelItem]
) -> Iterator[bytes]:
    """The packed rows of labels that say, or were filled in, card and event time.

    Args:
        topic: that they came on.
        partition: of that topic.
        labels: the labels.
    """
    source = text_cell(topic)
    for label in labels:
        assert label.card_id is not None
        terminal = label.terminal_id
        yield b"".join((
            text_cell(label.transaction_id), text_cell(label.card_id), source,
            UNSET if terminal is None else text_cell(terminal),
            _fixed(
                8, label.labelled_at_ms, 4, partition, 8, label.offset, 1, label.is_fraud,
                8, label.event_time_ms, 8, label.received_at,
            ),
        ))  # fmt: skip


def _routing_key(row: bytes) -> bytes:
    return row[4 : 4 + int.from_bytes(row[:4], "big")]


#: cql/004_labels.cql
LABELS = PackedTable("labels", _COLUMNS, "label", _routing_key, expires=True)
