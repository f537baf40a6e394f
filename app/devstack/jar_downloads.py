"""Filling the cache of jars: from ~/.m2 or a Maven repository, each checked by size and sha256."""

import errno
import logging
import os
import re
import shutil
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.devstack.jar_lock import Jar, Lock
from app.devstack.progress import Advance, Progress
from app.errors import UnavailableError
from app.file_writing import explained
from app.folder_locks import one_at_a_time
from app.machine_requirements import MIB, require_disk

_TRIES = 3
_WORKERS = 8  # small files: the time goes into round trips
_TIMEOUT_SECONDS = 60
_INCOMING = "incoming-"
_ELSEWHERE = "set FRAUDSTREAM_MAVEN_URL to another Maven repository"


def ensure_jars(lock: Lock, cache: Path, progress: Progress) -> dict[str, list[Path]]:
    """Class path of each server, its jars fetched where the cache lacks them or has them damaged.

    Any number of processes may fill one cache: one downloads, the others wait, and a jar appears
    under its name only when it is whole and checked.

    Raises:
        UnavailableError: the disk is full, there is no network, a jar cannot be had or is damaged.
    """
    folder = cache / "jars"
    wanted = list(dict.fromkeys(jar for jars in lock.values() for jar in jars))
    if _missing(wanted, folder):
        with (
            explained(cache, "FRAUDSTREAM_CACHE"),
            one_at_a_time(
                cache / "lock",
                lambda: progress.step("Another process is filling the cache: waiting"),
            ),
        ):
            for left in cache.glob(_INCOMING + "*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            if missing := _missing(wanted, folder):
                _fill(missing, folder, progress)
    return {name: [folder / jar.path for jar in jars] for name, jars in lock.items()}


def repository() -> str | None:
    """Where jars come from; None means jgo's default, Maven Central.

    `$FRAUDSTREAM_MAVEN_URL`, else a mirror of central in ~/.m2/settings.xml.

    Raises:
        UnavailableError: the settings file is not XML.
    """
    if url := os.environ.get("FRAUDSTREAM_MAVEN_URL"):
        return url.rstrip("/")
    file = Path.home() / ".m2" / "settings.xml"
    if not file.is_file():
        return None
    try:
        root = ET.parse(file)  # noqa: S314 - the user's own configuration
    except ET.ParseError as error:
        msg = f"{file} is not XML ({error}): correct it, or set FRAUDSTREAM_MAVEN_URL"
        raise UnavailableError(msg) from error
    for element in root.iter():
        if _tag(element) == "mirror":
            mirror = {_tag(child): (child.text or "").strip() for child in element}
            if _mirrors_central(mirror):
                return _expand(mirror["url"]).rstrip("/")
    return None


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]  # with or without a namespace


def _mirrors_central(mirror: dict[str, str]) -> bool:
    of = {part.strip() for part in mirror.get("mirrorOf", "").split(",")}
    blocked = mirror.get("blocked", "false") == "true"
    named = "!central" not in of and bool(of & {"central", "*", "external:*"})
    return named and not blocked and bool(mirror.get("url"))


def _expand(url: str) -> str:
    """Maven's way of naming environment variables: ${env.NAME}."""
    return re.sub(r"\$\{env\.(\w+)\}", lambda match: os.environ.get(match[1], ""), url)


def _missing(jars: list[Jar], folder: Path) -> list[Jar]:
    with ThreadPoolExecutor(_WORKERS) as pool:  # hashing lets go of the interpreter lock
        intact = pool.map(lambda jar: jar.intact(folder / jar.path), jars)
        return [jar for jar, whole in zip(jars, intact, strict=True) if not whole]


def _fill(missing: list[Jar], folder: Path, progress: Progress) -> None:
    size = sum(jar.size for jar in missing)
    require_disk(folder, size + 64 * MIB, "the download")
    with (
        tempfile.TemporaryDirectory(prefix=_INCOMING, dir=folder.parent) as incoming,
        _silenced("jgo"),
        progress.transfer(
            f"Fetching {len(missing)} jars, {size / 1e6:.0f} MB, once, into {folder}", size
        ) as advance,
    ):
        source = _Source(Path(incoming), folder)
        pool = ThreadPoolExecutor(_WORKERS)
        try:
            for done in as_completed([pool.submit(source.fetch, jar, advance) for jar in missing]):
                done.result()
        finally:  # the first failure ends the rest
            pool.shutdown(cancel_futures=True)


class _Source:
    """Brings one jar after another into the cache, through a folder of its own."""

    def __init__(self, incoming: Path, folder: Path) -> None:
        self._incoming = incoming
        self._folder = folder
        self._m2 = Path.home() / ".m2" / "repository"
        self._url = repository()
        self._context = maven(incoming, self._url)

    def fetch(self, jar: Jar, advance: Advance) -> None:
        """Copy a jar from ~/.m2, else download it."""
        if jar.intact(self._m2 / jar.path):
            arrived = self._incoming / jar.path
            arrived.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._m2 / jar.path, arrived)
        else:
            arrived = self._download(jar)
        target = self._folder / jar.path
        target.parent.mkdir(parents=True, exist_ok=True)
        arrived.replace(target)
        advance(jar.size)

    def _download(self, jar: Jar) -> Path:
        """A whole jar in the incoming folder.

        jgo only warns of a wrong checksum and takes whatever file is there, also half of one:
        hence the look at size and sha256, and the removal before each try.
        """
        group, artifact, version, classifier, extension = jar.parts
        path = self._incoming / jar.path
        fault = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(attempt)
            path.unlink(missing_ok=True)
            component = self._context.project(group, artifact).at_version(version)
            try:
                component.artifact(classifier, extension).resolve()
            except Exception as error:
                if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                fault = self._explain(jar, error)
                continue
            if jar.intact(path):
                return path
            fault = (
                f"{jar.coordinate} from {self._place()} is damaged: its size or sha256 is not that "
                f"of the lock file, in {_TRIES} downloads; {_ELSEWHERE}"
            )
        raise UnavailableError(fault)

    def _explain(self, jar: Jar, error: Exception) -> str:
        if isinstance(error, OSError):  # what requests raises is one
            kind = type(error).__name__
            return (
                f"cannot download {jar.coordinate} from {self._place()} ({kind}): is there a "
                f"network? If a proxy or mirror is needed, {_ELSEWHERE}"
            )
        return f"{self._place()} does not have {jar.coordinate}; {_ELSEWHERE}"

    def _place(self) -> str:
        """The repository in words, without a password that its URL may hold."""
        if self._url is None:
            return "Maven Central"
        return urlsplit(self._url).hostname or self._url


def maven(cache: Path, url: str | None) -> Any:
    """A context of jgo, the Maven client, that keeps its files in a folder.

    Raises:
        UnavailableError: jgo is not installed.
    """
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        msg = "local servers need the package jgo: `pip install 'fraudstream[local]'`"
        raise UnavailableError(msg) from error
    repositories = {"remote_repos": {"central": url}} if url else {}
    return MavenContext(repo_cache=cache, timeout=_TIMEOUT_SECONDS, **repositories)


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep a library's warnings off the screen: what matters of them becomes our error."""
    logger = logging.getLogger(name)
    handler, propagate = logging.NullHandler(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
