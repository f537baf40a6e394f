"""Rows that wait for Cassandra, and the batches they are sent in: formed when they are sent, of several writes."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

#: The server counts a row so much larger than it is on the wire, at most: a timestamp and more for each cell.
ROW_OVERHEAD_BYTES = 340


class PendingWrite:
    """What one `submit` waits for.

    Attributes:
        future: resolves when all its rows are acknowledged.
        left: rows that are not.
    """

    __slots__ = ("future", "left")

    def __init__(self, future: "asyncio.Future[None]", left: int) -> None:
        self.future = future
        self.left = left

    def acknowledged(self, rows: int) -> None:
        """So many of its rows are stored."""
        self.left -= rows
        if self.left == 0 and not self.future.done():
            self.future.set_result(None)

    def give_up(self, error: Exception) -> None:
        """One of its rows will never be stored."""
        if not self.future.done():
            self.future.set_exception(error)


#: Rows of one write.
Part = tuple[PendingWrite, Sequence[bytes]]


def wanted(parts: Iterable[Part]) -> list[Part]:
    """Without rows of writes that are over: cancelled, or failed."""
    return [part for part in parts if not part[0].future.done()]


class RowBatch:
    """Rows that travel together.

    Args:
        parts: the rows of each write.
        group: of replicas, see `ReplicaMap`.

    Attributes:
        attempts: how often it has failed.
        timestamp_us: of its rows; a repeated batch keeps it, and so changes nothing.
        head, body: as it was encoded.
    """

    __slots__ = ("attempts", "body", "group", "head", "parts", "timestamp_us")

    def __init__(self, parts: list[Part], group: int) -> None:
        self.parts = parts
        self.group = group
        self.attempts = 0
        self.timestamp_us = 0
        self.head = b""
        self.body = b""

    @property
    def rows(self) -> list[bytes]:
        """All of them."""
        return [row for _, rows in self.parts for row in rows]

    def forget_done(self) -> bool:
        """Leave out rows whose write is over; returns whether others are left."""
        left = wanted(self.parts)
        if len(left) < len(self.parts):
            self.parts, self.head = left, b""  # it is encoded again
        return bool(left)

    def halves(self) -> Iterator["RowBatch"]:
        """The same rows in two batches."""
        rows = [(write, row) for write, rows in self.parts for row in rows]
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            members = groupby(half, lambda one: one[0])
            yield RowBatch(
                [(write, [row for _, row in mine]) for write, mine in members], self.group
            )


class WaitingRows:
    """Rows that are in no batch yet, by group of replicas, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: dict[int, deque[Part]] = {}

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __iter__(self) -> Iterator[Part]:
        for parts in self._parts.values():
            yield from parts

    @property
    def group(self) -> int:
        """The group whose rows are sent next."""
        return next(iter(self._parts))

    def append(self, group: int, part: Part) -> None:
        """Rows of a group."""
        self._parts.setdefault(group, deque()).append(part)

    def take(self, group: int, limit_bytes: int) -> RowBatch:
        """A batch of the group's first rows, up to a size by the server's count of bytes; at least one row."""
        waiting = self._parts.pop(group)
        parts: list[Part] = []
        room = limit_bytes
        while waiting:
            write, rows = waiting.popleft()
            taken = 0
            for row in rows:
                room -= len(row) + ROW_OVERHEAD_BYTES
                if room < 0 and (taken or parts):
                    break
                taken += 1
            if taken:
                parts.append((write, rows[:taken]))
            if taken < len(rows):
                waiting.appendleft((write, rows[taken:]))
                self._parts[group] = waiting  # behind the other groups
                break
        return RowBatch(parts, group)

    def forget_done(self) -> None:
        """Leave out rows whose write is over."""
        left = {group: deque(wanted(parts)) for group, parts in self._parts.items()}
        self._parts = {group: parts for group, parts in left.items() if parts}

    def clear(self) -> None:
        """Drop all."""
        self._parts.clear()
