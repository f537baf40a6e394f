"""Only our own processes are found and stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.devstack import server_processes
from app.devstack.ports import free_run

SLEEP = "import sys, time; print('on', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a stand-in: a process whose command line has the marks of a server."""
    started = []

    def begin(server: str = "kafka", home: Path = tmp_path, code: str = SLEEP) -> object:
        marks = server_processes.marks(home, server, free_run(1))
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code, *marks], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout
        process.stdout.readline()
        return process

    yield begin  # type: ignore[misc]
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def test_found_by_record_and_without_one(start: Start, tmp_path: Path) -> None:
    pid = start().pid
    for recorded in (pid, None, 1):
        found = server_processes.find(tmp_path, "kafka", recorded)
        assert found
        assert found.pid == pid
        assert found.memory_bytes()
        assert (found.uptime_seconds() or 0) < 60


def test_a_stale_pid_never_means_a_stranger(start: Start, tmp_path: Path) -> None:
    """Other server, other home, or no server at all: the recorded number proves nothing."""
    strangers = [start("cassandra").pid, start("kafka", tmp_path / "other").pid, os.getpid()]
    for pid in strangers:
        assert server_processes.find(tmp_path, "kafka", pid) is None


def test_stop_is_gentle(start: Start, tmp_path: Path) -> None:
    process = start()
    found = server_processes.find(tmp_path, "kafka")
    assert found
    assert server_processes.stop([found], 10) == []
    assert not found.alive()
    assert process.wait() in {-signal.SIGTERM, 0}  # 0: somebody else reaped it


def test_stop_wakes_a_stopped_process(start: Start, tmp_path: Path) -> None:
    os.kill(start().pid, signal.SIGSTOP)
    found = server_processes.find(tmp_path, "kafka")
    assert found
    assert server_processes.stop([found], 10) == []


def test_stop_kills_at_the_deadline(start: Start, tmp_path: Path) -> None:
    start(code=STUBBORN)
    found = server_processes.find(tmp_path, "kafka")
    assert found
    assert server_processes.stop([found], 0.05) == [found]
    assert not found.alive()


def test_a_zombie_is_gone(start: Start, tmp_path: Path) -> None:
    """In a container nobody may ever reap it: waiting for that would wait for ever."""
    process = start()
    found = server_processes.find(tmp_path, "kafka")
    assert found
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and still a zombie
    assert not found.alive()
    assert server_processes.find(tmp_path, "kafka", process.pid) is None
