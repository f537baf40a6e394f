"""Writing files: whole or not at all, and faults of the file system in one line that says what to do."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import UnavailableError

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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
