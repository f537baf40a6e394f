"""`fraudstream demo` before it touches a server: options, ports, what it says."""

import os
import signal
import socket
import time

import pytest

from app.cli.command_errors import run
from app.cli.demo import called, demo
from app.cli.interrupt import interruptible
from app.cli.produce import produce
from app.errors import UnavailableError
from app.lab.demo.screen import Screen
from app.lab.demo.servers import make_workers
from app.settings import Settings


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--workers", "9"], 2, "--workers 9: the topics have 4 partitions"),
        (["--events", "5"], 2, "--events"),
        (["--map", "card_id=C"], 2, "--map: only with --input FILE"),
        (["--limit", "5", "--skip-bad"], 2, "--limit, --skip-bad: only with --input FILE"),
        (["card_id=C"], 2, "card_id=C: only with --input FILE"),
        (["--input", "no.csv"], 2, "cannot read no.csv"),
        (["--input", "a.csv", "--events", "500"], 2, "--events is for simulated transactions"),
        (["--input", "a.csv", "card_id=C", "b.csv"], 2, "give exactly one FILE"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(capfd, arguments, code, said):
    assert run(["demo", *arguments]) == code
    assert said in capfd.readouterr().err


def test_a_file_is_read_with_the_options_of_produce():
    ours, theirs = ({p.name: p for p in command.params} for command in (demo, produce))
    for name in (
        "mapping",
        "drop",
        "only_known",
        "assume_zone",
        "run",
        "skip",
        "limit",
        "skip_bad",
    ):
        assert ours[name] is theirs[name]


def test_a_taken_worker_port_is_told_before_servers_start(capfd, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("FRAUDSTREAM_WEB_PORT", str(port))
        assert run(["demo", "--once"]) == 3
    error = capfd.readouterr().err
    assert f"a worker cannot use port {port}: it is in use by pid {os.getpid()}" in error
    assert "--free-ports" in error


def test_the_worker_that_has_the_port_is_named(capfd, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "workers" / "x").mkdir(parents=True)
        file = tmp_path / "workers" / "x" / "worker.json"
        file.write_text(f'{{"url": "http://127.0.0.1:{port}", "pid": 4711}}')
        monkeypatch.setenv("FRAUDSTREAM_WEB_PORT", str(port))
        assert run(["demo", "--once"]) == 3
    assert "in use by pid 4711 (a worker of this home)" in capfd.readouterr().err


def test_a_taken_server_port_is_told_with_the_way_out(capfd, monkeypatch):
    from app.devstack.servers import SERVERS

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(type(SERVERS["kafka"]), "port", port)
        monkeypatch.setenv("FRAUDSTREAM_WEB_PORT", "0")
        assert run(["demo", "--once"]) == 3
    error = capfd.readouterr().err
    assert f"Kafka cannot use port {port}: it is in use by" in error
    assert error.count("\n") == 1
    assert "`fraudstream demo --free-ports`" in error


def test_workers_have_ports_and_folders_of_their_own(tmp_path):
    settings = Settings(_env_file=None, home=tmp_path, web_port=_free())  # type: ignore[call-arg]
    (one,) = make_workers(settings, 1, free_ports=False)
    assert (one.port, one.datadir) == (settings.web_port, settings.state_dir)
    pair = make_workers(settings, 2, free_ports=True)
    assert len({worker.port for worker in pair}) == len({worker.datadir for worker in pair}) == 2


def test_a_state_folder_of_the_settings_is_used(tmp_path):
    chosen = tmp_path / "state"
    settings = Settings(_env_file=None, home=tmp_path, web_port=0, datadir=chosen)  # type: ignore[call-arg]
    assert make_workers(settings, 1, free_ports=False)[0].datadir == chosen
    folders = {worker.datadir.parent for worker in make_workers(settings, 2, free_ports=False)}
    assert folders == {chosen}


def test_state_that_another_worker_uses_is_refused(tmp_path):
    import fcntl

    folder = tmp_path / "state"
    folder.mkdir()
    lock = folder / "LOCK"
    lock.touch()
    settings = Settings(_env_file=None, home=tmp_path, web_port=0, datadir=folder)  # type: ignore[call-arg]
    child = os.fork()
    if not child:  # a lock of this process itself would not count
        with lock.open("r+") as held:
            fcntl.lockf(held, fcntl.LOCK_EX)
            (folder / "held").touch()
            time.sleep(30)
        os._exit(0)
    try:
        while not (folder / "held").exists():
            time.sleep(0.01)
        with pytest.raises(UnavailableError, match="a worker still uses"):
            make_workers(settings, 1, free_ports=False)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_an_interruption_would(number):
    cleaned = False
    before = signal.signal(number, signal.SIG_DFL)  # whatever this run was started under
    try:
        with pytest.raises(SystemExit) as stop, interruptible():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            finally:
                cleaned = True
    finally:
        signal.signal(number, before)
    assert (stop.value.code, cleaned) == (128 + number, True)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_stays_what_it_is():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_screen_times_phases_and_is_calm_off_a_terminal():
    said: list[str] = []
    screen = Screen(said.append)
    with screen.phase("one"):
        screen.step("begun")
    screen.status("now and then")
    with screen.wave(10) as show:
        show(1, 10, 1)
    screen.end_status()
    assert list(screen.seconds) == ["one"]
    assert said[0].endswith(" s  begun")
    assert said[1:] == ["now and then"]


def test_it_is_called_as_it_can_be_called_here(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert called().endswith("fraudstream")
    assert called() != "fraudstream"


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
