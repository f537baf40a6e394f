"""How often somebody may ask: buckets that fill at a rate. See login_attempts.py for attempts to log in."""

from collections import OrderedDict
from collections.abc import Callable

#: Requests of one asker, a person's browser or a dashboard: at once, and per second in the long run.
REQUEST_BURST, REQUESTS_PER_SECOND = 100, 20.0
#: Askers that are remembered: the one that asked longest ago goes first.
_MOST_ASKERS = 10_000


class RateLimit:
    """Lets each asker through `burst` times at once, and `per_second` times a second in the long run.

    Args:
        burst, per_second: the bounds.
        clock: seconds that never go back.
    """

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float]) -> None:
        self._burst, self._rate, self._clock = burst, per_second, clock
        self._askers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, asker: str) -> float:
        """Count a request: 0 when it may pass, else the seconds after which it may."""
        now = self._clock()
        level, at = self._askers.pop(asker, (float(self._burst), now))
        level = min(float(self._burst), level + (now - at) * self._rate)
        passes = level >= 1
        self._askers[asker] = (level - 1 if passes else level, now)
        if len(self._askers) > _MOST_ASKERS:
            self._askers.popitem(last=False)
        return 0.0 if passes else (1 - level) / self._rate
