"""Looking before leaping: enough memory, enough disk, one command at a time, errors in one line."""

import errno
import fcntl
import getpass
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import psutil

from app.errors import UnavailableError

MIB = 1 << 20

#: More open files than a worker ever needs; some systems have no limit at all.
_MOST_FILES = 65_536
_CGROUP = Path("/sys/fs/cgroup")
_HINTS = {
    errno.ENOSPC: "the disk is full: free some space and try again",
    errno.EDQUOT: "the disk quota is used up: free some space and try again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission denied: choose another folder, or change its owner",
    errno.EPERM: "permission denied: choose another folder, or change its owner",
}


@contextmanager
def explained(folder: Path, setting: str) -> Iterator[None]:
    """Turn errors of the file system into one line that says what to do.

    Args:
        folder: what is being written, for errors that name no file.
        setting: the environment variable that moves the folder elsewhere.

    Raises:
        UnavailableError: in place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        hint = _HINTS.get(error.errno or 0, error.strerror or str(error))
        msg = f"cannot write {where}: {hint} ({setting} moves it)"
        raise UnavailableError(msg) from error


def require_writable(folder: Path, setting: str) -> None:
    """Make a folder, and make sure that files can be written into it: before hours of work, not after them.

    Raises:
        UnavailableError: it cannot be made or written.
    """
    with explained(folder, setting):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def require_disk(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Check the free space of the file system that holds (or will hold) a folder.

    Raises:
        UnavailableError: fewer than `needed_bytes` are free.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        msg = (
            f"the disk of {folder} is nearly full: {purpose} needs {needed_bytes // MIB} MiB, "
            f"{free // MIB} MiB are free; free some space and try again"
        )
        raise UnavailableError(msg)


def require_memory(needed_bytes: int, available_bytes: int) -> None:
    """Check that the servers fit, so that the kernel does not kill them (or others) later.

    Raises:
        UnavailableError: fewer than `needed_bytes` are available.
    """
    if available_bytes < needed_bytes:
        msg = (
            f"not enough memory: {needed_bytes / (1 << 30):.1f} GiB are needed and "
            f"{available_bytes / (1 << 30):.1f} GiB are available; free some memory, or lower "
            "--kafka-heap and --cassandra-heap"
        )
        raise UnavailableError(msg)


def require_open_files(needed: int) -> None:
    """Raise this process's limit of open files as far as it may, and make sure that it suffices.

    Raises:
        UnavailableError: even the hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if wanted > soft != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):  # some systems refuse; then the soft limit counts
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft != resource.RLIM_INFINITY and soft < needed:
        msg = (
            f"this process may open {soft} files but needs {needed}: raise the limit, for example with "
            f"`ulimit -n {needed}` or LimitNOFILE="
        )
        raise UnavailableError(msg)


def available_memory() -> int:
    """Bytes that new processes can take: the machine's, or what is left of a container's limit."""
    available = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        limit = int((_CGROUP / "memory.max").read_text())  # "max": no limit, a ValueError
        used = int((_CGROUP / "memory.current").read_text())
        for line in (_CGROUP / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":  # page cache, given back when needed
                used -= int(value)
        available = min(available, limit - used)
    return available


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


def user_name() -> str:
    """Who runs this, as far as the system knows: a container's user often has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def author() -> str:
    """Who makes a change that is recorded: user and host."""
    return f"{user_name()}@{socket.gethostname()}"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
