"""Apache Flink as a peer: its jars from a Maven repository, and its job compiled here.

The Java of the local servers has no compiler, so Eclipse's one is among the jars.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from app.devstack.environment import environment
from app.devstack.jar_downloads import ensure_jars
from app.devstack.jar_lock import cache_dir, parse_lock
from app.devstack.java import JAVA_MAJOR, find_java
from app.devstack.progress import NoProgress
from app.errors import UnavailableError

_COMPILE_SECONDS = 300
#: What Flink's own configuration opens of a Java 17, as far as this job needs it; memory as PySpark's job has it.
_OPTIONS = (
    "-Xmx2g",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in ("java.lang", "java.nio", "java.time", "java.util", "java.util.concurrent")
    ),
)


def flink_command(job: Path, compiled: Path) -> tuple[str | Path, ...]:
    """The command that runs Flink's job, compiled if it or its jars have changed.

    Args:
        job: folder with `jars.lock` and the Java files in `src`.
        compiled: where its classes are put.

    Raises:
        UnavailableError: there is no Java 17, a jar cannot be had, or the compiler refuses the job.
    """
    if not (job / "jars.lock").is_file():
        msg = f"{job} does not exist: peers can only be measured from a checkout of the project"
        raise UnavailableError(msg)
    java = find_java().path
    lock = (job / "jars.lock").read_text()
    jars = ensure_jars(parse_lock(lock), cache_dir(), NoProgress())
    sources = sorted((job / "src").glob("*.java"))
    digest = hashlib.sha256(b"\0".join([lock.encode(), *(one.read_bytes() for one in sources)]))
    stamp = compiled / "sources.sha256"
    if not (stamp.is_file() and stamp.read_text() == digest.hexdigest()):
        shutil.rmtree(compiled, ignore_errors=True)
        compiled.mkdir(parents=True)
        _compile(java, jars["compiler"], jars["flink"], sources, compiled)
        stamp.write_text(digest.hexdigest())
    return (java, *_OPTIONS, "-cp", _path([compiled, *jars["flink"]]), "FlinkJob")


def _compile(
    java: Path, compiler: Sequence[Path], jars: Sequence[Path], sources: Sequence[Path], into: Path
) -> None:
    command = [java, "-cp", _path(compiler), "org.eclipse.jdt.internal.compiler.batch.Main"]
    command += [f"-{JAVA_MAJOR}", "-nowarn", "-proc:none", "-cp", _path(jars), "-d", into, *sources]
    try:
        done = subprocess.run(  # noqa: S603  our own job
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=_COMPILE_SECONDS,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"compiling Flink's job took more than {_COMPILE_SECONDS} s"
        raise UnavailableError(msg) from error
    if done.returncode:
        faults = [line for line in done.stderr.splitlines() if "ERROR in" in line]
        msg = f"Flink's job does not compile: {faults[0] if faults else done.stderr[-200:]}"
        raise UnavailableError(msg)


def _path(parts: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, parts))
