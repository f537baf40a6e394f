"""What this machine has to have: free memory, free disk, and how many files a process may open."""

import resource
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from app.errors import UnavailableError

MIB = 1 << 20

#: More open files than a worker ever needs; some systems have no limit at all.
_MOST_FILES = 65_536
_CGROUP = Path("/sys/fs/cgroup")


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
