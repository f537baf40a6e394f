"""The metadata of committed offsets: event time, last record and stall of a partition, as text in both directions."""

from dataclasses import dataclass

#: Ends the metadata of a stalled partition.
_STALLED = "!"


@dataclass(frozen=True, slots=True)
class OffsetMetadata:
    """The metadata of a committed offset: facts that remain true, whichever worker reports them.

    Attributes:
        position_ms: see `PartitionPosition`.
        records_end: offset after the last processed record, if it is below the committed offset: between the two are
            transaction markers and other offsets without a record, so no row can prove them. None if it equals the
            committed offset.
        stalled: the partition waits for a server: no other partition waits for it meanwhile.
    """

    position_ms: int | None = None
    records_end: int | None = None
    stalled: bool = False

    def write(self, committed: int) -> str:
        """As text, for this committed offset; empty when there is nothing to report."""
        at = "" if self.position_ms is None else str(self.position_ms)
        end = self.records_end
        through = "" if end is None or end >= committed else f"@{end}"
        return f"{at}{through}{_STALLED if self.stalled else ''}"

    @classmethod
    def read(cls, text: str) -> "OffsetMetadata":
        """The metadata in such a text; empty metadata for any other text."""
        at, _, end = text.removesuffix(_STALLED).partition("@")
        return cls(_number(at), _number(end), text.endswith(_STALLED))

    def records_end_at(self, committed: int) -> int:
        """Offset after the last record below the committed offset, if it is known.

        Earlier releases wrote a higher number in its place.
        """
        end = self.records_end
        return committed if end is None else min(end, committed)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
