"""Whatever a command is given: one line that says what is wrong, an exit code, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiokafka.errors import CorruptRecordException, NotLeaderForPartitionError
from cassandra.cluster import NoHostAvailable

from app.cli.command_errors import run
from app.cli.progress import counter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def environment(no_settings: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["card", os.fsdecode(b"x\xff")], 2, "the argument b'x\\xff' is not UTF-8 text"),
        (["transaction", ""], 2, "transaction_id must be text of 1 to 256 bytes"),
        (["label", "x" * 300, "fraud"], 2, "transaction_id must be text of 1 to 256 bytes"),
        (["label", "t", "fraud", "--wait", "--card", ""], 2, "card_id must be text"),
        (["label", "t", "fraud", "--wait", "--at", "2099-01-01T00:00Z"], 2, "is in the future"),
        (
            ["label", "t", "fraud", "--wait", "--at", "9999-12-31T23:59:59-14:00"],
            2,
            "is in the future",
        ),
        (["label", "t", "fraud", "--wait", "--at", "1960-01-01T00:00Z"], 2, "is before 1973"),
        (["simulate", "--out", "a.csv", "--labels", "./a.csv"], 2, "name the same file"),
        (["simulate", "--out", "a.csv", "--cards", "99999999999999"], 2, "cards must be from 1 to"),
        (["simulate", "--out", "a.csv", "--end", "0001-01-02"], 2, "before March 1973"),
        (["simulate", "--to-kafka", "--rate", "nan"], 2, "nan is not a finite number"),
        (["train", "--alerts-per-day", "inf"], 2, "inf is not a finite number"),
        (["train", "--out", "/proc/none/x"], 3, "cannot write /proc/none"),
        (["train", "--plots", "/proc/none"], 3, "cannot write /proc/none"),
        (["bench", "--plot", "/proc/none/x.svg"], 3, "cannot write /proc/none"),
        (["worker", "--datadir", "file"], 3, "cannot write file"),
        (["models", "show", "./nope"], 4, "does not exist"),
        (["produce", "pipe.csv"], 2, "it is not a file"),
    ],
)
def test_one_line_and_a_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, says: str,
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.csv")
    monkeypatch.setenv("FRAUDSTREAM_BROKER", "127.0.0.1:1")
    monkeypatch.setenv("FRAUDSTREAM_CASSANDRA", "127.0.0.1:1")
    before = set(tmp_path.rglob("*"))
    assert run(arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.splitlines()[-1].startswith(("fraudstream: ", "Error: "))
    assert {path for path in set(tmp_path.rglob("*")) - before if path.is_file()} == set()


def test_a_host_that_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_WEB_HOST", "not a host")
    assert run(["worker", "--web-port", "0"]) == 3
    assert "choose another FRAUDSTREAM_WEB_HOST" in capsys.readouterr().err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", *arguments]


@pytest.mark.parametrize(
    "arguments", [("--help",), ("config",), ("simulate", "--count", "9", "--out", "-")]
)
def test_a_full_disk_below_the_output(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(*arguments), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "fraudstream: cannot write the output: No space left on device" in done.stderr


def test_a_reader_that_goes_away() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("config"), cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode != 0, done.stderr) == (True, "")


def test_a_signal_leaves_no_half_a_file(tmp_path: Path) -> None:
    out = tmp_path / "big.csv.gz"
    process = subprocess.Popen(command("simulate", "--out", str(out)), cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob("big*")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert not any(tmp_path.glob("big*"))


def test_work_without_a_terminal_is_told_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("app.cli.progress.time.monotonic", lambda: now[0])
    for total in (200, None):
        now[0] = 100.0
        with counter("sending", total) as show:
            for second in range(0, 70, 10):
                now[0] = 100.0 + second
                show(second)
    told = capsys.readouterr().err.splitlines()
    assert told == ["sending: 15%", "sending: 30%", "sending: 30 (1/s)", "sending: 60 (1/s)"]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (NotLeaderForPartitionError("transactions/3"), 3, "Kafka does not answer as expected: "),
        (CorruptRecordException("of a kind"), 3, "CorruptRecordException: [Error 2] "),
        (NoHostAvailable("nobody", {}), 3, "Cassandra does not answer as expected: "),
        (KeyError(4), 1, "an unexpected error: KeyError: 4 (at "),
        (ValueError("two\nlines"), 1, "ValueError: two lines (at "),
        (
            OSError(13, "Permission denied", "/x"),
            3,
            "the operating system refused: PermissionError: [Errno 13]",
        ),
        (AssertionError(), 1, "an unexpected error: AssertionError (at "),
    ],
)
def test_an_error_that_nobody_foresaw(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    error: Exception, code: int, says: str,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("app.cli.topics.load_settings", fail)
    assert run(["topics"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fraudstream: ")
    assert says in line
    assert "test_command_errors.py:" in line


def test_the_trace_is_there_for_whoever_debugs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KeyError(4)

    monkeypatch.setattr("app.cli.topics.load_settings", fail)
    monkeypatch.setenv("FRAUDSTREAM_LOG_LEVEL", "DEBUG")
    assert run(["topics"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device", "/x")

    monkeypatch.setattr("app.cli.topics.load_settings", fail)
    assert run(["topics"]) == 3
    assert capsys.readouterr().err.startswith("fraudstream: the disk is full")
