"""Keeps a producer from running far ahead of the workers."""

import asyncio
import time
from collections.abc import Callable

from app.errors import UnavailableError
from app.ops.verification.topic_log import Log

_LOOK_SECONDS = 0.1
#: Workers that do nothing for so long are none.
STALL_SECONDS = 60.0


class WaitForWorkers:
    """Waits while workers have more than so many records of `transactions` or of `labels` before them.

    Workers read the two side by side: the further behind they are, the further apart the two may run. What they have
    done is known from offsets, which they commit once in `FRAUDSTREAM_COMMIT_INTERVAL`: a bound below what they do
    in that time slows them.

    Args:
        log: open.
        most: records of each topic.
        clock: seconds that never go back.
    """

    def __init__(self, log: Log, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._most = most
        self._clock = clock

    async def __call__(self) -> None:
        """Wait.

        Raises:
            UnavailableError: nothing moves.
        """
        last, since = -1, self._clock()
        while (behind := await self._behind()) > self._most:
            if behind != last:
                last, since = behind, self._clock()
            elif self._clock() - since > STALL_SECONDS:
                msg = (
                    f"workers are {behind:,} records behind and made no progress for {STALL_SECONDS:.0f} s: "
                    "start `fraudstream worker`"
                )
                raise UnavailableError(msg)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _behind(self) -> int:
        topics = self._log.topics
        found = []
        for topic in (topics.transactions, topics.labels):
            ends, done = await self._log.ends(topic), await self._log.done(topic)
            found.append(sum(max(0, end - at) for end, at in zip(ends, done, strict=True)))
        return max(found)
