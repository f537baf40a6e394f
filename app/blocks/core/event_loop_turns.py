"""Does in one go what there is to do for all partitions of a stage."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from app.blocks.core.interfaces import Computed, Work

logger = logging.getLogger(__name__)

#: After so many records the event loop has a turn: what was sent leaves, what has come is read.
_RECORDS = 200
#: The same in bytes: a record of an internal topic holds many transactions.
_BYTES = 1 << 20


class Member(Protocol):
    """A partition, as the pulse needs it. None of these waits."""

    def settle(self) -> None:
        """Append, store and acknowledge what can be now."""

    def next_work(self) -> Work | None:
        """The next block that can be computed now; None without one."""

    def take(self, computed: Computed) -> None:
        """That block is computed: send its outputs."""

    def fail(self, error: BaseException) -> None:
        """Any of these has raised, or the block could not be computed: the partition ends."""


class Pulse:
    """Runs once in a turn of the event loop, for all partitions for which something has come.

    Whatever a fetch or an acknowledgement brings is processed together: the handler computes the blocks of all
    partitions in one call, and their outputs and changelog rows reach the producer in the same turn. There is no timer:
    a partition without company is served at once. Nothing here waits: a partition that has to does so by itself
    (`WaitingTask`), and the others go on. An error of one partition ends that one only.

    Args:
        handler: does the work; see `compute_together`.
    """

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._awake: dict[Member, None] = {}
        self._scheduled = False

    def wake(self, member: Member) -> None:
        """Something has come for a partition, or something of it is durable."""
        self._awake[member] = None
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._beat)

    def _beat(self) -> None:
        self._scheduled = False
        awake, self._awake = list(self._awake), {}
        try:
            members, works = self._next_works(awake)
            results = compute_together(self._handler, works)
            for member, computed in zip(members, results, strict=True):
                if isinstance(computed, BaseException):
                    _fail(member, computed)
                else:
                    self._take(member, computed)
        except BaseException as error:
            # No task has this error: left alone, it would be a line in the log, and blocks would be lost.
            for member in [*awake, *self._awake]:
                member.fail(error)
            raise

    def _take(self, member: Member, computed: Computed) -> None:
        try:
            member.take(computed)
        except BaseException as error:  # noqa: BLE001 -- it ends this partition, and the others go on
            _fail(member, error)

    def _next_works(self, awake: Sequence[Member]) -> tuple[list[Member], list[Work]]:
        """Settle what is durable; then the blocks that come next, and whose they are."""
        members: list[Member] = []
        works: list[Work] = []
        room, room_bytes = _RECORDS, _BYTES
        later: dict[Member, None] = {}
        for member in awake:
            try:
                member.settle()
                if room <= 0 or room_bytes <= 0:
                    later[member] = None
                    continue
                work = member.next_work()
            except BaseException as error:  # noqa: BLE001 -- see above
                _fail(member, error)
                continue
            if work is not None:
                members.append(member)
                works.append(work)
                room -= len(work.records)
                room_bytes -= work.size
        if later:  # they come first then: none waits for ever behind others that have more
            self._awake = {**later, **self._awake}
            self.wake(next(iter(later)))
        return members, works


def _fail(member: Member, error: BaseException) -> None:
    """End a partition; what ends the process does so, too. A panic of RocksDB is no `Exception`."""
    member.fail(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error


def compute_together(handler: Any, works: Sequence[Work]) -> list[Computed | BaseException]:
    """What becomes of each block, in order: computed, or an error of its own.

    Args:
        handler: a `Handler`; a `JoiningHandler` computes all blocks in one call.
        works: blocks of different partitions.
    """
    many = getattr(handler, "compute_many", None)
    if many is not None and len(works) > 1:
        try:
            return list(many(works))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001
            # seldom; which of them it is shows when each is computed alone
            logger.debug("blocks are computed one by one", exc_info=True)
    return [_compute(handler, work) for work in works]


def _compute(handler: Any, work: Work) -> Computed | BaseException:
    try:
        computed: Computed = handler.compute(
            work.partition, work.records, work.state, *work.until_ms
        )
    except BaseException as error:  # noqa: BLE001 -- of this block: the others go on
        return error
    return computed
