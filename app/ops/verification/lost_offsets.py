"""Offsets that were deleted before they were read: they are accounted for, and they are no success."""

from collections import defaultdict
from typing import Any

from app.wire.dead_letters import UNTIL

Range = tuple[int, int]


class LostOffsets:
    """Collects ranges of lost offsets; they may overlap, and come twice."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[str, int], list[Range]] = defaultdict(list)

    def letter(self, position: tuple[str, int, int], headers: dict[str, bytes]) -> None:
        """An entry of `dead-letters` that accounts for some."""
        topic, partition, begin = position
        until = headers.get(UNTIL, b"")
        if until.isdigit():
            self.add(topic, partition, begin, int(until))

    def unread(self, topic: str, begins: list[int], done: list[int]) -> None:
        """What no worker has noticed yet: by partition, where the log begins and what is committed (0: nothing)."""
        for partition, (begin, committed) in enumerate(zip(begins, done, strict=True)):
            if 0 < committed < begin:
                self.add(topic, partition, committed, begin)

    def add(self, topic: str, partition: int, begin: int, end: int) -> None:
        """Offsets from `begin` to before `end`."""
        self._ranges[topic, partition].append((begin, end))

    def ranges(self) -> list[dict[str, Any]]:
        """Each range once, JSON-ready: topic, partition, first offset, the one after the last."""
        return [
            {"topic": topic, "partition": partition, "offset": begin, "until": end}
            for (topic, partition), ranges in sorted(self._ranges.items())
            for begin, end in _merged(ranges)
        ]

    def count(self) -> int:
        """How many offsets, of all topics together."""
        return sum(one["until"] - one["offset"] for one in self.ranges())


def _merged(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for begin, end in sorted(ranges):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        elif begin < end:
            merged.append((begin, end))
    return merged
