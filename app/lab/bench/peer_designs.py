"""What a team would take in our place, each in an environment of its own below `.venv-peers`.

The jobs and their pinned requirements are in `bench/peers` of a checkout; none is a dependency of ours.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import app as package
from app.devstack.jar_downloads import ensure_jars
from app.devstack.jar_lock import cache_dir, parse_lock
from app.devstack.java import find_java
from app.devstack.progress import NoProgress
from app.errors import UnavailableError
from app.lab.bench.flink import flink_command
from app.lab.bench.run import Design, Tell

_ROOT = Path(package.__file__).resolve().parents[1]
JOBS = _ROOT / "bench" / "peers"
ENVIRONMENTS = _ROOT / ".venv-peers"
_INSTALL_SECONDS = 600

#: Name: (environment, argument of its job, backlog, open-loop loads, what it does and does less).
PEERS: dict[str, tuple[str, str, int, tuple[float, ...], str]] = {
    "quix": (
        "quix", "full", 20_000, (200.0, 1000.0),
        "Quix Streams: all eight windows, the model per event, predictions topic, Cassandra in batches; at least "
        "once (counts twice after a crash), no late, duplicate or misrouted records, no reasons",
    ),
    "quix-reduced": (
        "quix", "reduced", 60_000, (200.0, 1000.0),
        "Quix Streams at its best: one window, the model in the sink for whole batches, no terminals, no "
        "predictions topic",
    ),
    "ours-reduced": (
        "fraudstream", "worker -l error --without-web", 60_000, (200.0, 1000.0),
        "fraudstream with the work of quix-reduced: the same transport, order of effects, changelog and store",
    ),
    "spark-exact": (
        "spark", "exact", 60_000, (200.0,),
        "PySpark: four exact windows per card, the model in batches, predictions topic, Cassandra connector; no "
        "terminals, no late, duplicate or misrouted records, no reasons",
    ),
    "spark-windows": (
        "spark", "windows", 60_000, (),
        "PySpark: one hopping window with a watermark, a row per card and window instead of per event",
    ),
    "flink": (
        "flink", "", 150_000, (200.0, 1000.0),
        "Apache Flink, in Java: all eight windows, the model per event, predictions topic, Cassandra in batches; state "
        "on the heap, a checkpoint every 10 s, sinks at least once; no late, duplicate, conflicting or misrouted "
        "records, no labels, no reasons, no alerts",
    ),
}  # fmt: skip


def peer_designs(names: Iterable[str], tell: Tell) -> tuple[list[Design], dict[str, str]]:
    """Install what is needed, and say how each design is run.

    Args:
        names: of `PEERS`.
        tell: is told what is installed.

    Returns:
        The designs that can run, and for the others why not.
    """
    designs: list[Design] = []
    skipped: dict[str, str] = {}
    for name in names:
        environment, argument, events, rates, work = PEERS[name]
        try:
            prepared, environ = _prepared(environment, tell)
        except UnavailableError as error:
            skipped[name] = str(error)
            tell(f"{name} is skipped: {error}")
            continue
        command = (*prepared, *argument.split())
        designs.append(Design(name, work, events, command, rates, environ))
    return designs, skipped


def _prepared(
    environment: str, tell: Tell
) -> tuple[tuple[str | Path, ...], tuple[tuple[str, str], ...]]:
    """The command of a job, and variables that it needs."""
    if environment == "flink":
        tell("jars of Flink, its Kafka connector and Cassandra's driver, and the job compiled")
        return flink_command(JOBS / environment, ENVIRONMENTS / environment), ()
    job = JOBS / environment / "job.py"
    if environment == "fraudstream":
        # the port is not opened (--without-web), but Faust refuses the 0 of a deployment whose workers find their own
        return (sys.executable, job), (
            ("FRAUDSTREAM_WINDOWS", "1h"),
            ("FRAUDSTREAM_WEB_PORT", "6066"),
        )
    more = _spark(tell) if environment == "spark" else ()
    return (installed(environment, tell), job), more


def installed(name: str, tell: Tell) -> Path:
    """The Python of a peer's environment, made anew when its requirements have changed.

    Raises:
        UnavailableError: it cannot be installed; the text says why.
    """
    wanted = JOBS / name / "requirements.txt"
    if not wanted.is_file():
        msg = f"{wanted} does not exist: peers can only be measured from a checkout of the project"
        raise UnavailableError(msg)
    folder = ENVIRONMENTS / name
    python, stamp = folder / "bin" / "python", folder / "requirements.sha256"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return python
    tell(f"installing {name} into {folder}, once")
    _run(sys.executable, "-m", "venv", "--clear", folder)
    quiet = ("--quiet", "--disable-pip-version-check")
    _run(python, "-m", "pip", "install", *quiet, "-r", wanted)
    stamp.write_text(digest)
    return python


def _spark(tell: Tell) -> tuple[tuple[str, str], ...]:
    tell("jars of Spark's Kafka source and Cassandra connector")
    lock = parse_lock((JOBS / "spark" / "jars.lock").read_text())
    jars = ensure_jars(lock, cache_dir(), NoProgress())["spark"]
    home = find_java().path.resolve().parents[1]
    return ("BENCH_JARS", ",".join(map(str, jars))), ("JAVA_HOME", str(home))


def _run(*command: str | Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603  a new environment and pip
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{command[0]} took more than {_INSTALL_SECONDS} s"
        raise UnavailableError(msg) from error
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        msg = words[-1] if words else f"{command[0]} ended with exit code {done.returncode}"
        raise UnavailableError(msg)
