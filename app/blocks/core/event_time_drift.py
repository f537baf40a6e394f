"""The rule of event-time alignment: which partition is the slowest. No clock, no Kafka, no tasks."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PartitionPosition:
    """The position of one source partition.

    Attributes:
        position_ms: newest processed event time, or that of the first unprocessed record; None while
            neither is known.
        idle: whether it holds back no other partition: its log was processed to the end when last read, or it waits
            for a server.
    """

    position_ms: int | None
    idle: bool


def slowest_ms(standings: Iterable[PartitionPosition]) -> float:
    """Position of the slowest partition that has unprocessed records.

    Returns:
        Epoch milliseconds; -inf while a position is unknown, inf when no partition holds others back.
    """
    slowest = math.inf
    for standing in standings:
        if standing.idle:
            continue
        if standing.position_ms is None:
            return -math.inf
        slowest = min(slowest, standing.position_ms)
    return slowest


def slowest_of(standings: Mapping[Any, PartitionPosition]) -> Any | None:
    """The partition that others wait for: the slowest, or the first of unknown position; None if all are idle."""
    busy = {tp: standing for tp, standing in standings.items() if not standing.idle}
    if not busy:
        return None
    return min(busy, key=lambda tp: -math.inf if (at := busy[tp].position_ms) is None else at)


def newer(known: int | None, reported: int | None) -> int | None:
    """The higher of two positions of one partition: both are true, because processed records remain processed."""
    if known is None or reported is None:
        return reported if known is None else known
    return max(known, reported)


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
