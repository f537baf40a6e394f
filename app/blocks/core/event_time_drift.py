"""How far apart in event time partitions may run: the rule alone, without clock, Kafka or tasks."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one source partition stands.

    Attributes:
        position_ms: newest event time that is done, or that of the first record that is not; None while
            neither is known.
        idle: whether it holds nobody back: everything in its log, as last seen, is done, or it waits for a server.
    """

    position_ms: int | None
    idle: bool


def slowest_ms(standings: Iterable[Standing]) -> float:
    """Position of the slowest partition that has something to do.

    Returns:
        Epoch milliseconds; -inf while one of them is unknown, inf when none holds anybody back.
    """
    slowest = math.inf
    for standing in standings:
        if standing.idle:
            continue
        if standing.position_ms is None:
            return -math.inf
        slowest = min(slowest, standing.position_ms)
    return slowest


def slowest_of(standings: Mapping[Any, Standing]) -> Any | None:
    """The partition that all others wait for: the slowest one, or the first whose position is unknown; None without."""
    busy = {tp: standing for tp, standing in standings.items() if not standing.idle}
    if not busy:
        return None
    return min(busy, key=lambda tp: -math.inf if (at := busy[tp].position_ms) is None else at)


def newer(known: int | None, told: int | None) -> int | None:
    """The better of two positions of one partition.

    A position says what is done, which stays so whoever said it: the highest one holds.
    """
    if known is None or told is None:
        return told if known is None else known
    return max(known, told)


#: Ends the note of a stalled partition.
_STALLED = "!"


@dataclass(frozen=True, slots=True)
class Note:
    """What travels beside a committed offset: facts that stay true, whoever reports them.

    Attributes:
        position_ms: see `Standing`.
        records_end: offset after the last record that is done, where that is below the committed offset: between
            the two are transaction markers and other offsets without a record, which no row can prove. None
            where it is the committed offset.
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
    def read(cls, text: str) -> "Note":
        """The note in such a text; one without facts when it is anything else."""
        at, _, end = text.removesuffix(_STALLED).partition("@")
        return cls(_number(at), _number(end), text.endswith(_STALLED))

    def records_end_at(self, committed: int) -> int:
        """Offset after the last record below the committed offset, as far as it is known.

        Earlier releases wrote a higher number in its place.
        """
        end = self.records_end
        return committed if end is None else min(end, committed)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
