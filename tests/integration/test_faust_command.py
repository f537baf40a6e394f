"""The `faust` command starts a worker as the Procfile says, from a checkout."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from app.lab.worker_processes import WorkerProcess
from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def procfile() -> dict[str, list[str]]:
    """Its commands, run by this environment."""
    commands = {}
    for line in (ROOT / "Procfile").read_text().splitlines():
        name, _, text = line.partition(":")
        program, *arguments = shlex.split(text)
        commands[name] = [str(Path(sys.executable).with_name(Path(program).name)), *arguments]
    return commands


class ProcfileWorker(WorkerProcess):
    """The Procfile's line, in the root of the repository."""

    def command(self) -> list[str]:
        """What is run."""
        return ["env", "-C", str(ROOT), *procfile()["worker"]]


def test_faust_runs_the_worker(settings: Settings, tmp_path: Path) -> None:
    from app.devstack import ports

    port = ports.free_run(1)
    settings = settings.model_copy(update={"web_port": port, "datadir": tmp_path / "state"})
    deployment = Deployment(settings)
    deployment.prepare()
    worker = ProcfileWorker(port, tmp_path, environ=environ_of(settings))
    worker.start()
    try:
        deployment.send(
            Send(tx_bytes(n, card=f"c{n % 5}", at=n), b"c%d" % (n % 5)) for n in range(40)
        )
        wait_until(lambda: worker.reasons() == [] or not worker.alive(), "it to be ready")
        assert worker.alive(), worker.last_words()
        deployment.drain()
        report = deployment.verify()
        assert report["scored"] == report["rows"] == 40
    finally:
        killed = worker.stop()
    assert not killed
    assert worker.exit_code() == 0, worker.last_words()


@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        ({"FRAUDSTREAM_WINDOWS": "1 day"}, 2, "FRAUDSTREAM_WINDOWS: '1 day' is not a duration"),
        ({"FRAUDSTREAM_WEB_PORT": "0"}, 2, "FRAUDSTREAM_WEB_PORT=0"),
        ({"FRAUDSTREAM_BROKER": "127.0.0.1:1"}, 3, "no Kafka at 127.0.0.1:1"),
    ],
)
def test_it_ends_as_our_own_command_does(
    settings: Settings, wrong: dict[str, str], code: int, says: str
) -> None:
    from app.devstack import ports

    wrong = {"FRAUDSTREAM_WEB_PORT": str(ports.free_run(1))} | wrong
    done = subprocess.run(
        procfile()["worker"], cwd=ROOT, env=environ_of(settings) | wrong, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    told = [line for line in done.stderr.splitlines() if f"fraudstream: {says}" in line]
    assert len(told) == 1
    assert "Traceback" not in done.stderr
