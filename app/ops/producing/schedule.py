"""When records are due: at a rate, or as their event times say."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence

from app.ops.producing.batches import BatchWriter

#: Shortest sleep of a schedule, seconds: what is due meanwhile leaves in one request. As Java's clients have it since
#: Kafka 4.0 (linger.ms); with a request for each record, at a thousand a second, rows came a quarter later.
TICK_SECONDS = 0.005


class SendingSchedule:
    """Moments since now at which records are due.

    Attributes:
        behind: the most that a record was later than due, seconds.
    """

    def __init__(self, writers: Sequence[BatchWriter]) -> None:
        self.behind = 0.0
        self._writers = writers
        self._began = time.perf_counter()
        self._began_ms = time.time() * 1000

    async def until(self, due: float) -> int:
        """Wait until so many seconds after the beginning; returns that moment, epoch milliseconds."""
        ahead = due - (time.perf_counter() - self._began)
        while ahead > 0:
            for writer in self._writers:
                await writer.send_open()  # nothing waits for company
            ahead = due - (time.perf_counter() - self._began)
            if ahead > 0:
                await asyncio.sleep(max(ahead, TICK_SECONDS))
                ahead = due - (time.perf_counter() - self._began)
        self.behind = max(self.behind, -ahead)
        return int(self._began_ms + due * 1000)


def spread(
    records: Iterable[tuple[bytes | None, bytes, int]], speed: float
) -> Iterator[tuple[float, bytes | None, bytes]]:
    """A schedule that follows event time, `speed` times as fast.

    Args:
        records: key, value and event time (epoch milliseconds). One that is older than the first
            one, or out of order, is due at once, after those before it.
        speed: event seconds a second.
    """
    first: int | None = None
    for key, value, event_ms in records:
        first = event_ms if first is None else first
        yield max(0.0, (event_ms - first) / 1000 / speed), key, value
