"""Figures of `/quality/`: how often they are worked out, of how many rows, and how many periods are kept."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from app.cassandra.session import shared_session
from app.quality.measure_decisions import measure
from app.settings import Settings
from app.web.cached_answers import CachedAnswer

#: Judging decisions takes a thread of the worker some microseconds a row: never more often, nor of more rows.
_FRESH_SECONDS = 60.0
_MOST_ROWS = 200_000
#: Periods whose figures are kept.
_PERIODS = 8


class QualityData:
    """Belongs to one event loop.

    Args:
        settings: where the predictions are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # one at a time: each reads two tables
        self._measuring = ThreadPoolExecutor(1, thread_name_prefix="quality")
        self._kept: dict[tuple[int | None, int | None], CachedAnswer] = {}

    async def get(self, from_ms: int | None, to_ms: int | None) -> Mapping[str, Any]:
        """The figures of a period, and `age_seconds`."""
        period = from_ms, to_ms
        kept = self._kept.pop(period, None)
        if kept is None:
            work = partial(self._measure, *period)
            kept = CachedAnswer(work, self._measuring, _FRESH_SECONDS, time.monotonic)
        self._kept[period] = kept  # the newest is the last one
        if len(self._kept) > _PERIODS:
            self._kept.pop(next(iter(self._kept))).close()
        return await kept.get()

    def close(self) -> None:
        """Nobody waits any more."""
        for kept in self._kept.values():
            kept.close()
        self._measuring.shutdown(wait=False, cancel_futures=True)

    def _measure(self, from_ms: int | None, to_ms: int | None) -> Mapping[str, Any]:
        session = shared_session(self._settings)
        return measure(session, self._settings, from_ms=from_ms, to_ms=to_ms, most=_MOST_ROWS)
