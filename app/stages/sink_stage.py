"""Last stage: predictions, or refunds, to packed Cassandra rows."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from app.blocks.core.interfaces import Begun
from app.blocks.core.partition import Computed, RowReader
from app.errors import StateError
from app.wire.input_records import SourceRecord
from app.wire.prediction_fields import SHADOW_SCORES


class Packer(Protocol):
    """Packs records as rows (`RowPacker`, `RefundPacker`)."""

    def pack_many(self, values: Iterable[bytes], /) -> Any:
        """What the pipeline's `deliver` takes."""


_SCORED = f'"{SHADOW_SCORES}":'.encode()


def has_challengers(value: bytes) -> bool:
    """Whether challengers scored a prediction, so that its row must not come before its record.

    A worker that cannot load a canary lets the current model decide: should it compute the transaction again, its row
    may lack a cell that the first one had, such as an anomaly score, and that cell would stay.
    """
    return _SCORED in value


class SinkHandler:
    """See `app.blocks.core.partition.Handler`. Its outputs are packed rows; it keeps no state.

    Args:
        packer: packs records as rows.
        early: gives what resolves once the row of a record is stored, where it is on its way already.
    """

    def __init__(
        self,
        packer: Packer,
        early: Callable[[bytes], "asyncio.Future[Any] | None"] = lambda _: None,
    ) -> None:
        self._packer = packer
        self._early = early

    def compute(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader
    ) -> Computed:
        """The rows of consecutive records, but for those that are on their way already."""
        early: set[asyncio.Future[Any]] = set()
        others: list[SourceRecord] = []
        for record in records:
            begun = self._early(record.value)
            if begun is None:
                others.append(record)
            else:
                early.add(begun)
        rows = self._pack(others) if others else None
        return Computed(Begun(early, rows) if early else rows)

    def _pack(self, records: Sequence[SourceRecord]) -> Any:
        try:
            return self._packer.pack_many(record.value for record in records)
        except StateError:
            for (
                record
            ) in records:  # which one? Its offset names it: its content does not belong in the log
                try:
                    self._packer.pack_many([record.value])
                except StateError as error:
                    msg = f"offset {record.offset}: {error}"
                    raise StateError(msg) from None
            raise
