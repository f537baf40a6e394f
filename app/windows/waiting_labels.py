"""Labels that wait at their terminal for a transaction that has not come yet."""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from app.errors import RowFormatError

#: Largest number of labels that wait at one terminal for their transactions.
MAX_WAITING_LABELS = 64
# event time, id, when it was labelled, when it came; fraud; bytes of the source
_WAITING = struct.Struct(">q8sqqBH")


class EntryLabel(NamedTuple):
    """A verdict on one transaction, as its terminal's state takes it.

    Attributes:
        event_time_ms: event time of the transaction, epoch milliseconds.
        id8: hash of its id.
        fraud: what the label says.
        labelled_at_ms: when it was said; of two labels the later one holds, of equal ones the one that
            comes last.
        received_at_ms: when the broker appended the label.
        source: where it came from and what it said, for whoever has to give it back.
    """

    event_time_ms: int
    id8: bytes
    fraud: bool
    labelled_at_ms: int
    received_at_ms: int
    source: bytes


def encode_labels(labels: Iterable[EntryLabel]) -> bytes:
    """Waiting labels as they are stored."""
    return b"".join(
        _WAITING.pack(*label[:2], *label[3:5], label.fraud, len(label.source)) + label.source
        for label in labels
    )


def decode_labels(raw: bytes) -> list[EntryLabel]:
    """The opposite of `encode_labels`.

    Raises:
        RowFormatError: the bytes are damaged.
    """
    labels, at = [], 0
    while at < len(raw):
        try:
            event_ms, id8, labelled_ms, received_ms, fraud, size = _WAITING.unpack_from(raw, at)
        except struct.error:
            size = len(raw)
        at += _WAITING.size + size
        if at > len(raw):
            msg = "a label in the state is cut off"
            raise RowFormatError(msg)
        source = raw[at - size : at]
        labels.append(EntryLabel(event_ms, id8, bool(fraud), labelled_ms, received_ms, source))
    return labels


def largest_label(source_bytes: int) -> int:
    """Most bytes that one waiting label takes, its source having at most so many."""
    return _WAITING.size + source_bytes


def keep_waiting(waiting: list[EntryLabel], label: EntryLabel) -> None:
    """Put a label among those that wait for their transactions: of one transaction the latest is enough."""
    for index, kept in enumerate(waiting):
        if kept[:2] == label[:2]:
            if label.labelled_at_ms >= kept.labelled_at_ms:
                waiting[index] = label
            return
    waiting.append(label)
