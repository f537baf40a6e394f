"""What a worker does where it cannot work: another's state folder, a full disk, too few open files."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.devstack import ports
from app.lab.worker_processes import WorkerProcess
from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration


def sent(deployment: Deployment, count: int, first: int = 0) -> None:
    """Send transactions of a few cards."""
    deployment.send(
        Send(tx_bytes(n, card=f"c{n % 50}", terminal=f"t{n % 500}", at=n), b"c%d" % (n % 50))
        for n in range(first, first + count)
    )


def ended(worker: WorkerProcess) -> str:
    """What a worker that ends by itself has written."""
    assert worker.await_end(120), worker.last_words()
    return worker.log.read_text()


def in_one_line(text: str) -> str:
    """The line for people; fails where there are more, or a traceback."""
    said = [line for line in text.splitlines() if line.startswith("fraudstream: ")]
    assert len(said) == 1, text
    assert "Traceback" not in text
    return said[0]


def test_a_second_worker_on_a_state_folder_touches_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        sent(deployment, 100)
        deployment.drain()
        folder = fleet["a"].datadir
        print("open files", len(os.listdir(f"/proc/{fleet['a'].pid}/fd")))
        before = (folder / "worker.json").read_text()
        done = deployment.run("worker", "--web-port", "0", "--datadir", str(folder))
        assert done.returncode == 3
        line = in_one_line(done.stderr)
        assert f"belongs to a running process (pid {fleet['a'].pid})" in line
        assert (folder / "worker.json").read_text() == before
        sent(deployment, 100, 100)
        deployment.drain()
        fleet.terminate("a")
        fleet.start("a")  # the claim ended with the process
        fleet.await_ready()
        assert deployment.verify()["rows"] == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, and small."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(settings: Settings, tmp_path: Path, small_disk: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    filler = small_disk / "filler"
    worker = WorkerProcess(ports.free_run(1), small_disk / "state", environ=environ_of(settings))
    worker.log = tmp_path / "worker.log"
    try:
        worker.start()
        wait_until(lambda: worker.reasons() == [] or not worker.alive(), "it to be ready")
        sent(deployment, 2_000)
        deployment.drain()
        fill(filler)
        sent(deployment, 20_000, 2_000)
        told = ended(worker)
        assert worker.exit_code() == 3, told
        assert "the disk is full: free some space" in in_one_line(told)
        size = worker.log.stat().st_size
        worker.start()  # the disk is still full
        told = ended(worker)[size:]
        assert worker.exit_code() == 3, told
        assert "the disk is full: free some space" in in_one_line(told)
        filler.unlink()
        worker.start()
        deployment.drain()
        assert deployment.verify()["rows"] == 22_000
    finally:
        worker.stop()


def fill(file: Path) -> None:
    """Write until no more is taken."""
    with file.open("wb", buffering=0) as output:
        try:
            while True:
                output.write(b"x" * 4096)
        except OSError:
            return


def test_too_few_open_files(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 64; exec "$@"', "-", *worker_command(tmp_path)],
        env=environ_of(settings), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "this process may open 64 files but needs" in in_one_line(done.stderr)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64


def worker_command(tmp_path: Path) -> list[str]:
    """A worker with a port and a state folder of its own."""
    return [
        sys.executable,
        "-m",
        "app",
        "worker",
        "--web-port",
        "0",
        "--datadir",
        str(tmp_path / "s"),
    ]
