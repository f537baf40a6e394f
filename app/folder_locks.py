"""One process at a time: locks on folders, which the kernel releases when their holder dies."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from app.errors import UnavailableError
from app.file_writing import explained


@contextmanager
def one_at_a_time(lock: Path, when_busy: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file between processes; the kernel lets go of it when its holder dies.

    Args:
        lock: the file, created where it is missing.
        when_busy: called once before waiting for another holder.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            when_busy()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing the file releases the lock


#: Locks that this process holds until it ends, by folder.
_claimed: dict[Path, TextIO] = {}


def claim_folder(folder: Path, setting: str, advice: str) -> None:
    """Make a folder this process's own until it ends; it may claim it again.

    Args:
        folder: made if it is missing; nothing in it is touched while another process has it.
        setting: the environment variable that moves it.
        advice: what to do while another process has it.

    Raises:
        UnavailableError: another process has it, or it cannot be written.
    """
    if folder.absolute() in _claimed:
        return
    with explained(folder, setting):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "claim").open("a+", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip()
            handle.close()
            msg = f"{folder} belongs to a running process (pid {holder or 'unknown'}): {advice}"
            raise UnavailableError(msg) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
    _claimed[folder.absolute()] = handle


def require_unlocked(workers: Path) -> None:
    """Check that no live worker has a table open below a folder: RocksDB holds a lock on it.

    Raises:
        UnavailableError: one has.
    """
    for lock in workers.rglob("LOCK"):
        with lock.open("r+") as handle:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                msg = f"a worker still uses {lock.parent}: stop it first"
                raise UnavailableError(msg) from error
