"""A value that another server is asked for, as seldom as possible."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from app.web.replies import RefusedError

T = TypeVar("T")

#: How long a value counts as new; how long nobody is asked after an answer or a failure.
_FRESH_SECONDS, _PAUSE_SECONDS = 3_600.0, 5.0
#: Requests that wait at once for a newer value than the known one.
_MOST_WAITING = 20


class Kept(Generic[T]):
    """Asks one request at a time, and not again at once, whatever came of it: strangers can make us want the value.

    Args:
        ask: the request; raises RefusedError.
        clock: seconds that never go back.
        usable: seconds for which a value serves while the other server does not answer.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        clock: Callable[[], float],
        usable: float = _FRESH_SECONDS,
    ) -> None:
        self._ask, self._clock, self._usable = ask, clock, usable
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._value: T | None = None
        self._got_at = self._asked_at = float("-inf")
        self._failure: RefusedError | None = None

    async def get(self, *, again: bool = False) -> T:
        """The value.

        Args:
            again: ask for it even if it is known: there may be a new one. Not while many wait for that.

        Raises:
            RefusedError: the other server does not answer, or did not a moment ago.
        """
        known = self._value
        if known is not None and not again:
            age = self._clock() - self._got_at
            if age <= _FRESH_SECONDS or (age <= self._usable and self._lock.locked()):
                return known
        if known is not None and again and self._waiting >= _MOST_WAITING:
            return known
        self._waiting += 1
        try:
            async with self._lock:  # who waited here finds the answer that somebody else got
                return await self._get(again)
        finally:
            self._waiting -= 1

    async def _get(self, again: bool) -> T:
        now = self._clock()
        if self._value is not None and now - self._got_at <= _FRESH_SECONDS and not again:
            return self._value
        if now - self._asked_at > _PAUSE_SECONDS:
            try:
                self._value, self._failure = await self._ask(), None
                self._got_at = self._asked_at = self._clock()
            except RefusedError as error:
                self._failure, self._asked_at = error, self._clock()
        failure = self._failure
        old = self._clock() - self._got_at > self._usable
        if failure is not None and (again or old):
            raise RefusedError(failure.status, str(failure), retry_after=failure.retry_after)
        assert self._value is not None  # asked for a moment ago, and no failure
        return self._value
