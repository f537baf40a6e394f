"""Last stage: predictions, or refunds, to packed Cassandra rows."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from app.blocks.core.partition import Computed, RowReader
from app.wire.input_records import SourceRecord


class Packer(Protocol):
    """Packs records as rows (`RowPacker`, `RefundPacker`)."""

    def pack_many(self, values: Iterable[bytes], /) -> Any:
        """What the pipeline's `deliver` takes."""


class SinkHandler:
    """See `app.blocks.core.partition.Handler`. Its outputs are packed rows; it keeps no state.

    Args:
        packer: packs records as rows.
    """

    def __init__(self, packer: Packer) -> None:
        self._packer = packer

    def compute(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader
    ) -> Computed:
        """The rows of consecutive records."""
        return Computed(self._packer.pack_many(record.value for record in records))
