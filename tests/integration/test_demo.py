"""`fraudstream demo` as a person runs it: a process of its own, real servers, real workers."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cassandra.session import SCAN, connected
from app.settings import Settings
from tests.real_servers import Servers
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
#: Generous: the machine may be busy with something else.
PATIENCE_SECONDS = 240
_ACCOUNT = " ".join(
    [r"([\d,]+) read = ([\d,]+) scored in time \+ ([\d,]+) late \+ ([\d,]+) duplicate \+",
     r"([\d,]+) dead \+ ([\d,]+) moved"]
)  # fmt: skip


@contextmanager
def demo(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A running demo, its lines on standard output; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "demo", *arguments],
        env=environ_of(settings), cwd=ROOT, text=True, bufsize=1,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a demo that ends by itself."""
    with demo(settings, *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, out, err


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Lines up to the one that contains `wanted`."""
    seen = []
    assert process.stdout
    for line in process.stdout:
        seen.append(line)
        if wanted in line:
            return seen
    raise AssertionError("".join(seen) + (process.stderr.read() if process.stderr else ""))


def workers_of(process: subprocess.Popen[str], count: int) -> list[psutil.Process]:
    """The workers of a demo, once there are so many."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        found = [child for child in children if "app.lab.lifeline" in child.cmdline()]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def stored(settings: Settings) -> set[tuple[int, int]]:
    """Source positions of all rows."""
    query = f"SELECT source_partition, source_offset FROM {settings.keyspace}.predictions"
    with connected(settings) as session:
        return set(session.execute(query, execution_profile=SCAN))


def check_account(said: dict[str, Any]) -> None:
    kinds = ("scored", "late", "duplicate", "dead", "moved")
    assert said["read"] == sum(said[kind] for kind in kinds)
    assert said["missing"] == said["repeated"] == 0
    assert all(said[kind] > 0 for kind in kinds)
    assert said["rows"] == said["scored"] + said["late"]


def test_two_runs_one_after_the_other(settings):
    """The second is as good as the first: its cards are new, nothing of it is late by the first."""
    code, out, err = finished(settings, "--once", "--json", "--events", "1500")
    assert code == 0, err
    first = json.loads(out)
    check_account(first)
    assert first["late"] <= 10
    assert first["duplicate"] <= 10
    assert first["latency_ms"]["p50"] <= first["latency_ms"]["p99"]
    assert first["events_per_second"] > 0
    assert {"servers", "schema", "workers", "history", "latency", "summary", "total"} <= first[
        "seconds"
    ].keys()
    assert len(stored(settings)) == first["rows"]
    assert 1_300 < first["labels"] < 1_500
    assert (first["labels_dead"], first["labels_waiting"]) == ({}, 0)
    assert sum(kind["caught"] + kind["missed"] for kind in first["frauds"].values()) > 0
    assert first["true_positives"] == sum(kind["caught"] for kind in first["frauds"].values())
    assert first["flagged"] == sum(
        first[name] for name in ("true_positives", "false_positives", "unlabelled")
    )

    with demo(settings, "--events", "1500", "--workers", "2", "--rate", "50") as process:
        text = "".join(lines_until(process, "Continuing at 50 per second"))
        account = re.search(_ACCOUNT, text)
        assert account, text
        read, *parts = (int(part.replace(",", "")) for part in account.groups())
        assert read == sum(parts)
        assert all(parts)
        assert parts[1] <= 10
        assert "transactions per second from Kafka to Cassandra" in text
        assert len(text.splitlines()) <= 40  # the servers' lines are fewer here, the workers' more
        workers = workers_of(process, 2)
        time.sleep(3)  # so that something is sent
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in out + err
    assert re.search(
        r"50 per second, \d+ alerts per minute, lag .*; [1-9]\d* sent, \d+ scored", out
    )
    assert_gone(workers)


def test_the_defaults_catch_fraud(settings):
    """What a newcomer sees first."""
    defaults = Settings(_env_file=None)
    by_default = settings.model_copy(
        update={"features": defaults.features, "model": defaults.model}
    )
    code, out, err = finished(by_default, "--once", "--json", "--events", "30000")
    assert code == 0, err
    said = json.loads(out)
    check_account(said)

    def recall(kind: str) -> float:
        one = said["frauds"][kind]
        return one["caught"] / (one["caught"] + one["missed"])

    assert recall("terminal") >= 0.6, said["frauds"]
    assert recall("amount") >= 0.9, said["frauds"]
    assert said["precision"] >= 0.5, said
    assert said["flagged"] == said["true_positives"] + said["false_positives"] + said["unlabelled"]


def test_a_file_is_scored_with_the_options_of_produce(settings, tmp_path):
    path = tmp_path / "theirs.csv"
    rows = [
        f"{n},card {n % 40},shop {n % 7},{n % 90}.25,2024-03-0{1 + n // 500} 12:{n // 60 % 60:02}:{n % 60:02}"
        for n in range(1_200)
    ]
    path.write_text("ID,CUSTOMER,SHOP,SUM,AT\n" + "\n".join(rows))
    mapping = "transaction_id=ID card_id=CUSTOMER terminal_id=SHOP amount=SUM event_time=AT"
    code, out, err = finished(
        settings, "--once", "--json", "--input", str(path), "--assume-zone", "UTC",
        "--limit", "1000", "--map", *mapping.split(),
    )  # fmt: skip
    assert code == 0, err
    said = json.loads(out)
    assert (said["read"], said["scored"], said["missing"]) == (1_200, 1_200, 0)
    assert said["input"] == "the first 1,000 transactions of theirs.csv"


def test_local_servers_that_run_are_used_and_stay_up(settings, stack: Servers):
    local = stack.require_local()
    here = settings.model_copy(update={"home": local.home, "broker": None, "cassandra": None})
    with demo(here, "--once", "--events", "100", "--free-ports") as process:
        text = "".join(lines_until(process, "Starting a worker at"))
        assert "Kafka is already up" in text
        workers = workers_of(process, 1)
        process.send_signal(signal.SIGTERM)  # in the middle of a phase
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert_gone(workers)
    assert all(status.state == "running" for status in local.status())


@pytest.mark.parametrize("line", ["Sending", "Measuring latency"])
def test_ctrl_c_before_the_summary_leaves_no_worker(settings, line):
    with demo(settings, "--events", "3000") as process:
        text = "".join(lines_until(process, line))
        workers = workers_of(process, 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in text + out + err
    assert [one for one in err.splitlines() if one.startswith("fraudstream: ")] == [
        "fraudstream: interrupted"
    ]
    assert_gone(workers)


def test_a_worker_that_cannot_start_is_told(settings):
    code, _out, err = finished(settings.model_copy(update={"model": "nobody"}), "--once")
    assert code == 3
    assert "while starting" in err
    assert "nobody" in err


def test_a_worker_that_is_killed_is_told_and_nothing_stays_behind(settings):
    with demo(settings, "--events", "100", "--workers", "2") as process:
        lines_until(process, "Sending")
        workers = workers_of(process, 2)
        workers[0].kill()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "was killed by SIGKILL" in err
    assert "worker.log" in err
    assert_gone(workers)


def test_workers_follow_a_demo_that_is_killed(settings):
    with demo(settings, "--events", "100") as process:
        lines_until(process, "Sending")
        workers = workers_of(process, 1)
        process.kill()
        process.wait()
        assert_gone(workers)
