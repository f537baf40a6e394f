"""With how many partitions a deployment ran before, and up to which offsets: a reserved row of its changelogs.

`fraudstream repartition` writes it last, into partition 0 of the table of parked labels: without it a state is not
whole.
Workers do not read it. Commands that read the log from before it do.
"""

from collections.abc import Sequence

import msgspec

from app.blocks.core.row_groups import Row

#: Reserved rows start with a null byte.
EARLIER_KEY = b"\0earlier"
_NO_RECORD = -1


class Earlier(msgspec.Struct, array_like=True, frozen=True):
    """One number of partitions that a deployment had.

    Attributes:
        generation: its number, from 1.
        partitions: how many there were.
        at_ms: when it ended, epoch milliseconds.
        transactions, labels, control, enriched: by partition, the offset after the last one that belongs to it.
    """

    generation: int
    partitions: int
    at_ms: int
    transactions: list[int]
    labels: list[int]
    control: list[int]
    enriched: list[int]

    @property
    def ends(self) -> tuple[list[int], ...]:
        """Where it ended in the topics."""
        return self.transactions, self.labels, self.control, self.enriched


def earlier_row(every: Sequence[Earlier]) -> Row:
    """The reserved row, the first generation first."""
    return EARLIER_KEY, _NO_RECORD.to_bytes(8, "big", signed=True) + _encode(list(every))


def read_earlier(raw: bytes | None) -> list[Earlier]:
    """Those of the reserved row; none where the number of partitions never changed."""
    return [] if raw is None else _decode(raw[8:])


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Earlier]).decode
