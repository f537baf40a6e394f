"""An event loop without a clock and without I/O: which ready callback runs next is drawn from a seed.

Every callback belongs to a simulated worker (a context variable). A worker that is stopped (as by SIGSTOP)
keeps its callbacks until it is continued.
"""

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

#: The simulated worker whose code runs.
OWNER: contextvars.ContextVar[Any] = contextvars.ContextVar("owner", default=None)


class SimLoop(asyncio.AbstractEventLoop):
    """Runs ready callbacks in a seeded order; time stands still until nothing is ready."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now = 0.0
        self.in_order = False
        #: How often a pulse waits for another turn: meanwhile something may come for other partitions.
        self.late_pulses = 0.0
        self.escaped: list[str] = []
        self.ready: list[tuple[asyncio.Handle, Any]] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Any]] = []
        self._sequence = 0
        self.tasks: dict[Any, dict[asyncio.Task[Any], None]] = {}  # sets have no order

    # ---------------------------------------------------------------- what the simulation calls

    def run_one(self) -> bool:
        """Run one ready callback; False when none is ready."""
        ready = self.ready
        while ready:
            if self.in_order:
                handle, owner = ready.pop(0)
            else:
                index = int(self.rng.random() * len(ready))
                handle, owner = ready[index]
                ready[index] = ready[-1]
                ready.pop()
            if owner is not None and owner.stopped:
                owner.parked.append((handle, owner))
                continue
            if self.late_pulses and _is_pulse(handle) and self.rng.random() < self.late_pulses:
                ready.append((handle, owner))
                return True
            if not handle.cancelled():
                handle._run()
                return True
        return False

    def run_timer(self) -> bool:
        """Let time pass until the next timer; False without one."""
        while self._timers:
            when, _, handle, owner = heapq.heappop(self._timers)
            if handle.cancelled():
                continue
            self.now = max(self.now, when)
            self.ready.append((handle, owner))
            return True
        return False

    def finish(self) -> None:
        """Cancel every task and run what that leads to."""
        for tasks in list(self.tasks.values()):
            for task in list(tasks):
                task.cancel()
        for _ in range(100_000):
            if not self.run_one():
                break
        self.ready.clear()
        self._timers.clear()

    # ---------------------------------------------------------------- what asyncio calls

    def call_soon(
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        context = context or contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append((handle, context.get(OWNER)))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        context = context or contextvars.copy_context()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle, context.get(OWNER)))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        context = context or contextvars.copy_context()
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        tasks = self.tasks.setdefault(context.get(OWNER), {})
        tasks[task] = None
        task.add_done_callback(lambda done: tasks.pop(done, None))
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Futures of dead workers are never asked for their result; what a callback raises would be a line in a log."""
        if "handle" in context:
            self.escaped.append(repr(context.get("exception")))


def _is_pulse(handle: asyncio.Handle) -> bool:
    """Whether a callback is that of `app.blocks.core.event_loop_turns.Pulse`."""
    return getattr(handle._callback, "__name__", "") == "_beat"  # type: ignore[attr-defined]
