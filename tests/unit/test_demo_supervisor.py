"""Supervising workers: stand-ins that end as workers do, in real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.devstack import ports
from app.errors import UnavailableError
from app.lab import supervisor
from app.lab.supervisor import Workers
from app.lab.worker_processes import WorkerProcess, stop_all

#: Serves `/health/ready` and `/metrics` with status 200, as a worker does.
READY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{}')
    def log_message(self, *args): pass
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


class Standin(WorkerProcess):
    """Runs a script in place of `fraudstream worker`; its arguments are the port and the folder."""

    script = READY

    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script, str(self.port), str(self.datadir)]


def standin(folder: Path, script: str) -> Standin:
    worker = Standin(ports.free_run(1), folder)
    worker.script = script
    return worker


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_is_ready_when_it_says_so_and_gone_afterwards(tmp_path):
    worker = standin(tmp_path, READY)
    with Workers([worker]) as workers:
        workers.await_ready()
        assert worker.alive()
        assert worker.reasons() == []
        assert not ports.is_free(worker.port)
    assert not worker.alive()
    assert worker.exit_code() == -signal.SIGTERM
    assert worker.reasons() is None


def test_exit_code_70_starts_it_again(tmp_path):
    once = "import pathlib, sys\nmark = pathlib.Path(sys.argv[2], 'mark')\n"
    once += "if not mark.exists():\n    mark.touch()\n    sys.exit(70)\n" + READY
    worker = standin(tmp_path, once)
    with Workers([worker]) as workers:
        workers.await_ready()
        assert worker.starts == 2
        assert workers.restarts == 1


def test_exit_code_70_again_and_again_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "MOST_RESTARTS", 2)
    script = "import sys\nprint('fraudstream: worker stopped in x/0: somebody else writes')\nsys.exit(70)"
    worker = standin(tmp_path, script)
    with (
        Workers([worker]) as workers,
        pytest.raises(UnavailableError, match="70 while starting: worker stopped"),
    ):
        workers.await_ready()
    assert worker.starts == 3


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import sys\nprint('fraudstream: no Kafka: run it')\nsys.exit(3)", "no Kafka: run it"),
        ("raise RuntimeError('just so')", "says:\n"),
        ("raise RuntimeError('just so')", "RuntimeError: just so"),
        ("import os\nos.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("import sys\nsys.exit(5)", "exit code 5 while starting"),
        ("import sys\nsys.exit(5)", "(it is empty)"),
    ],
)
def test_any_other_end_is_told_with_the_last_words(tmp_path, script, said):
    worker = standin(tmp_path, script)
    with Workers([worker]) as workers, pytest.raises(UnavailableError) as error:
        workers.await_ready()
    assert said in str(error.value)
    assert str(worker.log) in str(error.value)
    assert worker.starts == 1


def test_words_of_an_earlier_start_are_not_its_last(tmp_path):
    (tmp_path / "worker.log").write_text("fraudstream: long ago\n")
    worker = standin(tmp_path, "import sys\nsys.exit(5)")
    with Workers([worker]) as workers, pytest.raises(UnavailableError) as error:
        workers.await_ready()
    assert "long ago" not in str(error.value)


def test_one_that_never_gets_ready_is_told_and_stopped(tmp_path):
    worker = standin(tmp_path, "import time\ntime.sleep(100)")
    with (
        Workers([worker]) as workers,
        pytest.raises(UnavailableError, match=r"not ready after 0\.3 s: its web server does not"),
    ):
        workers.await_ready(0.3)
    assert not worker.alive()


def test_one_end_stops_all(tmp_path):
    good, bad = standin(tmp_path / "a", READY), standin(tmp_path / "b", "import sys\nsys.exit(1)")
    with Workers([good, bad]) as workers, pytest.raises(UnavailableError):
        workers.await_ready()
    assert not good.alive()


def test_a_taken_port_is_refused_before_anything_starts(tmp_path):
    holder, late = standin(tmp_path / "a", READY), standin(tmp_path / "b", READY)
    with Workers([holder]) as workers:
        workers.await_ready()
        late.port = holder.port
        with pytest.raises(UnavailableError, match=rf"port {holder.port}: it is in use by pid"):
            Workers([late]).start()
    assert late.starts == 0


def test_one_that_does_not_hear_is_killed_at_the_deadline(tmp_path):
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY
    worker = standin(tmp_path, deaf)
    workers = Workers([worker])
    workers.start()
    workers.await_ready()
    began = time.monotonic()
    assert workers.stop(0.5) == [worker]
    assert time.monotonic() - began < 10
    assert worker.exit_code() == -signal.SIGKILL


def test_an_interruption_while_stopping_kills(tmp_path, monkeypatch):
    worker = standin(tmp_path, READY)
    worker.start()
    until(lambda: worker.reasons() == [])

    def interrupted(timeout_seconds: float | None = None) -> bool:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "await_end", interrupted)
    monkeypatch.setattr(
        worker,
        "send",
        lambda number: None if number == signal.SIGTERM else WorkerProcess.send(worker, number),
    )
    with pytest.raises(KeyboardInterrupt):
        stop_all([worker])
    assert not worker.alive()


def test_a_child_ends_with_its_parent(tmp_path):
    """Nobody can stop children once their parent is killed: they follow by themselves."""
    parent = f"""
import time
from pathlib import Path
from app.lab.worker_processes import WorkerProcess
worker = WorkerProcess({ports.free_run(1)}, Path({str(tmp_path)!r}))
worker.command = lambda: [{sys.executable!r}, "-c", {_LIFELINE_CHILD!r}]
worker.start()
print(worker.pid, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        until(lambda: "following" in (tmp_path / "worker.log").read_text())
        assert child.is_running()
        process.kill()
        process.wait()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


_LIFELINE_CHILD = """
import threading, time
from app.lab import lifeline
threading.Thread(target=lifeline._follow, daemon=True).start()
print("following", flush=True)
time.sleep(100)
"""


def test_the_command_is_found_wherever_a_person_stands(tmp_path):
    """A folder named app in the working directory must not be taken for ours."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('the wrong app')")
    script = (
        "from pathlib import Path; from app.lab.worker_processes import WorkerProcess as W; "
        f"w = W(1, Path({str(tmp_path)!r}) / 'w', environ={{'FRAUDSTREAM_BROKR': 'x'}}); w.start(); "
        "w.await_end(60); print(w.exit_code(), w.last_words())"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("2 FRAUDSTREAM_BROKR is not a setting")
