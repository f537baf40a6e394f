"""When a line that repeats while something is away is due again."""

import time


class RepeatedWarning:
    """Due at once, and then once per interval: what is retried every second need not be logged every second.

    Args:
        seconds: the interval.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        """Whether to say it now; then it is not due again for the interval."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
