"""Memory, disk, locks and file errors."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from app import machine_requirements
from app.errors import UnavailableError
from app.file_writing import explained, write_whole
from app.folder_locks import one_at_a_time, require_unlocked
from app.machine_requirements import require_memory

GIB = 1 << 30


def test_short_memory_says_how_much() -> None:
    require_memory(2 * GIB, 2 * GIB)
    with pytest.raises(UnavailableError, match=r"1\.9 GiB are needed and 0\.5 GiB are available"):
        require_memory(int(1.9 * GIB), GIB // 2)


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_requirements, "_CGROUP", tmp_path)
    monkeypatch.setattr(
        machine_requirements.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB)
    )
    assert machine_requirements.available_memory() == 8 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_requirements.available_memory() == 8 * GIB
    (tmp_path / "memory.max").write_text(f"{2 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 2}\n")
    assert machine_requirements.available_memory() == 3 * GIB // 2


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_file_errors_become_one_line(tmp_path: Path, number: int, hint: str) -> None:
    import os

    with (
        pytest.raises(UnavailableError, match=hint) as caught,
        explained(tmp_path, "FRAUDSTREAM_HOME"),
    ):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in str(caught.value)
    assert "FRAUDSTREAM_HOME" in str(caught.value)


def test_a_lock_waits_for_another_process(tmp_path: Path) -> None:
    holder = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(1, flush=True); sys.stdin.read()"
    told = []
    with subprocess.Popen(
        [sys.executable, "-S", "-c", holder, tmp_path / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout
        assert other.stdin
        other.stdout.readline()
        stdin = other.stdin

        def busy() -> None:
            told.append("busy")
            stdin.close()  # now it ends, and the kernel gives its lock away

        with one_at_a_time(tmp_path / "lock", busy):
            assert told == ["busy"]
    with one_at_a_time(tmp_path / "lock", busy):
        assert told == ["busy"]


def test_state_of_a_live_worker_is_not_deleted(tmp_path: Path) -> None:
    lock = tmp_path / "6066" / "cards-0.db" / "LOCK"
    lock.parent.mkdir(parents=True)
    lock.touch()
    require_unlocked(tmp_path)
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, 2); print(1, flush=True); sys.stdin.read()"
    assert fcntl.LOCK_EX == 2
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout
        worker.stdout.readline()
        with pytest.raises(UnavailableError, match="a worker still uses"):
            require_unlocked(tmp_path)
        worker.communicate(b"")
    require_unlocked(tmp_path)


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "state.json"
    write_whole(path, "old")

    def fail(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="full"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["state.json"]
