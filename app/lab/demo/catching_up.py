"""Where topics end, and waiting until the workers are there."""

import time
from collections.abc import Callable

from app.errors import UnavailableError
from app.ops.verification.topic_log import Log, Offsets, wait_for_workers

#: Nothing at all moved for this long: something is wrong, and waiting on would not mend it.
STALL_SECONDS = 120.0
#: After this long, a line tells what the workers say.
TELL_SECONDS = 10.0


async def all_ends(log: Log) -> dict[str, Offsets]:
    """The offset after the newest record of every topic, by its name.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    return {topic.name: await log.ends(topic) for topic in log.topics.all}


async def drain(log: Log, explain: Callable[[], str], tell: Callable[[str], None]) -> Offsets:
    """Wait until everything that is in `transactions` now is in Cassandra.

    Args:
        log: open.
        explain: what the workers say of themselves, asked when nothing moves.
        tell: takes a line about that.

    Returns:
        The ends of `transactions` that were waited for: moved records were sent on to it meanwhile.

    Raises:
        UnavailableError: nothing moves any more.
    """
    reached = await wait_for_workers(log, float("inf"), Patience(explain, tell))
    return reached.ends["transactions"]


class Patience:
    """Ends a wait in which nothing moves.

    Args:
        explain: says why that may be.
        tell: takes a line about it, once a wait.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        explain: Callable[[], str],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._explain = explain
        self._tell = tell
        self._clock = clock
        self._last: tuple[str, int, int] | None = None
        self._since = clock()
        self._told = False

    def __call__(self, text: str, count: int, total: int) -> None:
        """Take a look at what is done.

        Raises:
            UnavailableError: it has been the same for `STALL_SECONDS`.
        """
        now = self._clock()
        if (text, count, total) != self._last:
            self._last, self._since, self._told = (text, count, total), now, False
        elif now - self._since > TELL_SECONDS and not self._told:
            self._told = True
            self._tell(
                f"{text}: {total - count:,} to go, no progress for {TELL_SECONDS:g} s; {self._explain()}"
            )
        elif now - self._since > STALL_SECONDS:
            msg = (
                f"{text}: no progress for {STALL_SECONDS:.0f} s, {total - count:,} records wait; "
                f"{self._explain()}"
            )
            raise UnavailableError(msg)
