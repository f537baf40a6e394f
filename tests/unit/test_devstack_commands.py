"""`fraudstream up`, `down`, `status` and `wipe` where no server runs."""

import json
import socket
from pathlib import Path

import pytest

from app.cli.command_errors import run
from app.devstack import stack as stack_module
from app.devstack.servers import SERVERS

HOME = "FRAUDSTREAM_HOME"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("BROKER", "CASSANDRA", "DATADIR"):
        monkeypatch.delenv(f"FRAUDSTREAM_{name}", raising=False)
    monkeypatch.setenv(HOME, str(tmp_path / "home"))
    return tmp_path / "home"


def code(*args: str) -> int:
    try:
        return run(list(args))
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


@pytest.mark.parametrize("command", ["up", "down", "status", "wipe"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(command, "--help") == 0
    assert f"Example:  fraudstream {command}" in capsys.readouterr().out


def test_nothing_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("status") == 3
    assert "Kafka     stopped" in capsys.readouterr().out
    assert code("status", "--json") == 3
    states = json.loads(capsys.readouterr().out)
    assert states["cassandra"]["state"] == "stopped"
    assert states["kafka"]["pid"] is None
    assert code("down") == 0
    assert "No local server" in capsys.readouterr().out
    assert code("wipe") == 0
    assert "Nothing to delete" in capsys.readouterr().out
    assert not home.exists()


@pytest.mark.parametrize("answers", [True, False])
def test_servers_elsewhere_are_not_started_but_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answers: bool
) -> None:
    for server in SERVERS.values():
        monkeypatch.setattr(server, "answers", lambda *_: answers)
    monkeypatch.setenv("FRAUDSTREAM_BROKER", "k:1")
    monkeypatch.setenv("FRAUDSTREAM_CASSANDRA", "c:2")
    assert code("up", "--json") == (0 if answers else 3)
    captured = capsys.readouterr()
    assert "Kafka is not started here: FRAUDSTREAM_BROKER names k:1" in captured.err
    if answers:
        assert json.loads(captured.out) == {"kafka": "k:1", "cassandra": "c:2"}
    else:
        assert "Kafka at k:1 does not answer: start it, or unset FRAUDSTREAM_BROKER" in captured.err
    assert not home.exists()


def test_status_asks_servers_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and refuses connections
        monkeypatch.setenv("FRAUDSTREAM_BROKER", f"127.0.0.1:{nobody.getsockname()[1]}")
        assert code("status") == 3
    assert "Kafka     does not answer, at 127.0.0.1" in capsys.readouterr().out


def test_wipe_asks_first(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "workers" / "6066").mkdir(parents=True)
    (home / "servers" / "kafka").mkdir(parents=True)
    (home / "notes").touch()
    monkeypatch.setenv("FRAUDSTREAM_DATADIR", str(home))
    assert code("wipe") == 2
    assert "without a terminal, confirm with --yes" in capsys.readouterr().err
    assert (home / "workers").exists()
    assert code("wipe", "--yes") == 0
    assert "(FRAUDSTREAM_DATADIR) is not deleted" in capsys.readouterr().out
    assert sorted(path.name for path in home.iterdir()) == ["notes", "stack.lock"]


def test_a_taken_port_is_found_before_anything_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_JAVA", "/nowhere")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert code("up", "kafka", "--kafka-port", str(port)) == 3
        assert f"fraudstream: Kafka cannot use port {port}: it is" in capsys.readouterr().err


def test_short_memory_is_found_before_the_download(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "available_memory", lambda: 1 << 30)
    assert code("up", "--free-ports") == 3
    error = capsys.readouterr().err
    assert "1.9 GiB are needed and 1.0 GiB are available" in error
    assert error.count("\n") == 1
