"""CPU time and memory of what is measured: a process with its children, and the local servers, apart."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from app.server_addresses import read_state


class CpuClock:
    """CPU seconds since it was made, by name.

    Args:
        pids: by name, each with the processes below it; None (a server that is not ours) is left out.
    """

    def __init__(self, pids: Mapping[str, int | None]) -> None:
        self._roots = {name: psutil.Process(pid) for name, pid in pids.items() if pid}
        self._started = self._read()

    def seconds(self) -> dict[str, float]:
        """CPU seconds, user and system together."""
        return {name: now - self._started[name] for name, now in self._read().items()}

    def us_per_event(self, events: int) -> dict[str, float]:
        """CPU microseconds an event."""
        return {name: used / events * 1e6 for name, used in self.seconds().items()}

    def memory_mib(self) -> dict[str, float]:
        """Resident memory, MiB. What processes share is counted for each of them."""
        found = {}
        for name, root in self._roots.items():
            found[name] = 0.0
            for process in _family(root):
                with suppress(psutil.NoSuchProcess):
                    found[name] += process.memory_info().rss / 2**20
        return found

    def _read(self) -> dict[str, float]:
        return {name: _cpu_seconds(root) for name, root in self._roots.items()}


class Elsewhere:
    """What other programs of this machine used meanwhile: without it a figure cannot be judged.

    Args:
        home: of the local servers, which are not others.
    """

    def __init__(self, home: Path) -> None:
        self._began = time.monotonic()
        self._busy = _busy_seconds()
        self._ours = CpuClock({"bench": os.getpid(), **server_pids(home)})

    def cores(self) -> float:
        """Cores in use by others, on average since this was made."""
        seconds = time.monotonic() - self._began
        # one that has ended meanwhile (a server that was stopped) takes its account with it
        ours = sum(max(0.0, used) for used in self._ours.seconds().values())
        return max(0.0, _busy_seconds() - self._busy - ours) / seconds


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _family(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_seconds(root: psutil.Process) -> float:
    used = 0.0
    for process in _family(root):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            # children that have ended are in the account of whoever awaited them
            used += times.user + times.system + times.children_user + times.children_system
    return used


def server_pids(home: Path) -> dict[str, int | None]:
    """Pids of the local servers of a home; empty for servers elsewhere."""
    return {name: one.get("pid") for name, one in read_state(home).items()}
