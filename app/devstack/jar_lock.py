"""The lock file: every jar of both servers with its size and sha256, and where jars are cached."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from app.errors import UnavailableError


@dataclass(frozen=True)
class Jar:
    """One line of the lock.

    Attributes:
        coordinate: `group:artifact:version[:classifier[:extension]]`; the extension of most is jar.
        size: bytes.
        sha256: hexadecimal digest.
    """

    coordinate: str
    size: int
    sha256: str

    @cached_property
    def parts(self) -> tuple[str, str, str, str, str]:
        """Group, artifact, version, classifier (empty for most), extension."""
        group, artifact, version, *others = self.coordinate.split(":")
        classifier, extension = (*others, "", "jar")[:2] if len(others) != 1 else (*others, "jar")
        return group, artifact, version, classifier, extension

    @cached_property
    def path(self) -> Path:
        """Where it lies in a folder of Maven's layout."""
        group, artifact, version, classifier, extension = self.parts
        name = f"{artifact}-{version}{'-' + classifier if classifier else ''}.{extension}"
        return Path(*group.split("."), artifact, version, name)

    def intact(self, path: Path) -> bool:
        """Whether a file is this jar, whole: its size and sha256 are those of the lock."""
        try:
            if path.stat().st_size != self.size:
                return False
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


Lock = dict[str, list[Jar]]  # server name -> its class path


def parse_lock(text: str) -> Lock:
    """Jars of each server, in the order of the file."""
    lock: Lock = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            server, coordinate, size, sha256 = line.split("\t")
            lock.setdefault(server, []).append(Jar(coordinate, int(size), sha256))
    return lock


def read_lock() -> Lock:
    """The lock that is part of this package."""
    return parse_lock(files("app.devstack").joinpath("jars.lock").read_text())


def version_of(jars: list[Jar], artifact: str) -> str:
    """The locked version of an artifact, such as `kafka_2.13`."""
    return next(jar.parts[2] for jar in jars if jar.parts[1] == artifact)


def cache_dir() -> Path:
    """The folder of downloads that all homes share.

    `$FRAUDSTREAM_CACHE`, else `fraudstream` in the user's cache folder.

    Raises:
        UnavailableError: `FRAUDSTREAM_CACHE` names something that is not a folder.
    """
    named = os.environ.get("FRAUDSTREAM_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(named).expanduser().absolute() if named else Path(base, "fraudstream")
    if folder.exists() and not folder.is_dir():
        msg = f"the cache {folder} is not a folder: FRAUDSTREAM_CACHE must name one"
        raise UnavailableError(msg)
    return folder
