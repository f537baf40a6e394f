"""Last stage: predictions to packed Cassandra rows."""

from collections.abc import Sequence

from app.adapters.prediction_rows import RowPacker
from app.blocks.partition import Computed, RowReader
from app.input_records import SourceRecord


class SinkHandler:
    """See `app.blocks.partition.Handler`. Its outputs are `PackedRows`; it keeps no state.

    Args:
        packer: makes rows of prediction records.
    """

    def __init__(self, packer: RowPacker) -> None:
        self._packer = packer

    def compute(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader
    ) -> Computed:
        """The rows of consecutive predictions."""
        return Computed(self._packer.pack_many(record.value for record in records))
