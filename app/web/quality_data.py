"""How good decisions of a period were, measured in the background: a thread reads, and leaves time to the stream."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from app.durations import DAY_MS
from app.errors import UnavailableError
from app.web.cached_answers import CachedAnswer

#: A period without a beginning.
DEFAULT_DAYS = 30
#: A period is measured anew at most so often, and not sooner than so many times as long as that took.
_EVERY_SECONDS, _TIMES = 60.0, 5.0
#: What a request waits for figures that there are none of yet.
WAIT_SECONDS = 3.0
#: The share of its time in which the thread works: in the rest, the stream has the interpreter for itself.
_SHARE = 0.5
#: Periods whose figures are kept.
_PERIODS = 8
#: Called with the period (epoch ms) and what is told of progress: a text, and how many rows were read.
Measure = Callable[[int, int | None, Callable[[str, int], None]], Mapping[str, Any]]


class QualityData:
    """Belongs to one event loop.

    Args:
        measure: reads and counts; blocks.
        now_ms: the present, epoch milliseconds.
    """

    def __init__(
        self, measure: Measure, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._measure, self._now_ms = measure, now_ms
        # one at a time: each reads two tables
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="quality")
        self._kept: dict[tuple[int | None, int | None], CachedAnswer] = {}
        self._stopped = threading.Event()

    async def get(self, from_ms: int | None, to_ms: int | None) -> dict[str, Any] | None:
        """The figures of a period, and `age_seconds`; None: they are being measured for the first time.

        Args:
            from_ms: event times from here on, epoch milliseconds; None: `DEFAULT_DAYS` before its end.
            to_ms: event times below it; None: to the last.

        Raises:
            UnavailableError: Cassandra does not answer.
            SchemaError: a table is missing.
        """
        period = from_ms, to_ms
        kept = self._kept.pop(period, None)
        if kept is None:
            kept = CachedAnswer(
                partial(self._work, *period), self._thread, _EVERY_SECONDS, time.monotonic, times=_TIMES
            )  # fmt: skip
        self._kept[period] = kept  # the newest is the last one
        if len(self._kept) > _PERIODS:
            self._kept.pop(next(iter(self._kept))).close()
        return await kept.soon(WAIT_SECONDS)

    def close(self) -> None:
        """Measure no more: a thread that reads ends at its next pause."""
        self._stopped.set()
        for kept in self._kept.values():
            kept.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _work(self, from_ms: int | None, to_ms: int | None) -> Mapping[str, Any]:
        begin = from_ms
        if begin is None:
            begin = (self._now_ms() if to_ms is None else to_ms) - DEFAULT_DAYS * DAY_MS
        worked = time.monotonic()

        def pause(_text: str, _count: int) -> None:
            nonlocal worked
            if self._stopped.wait((time.monotonic() - worked) * (1 / _SHARE - 1)):
                msg = "the worker is stopping"
                raise UnavailableError(msg)
            worked = time.monotonic()

        return {**self._measure(begin, to_ms, pause), "from_ms": begin, "to_ms": to_ms}
