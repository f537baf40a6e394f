"""A rolling upgrade of two workers from an earlier release, one at a time, under load; and back again.

    python -m tests.crash.upgrade --rate 1000 --seconds 60

The earlier release is a commit of this repository. It and the present code are built and installed into folders of
their own; both run with the packages of this environment. Both workers run the earlier release first. Then each is
stopped with SIGTERM and started with the present code, while transactions and labels arrive; then the same way back.
Afterwards `verify` of the present release must find everything exact, and no partition may have been silent for longer
than `--most-silent`. The exit code is 0 only if nothing is amiss.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app.devstack.stack import Stack
from app.settings import Settings
from tests.crash.feed import Feed
from tests.crash.run import end_when_told
from tests.deployment import Deployment
from tests.fleet import Fleet
from tests.worker_settings import environ_of

#: The earlier release: what users had on the morning of 30 November 2026. Move it forward with each release.
BEFORE = "5a89cdb0cf2e"
ROOT = Path(__file__).resolve().parents[2]
#: For a worker to be back, and for the stream to finish.
_PATIENCE_SECONDS = 300.0
#: What a restart takes at most while records are still to be sent.
_RESTART_SECONDS = 90.0
_SAYS = Callable[[str], None]


def installed(folder: Path, commit: str | None) -> Path | None:
    """A release in a folder of its own, without its requirements: those of this environment serve both.

    Args:
        folder: to work in.
        commit: of the release; None: the code as it is here.

    Returns:
        The folder; None where this clone does not have the commit (it is shallow, or no clone).
    """
    name = commit or "present"
    source = folder / f"source-{name}"
    if commit is None:
        names = [ROOT / one for one in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")]
        source.mkdir()
        for file in names:
            shutil.copy(file, source)
        for package in ("app", "agents", "tables", "models", "cql"):
            shutil.copytree(ROOT / package, source / package)
    else:
        if shutil.which("git") is None:
            return None
        archive = folder / f"{name}.tar"
        with archive.open("wb") as output:
            done = subprocess.run(
                ["git", "-C", str(ROOT), "archive", commit], stdout=output, stderr=subprocess.DEVNULL, check=False
            )  # fmt: skip
        if done.returncode:
            return None
        with tarfile.open(archive) as files:
            files.extractall(source, filter="data")
    code = folder / name
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", str(code), str(source)],
        check=True,
    )  # fmt: skip
    return code


def roll(
    settings: Settings,
    before: Path,
    present: Path,
    folder: Path,
    *,
    rate: float,
    seconds: float,
    say: _SAYS,
) -> dict[int, float]:
    """Run the upgrade, and the way back.

    Args:
        settings: a deployment of its own.
        before, present: folders in which the releases are installed.
        folder: for the workers' state and logs.
        rate: transactions a second.
        seconds: how long records arrive with each mix of releases.
        say: told what happens.

    Returns:
        By partition, the longest time between two predictions while records arrived, seconds.

    Raises:
        AssertionError: something is amiss.
    """
    deployment = Deployment(settings)
    deployment.prepare()
    # they are given up when the last worker is back: enough for five mixes of releases and four slow restarts
    events = int(rate * (5 * seconds + 4 * _RESTART_SECONDS))
    feed = Feed(settings, seed=7, events=events, say=lambda *words: say(" ".join(words)))
    feed.rate = rate
    names = ("a", "b")
    with Fleet(environ_of(settings), folder, lambda *words: say(" ".join(words))) as fleet:
        fleet.prefer(before, *names)
        fleet.start(*names)
        fleet.await_ready(timeout_seconds=_PATIENCE_SECONDS)
        say("both workers run the earlier release")
        feed.start()
        time.sleep(seconds)
        for code, words in (
            (present, "the present release"),
            (before, "the earlier release again"),
        ):
            for name in names:
                fleet.terminate(name)
                fleet.prefer(code, name)
                fleet.start(name)
                fleet.await_ready(timeout_seconds=_PATIENCE_SECONDS)
                say(f"{name} runs {words}, {feed.sent:,} transactions sent")
                time.sleep(seconds)
                assert feed.is_alive(), (
                    "all records were sent before the end: restarts took too long"
                )
        feed.give_up()
        feed.join()
        assert feed.error is None, feed.error
        deployment.drain(_PATIENCE_SECONDS)
        assert not fleet.restarts, fleet.restarts
        fleet.check()
    report = deployment.verify(_PATIENCE_SECONDS)
    say(
        f"{report['read']:,} records read, {report['scored']:,} scored, missing {report['missing']}, differing "
        f"{report['differing']}, repeated outputs {report['repeated_outputs']}"
    )
    return _silences(deployment)


def _silences(deployment: Deployment) -> dict[int, float]:
    """By partition of `predictions`, the longest time between two of its records, seconds."""
    longest: dict[int, float] = {}
    newest: dict[int, int] = {}
    for record in deployment.records(deployment.topics.predictions):
        last = newest.get(record.partition, record.timestamp)
        gap = (record.timestamp - last) / 1000
        longest[record.partition] = max(longest.get(record.partition, 0.0), gap)
        newest[record.partition] = max(last, record.timestamp)
    return longest


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=1_000, help="transactions a second")
    parser.add_argument("--seconds", type=float, default=20, help="with each mix of releases")
    parser.add_argument(
        "--most-silent",
        type=float,
        default=30,
        help="seconds that a partition may be silent: one rebalance",
    )
    options = parser.parse_args()
    end_when_told()
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {words}", flush=True)

    with tempfile.TemporaryDirectory(prefix="fraudstream-upgrade-") as name:
        folder = Path(name)
        before, present = (installed(folder, one) for one in (BEFORE, None))
        if before is None or present is None:
            print(
                f"upgrade: git has no commit {BEFORE} here: clone the repository with its history",
                file=sys.stderr,
            )
            return 2
        stack = Stack(folder / "servers", quick=True, durable=True)
        endpoints = stack.up(free_ports=True)
        assert endpoints
        try:
            host, port = endpoints.cassandra[0]
            settings = Settings(
                _env_file=None,  # type: ignore[call-arg]
                home=folder / "home", broker=endpoints.broker, cassandra=f"{host}:{port}", app_id="upgrade",
                session_timeout=10_000, prediction_ttl="forever", label_wait=5_000, standby_replicas=1,
            )  # fmt: skip
            silences = roll(
                settings, before, present, folder / "workers", rate=options.rate, seconds=options.seconds, say=say
            )  # fmt: skip
        finally:
            stack.wipe()
    for number, seconds in sorted(silences.items()):
        say(f"partition {number}: longest silence {seconds:.1f} s")
    if max(silences.values()) > options.most_silent:
        say(f"a partition was silent for more than {options.most_silent:g} s")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
