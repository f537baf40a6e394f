"""The rule of event-time alignment: which partition is the slowest, that others wait for. No clock, no Kafka."""

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
