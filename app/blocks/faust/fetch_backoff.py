"""Partitions whose records a worker passes on to itself are left out of its fetches for a while.

A broker answers a fetch as soon as one of its partitions has something. So most answers brought only what had been
passed on already, and each was a turn of everybody, while new transactions waited.
"""

from collections.abc import Callable, Container
from typing import Any

from faust.types import TP

#: How long a partition is left out once a fetch has brought nothing new of it.
REST_SECONDS = 0.2


class FetchBackoff:
    """Which partitions rest; asked by the thread that fetches, told by the worker's.

    Args:
        clock: seconds, monotonic.
        lacks: whether a partition waits for something that was not passed on: then it does not rest.
    """

    def __init__(self, clock: Callable[[], float], lacks: Callable[[TP], bool]) -> None:
        self._clock = clock
        self._lacks = lacks
        self._until: dict[TP, float] = {}

    def begin(self, tp: TP) -> None:
        """A fetch brought nothing new of this partition."""
        self._until[tp] = self._clock() + REST_SECONDS

    def end(self) -> None:
        """Partitions are given away or come: nothing is known of who else writes to them."""
        self._until = {}

    def __contains__(self, tp: Any) -> bool:
        until = self._until.get(tp)
        return until is not None and self._clock() < until and not self._lacks(TP(*tp))


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
