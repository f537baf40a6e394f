"""Partitions whose records a worker passes on to itself are left out of its fetches for a while.

A broker answers a fetch as soon as one of its partitions has something. So most answers brought only what had been
passed on already, and each was a turn of everybody, while new transactions waited. Where all that came meanwhile was
passed on, the fetch position moves past it, and it is never fetched.
"""

from collections.abc import Callable, Container
from typing import Any

from faust.types import TP

#: How long a partition is left out once a fetch has brought nothing new of it.
REST_SECONDS = 0.2
#: How long it is left out while everything is passed on: Faust wants to see fetches, and pages the log's end.
MOST_SECONDS = 10.0


class FetchBackoff:
    """Which partitions rest; asked by the thread that fetches, told by the worker's.

    Args:
        clock: seconds, monotonic.
        lacks: whether a partition waits for something that was not passed on: then it does not rest.
        advance: moves a fetch position past what was passed on; whether anything was since it moved last.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        lacks: Callable[[TP], bool],
        advance: Callable[[TP], bool] = lambda _: False,
    ) -> None:
        self._clock = clock
        self._lacks = lacks
        self._advance = advance
        #: By partition: the end of its rest, and until when it may rest again.
        self._until: dict[TP, tuple[float, float]] = {}

    def begin(self, tp: TP) -> None:
        """A fetch brought nothing new of this partition."""
        now = self._clock()
        self._until[tp] = now + REST_SECONDS, now + MOST_SECONDS

    def end(self) -> None:
        """Partitions are given away or come: nothing is known of who else writes to them."""
        self._until = {}

    def __contains__(self, tp: Any) -> bool:
        resting, tp = self._until, TP(*tp)  # another thread may end all rests meanwhile
        until, most = resting.get(tp, (0.0, 0.0))
        if not until or self._lacks(tp):
            return False
        now = self._clock()
        if now < until:
            return True
        if now >= most or not self._advance(tp):
            return False
        resting[tp] = now + REST_SECONDS, most
        return True


class _FetchableAssignment:
    """An assignment without those that rest."""

    def __init__(self, assignment: Any, resting: Container[Any]) -> None:
        self.state_value = assignment.state_value
        self.tps = [tp for tp in assignment.tps if tp not in resting]


def leave_out(fetcher: Any, resting: Container[Any]) -> None:
    """Let a fetcher of aiokafka ask for what does not rest.

    Pausing them would do the same, but by two calls across threads for each rest, and Faust's recovery pauses and
    resumes partitions, too.
    """
    decide = fetcher._get_actions_per_node
    fetcher._get_actions_per_node = lambda assignment: decide(
        _FetchableAssignment(assignment, resting)
    )
