"""`fraudstream card` and `terminal` against the real views over HTTP: what is printed, exit codes."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from app.cli.ask_worker import worker_urls
from app.cli.card_terminal_transaction import transaction_facts
from app.cli.command_errors import run
from app.settings import Settings
from app.web.key_owner import Unowned
from app.web.pages import install
from tests.web_worker import HOUR, DictWorker


@pytest.fixture(autouse=True)
def environment(no_settings: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))
    monkeypatch.setenv("FRAUDSTREAM_WEB_PORT", "1")  # nobody listens there


@pytest.fixture
def worker() -> Iterator[DictWorker]:
    """A worker that answers on a port of its own, from another thread."""
    worker = DictWorker()
    worker.add("c1", [0, HOUR, 48 * HOUR], minor=123_456)
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        application = web.Application()
        install(application, worker)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        worker.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield worker
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(runner.cleanup())
    loop.close()


def record(home: Path, name: str, text: str) -> None:
    """What a worker leaves in the home folder when it starts."""
    folder = home / "workers" / name
    folder.mkdir(parents=True)
    (folder / "worker.json").write_text(text)


def test_a_card_is_printed_for_people(
    worker: DictWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["card", "c1", "--url", worker.url]) == 0
    out = capsys.readouterr().out
    assert "3 transactions" in out
    assert "2023-11-16 22:13:20.000" in out
    assert [line.split() for line in out.splitlines() if line.strip().startswith("30d")] == [
        ["30d", "3", "3,703.68", "1,234.56", "yes"]
    ]


@pytest.mark.parametrize("anomaly", [None, 0.0, 0.625])
def test_a_transaction_tells_how_odd_it_is_where_its_model_knows(anomaly: float | None) -> None:
    row = {
        "score": 0.25, "threshold": 0.5, "is_fraud": False, "anomaly_score": anomaly, "amount_minor": 1250,
        "event_time_ms": 0, "card_id": "c1", "terminal_id": None, "flags": (), "model_version": "default@1",
        "model_hash": "abcd", "source_topic": "transactions", "source_partition": 0, "source_offset": 7,
    }  # fmt: skip
    facts = transaction_facts(row, Settings(_env_file=None))  # type: ignore[call-arg]
    assert facts["decision"] == "approved"
    assert facts["model said"] == "not flagged: score 0.25, threshold 0.5"
    assert ("anomaly" in facts) == (anomaly is not None)
    if anomaly is not None:
        assert f"score {anomaly:.6g};" in facts["anomaly"]


def test_the_json_is_what_the_worker_sent(
    worker: DictWorker, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    from urllib.request import urlopen

    assert run(["card", "c1", "--json", "--url", worker.url + "/"]) == 0
    printed = capfdbinary.readouterr().out
    with urlopen(f"{worker.url}/cards/c1.json") as reply:
        assert printed == reply.read()
    assert json.loads(printed)["id"] == "c1"


@pytest.mark.parametrize("identifier", ["..", "a/b", "a+b &x", "ü€😀", "%2F", "new\nline\x1b[31m"])
def test_odd_ids(worker: DictWorker, identifier: str, capsys: pytest.CaptureFixture[str]) -> None:
    worker.add(identifier, [0])
    assert run(["terminal", identifier, "--json", "--url", worker.url]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == identifier
    assert run(["terminal", identifier, "--url", worker.url]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_an_unknown_card_is_one_line(
    worker: DictWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["card", "nope", "--url", worker.url]) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "fraudstream: no card 'nope': no transaction contains it\n"


def test_a_card_that_cannot_be_read_just_now(
    worker: DictWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.place = Unowned("partition 1 is being recovered; try again")
    assert run(["card", "c1", "--url", worker.url]) == 3
    assert capsys.readouterr().err == "fraudstream: partition 1 is being recovered; try again\n"


def test_no_id(worker: DictWorker) -> None:
    assert run(["card", "", "--url", worker.url]) == 2
    assert run(["card"]) == 2


def test_no_worker(capsys: pytest.CaptureFixture[str]) -> None:
    line = "no worker answers at http://127.0.0.1:1: start one with `fraudstream worker`"
    assert run(["card", "c1"]) == 3
    assert capsys.readouterr().err == f"fraudstream: {line}\n"
    assert run(["card", "c1", "--url", "http://127.0.0.1:1"]) == 3
    assert run(["card", "c1", "--url", "no address"]) == 3


def test_a_worker_on_another_port_is_found(worker: DictWorker, tmp_path: Path) -> None:
    record(tmp_path, "1", json.dumps({"url": "http://127.0.0.1:1", "pid": 1}))  # left by a crash
    record(tmp_path, "2", "{")
    record(tmp_path, "3", json.dumps({"url": worker.url, "pid": 1}))
    assert run(["card", "c1"]) == 0


def test_a_worker_of_another_deployment_is_not_asked(
    worker: DictWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_WEB_PORT", worker.url.rsplit(":", 1)[1])
    assert run(["card", "c1"]) == 0
    monkeypatch.setenv("FRAUDSTREAM_APP_ID", "another")
    assert run(["card", "c1"]) == 3
    assert run(["card", "c1", "--url", worker.url]) == 0  # asked for by name


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7"),
        ("0.0.0.0", "http://127.0.0.1:7"),
        ("::", "http://[::1]:7"),
        ("worker-1", "http://worker-1:7"),
    ],
)
def test_where_to_ask_first(host: str, url: str, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path, web_host=host, web_port=7)  # type: ignore[call-arg]
    assert worker_urls(settings) == [url]


def test_port_zero_leaves_the_files(tmp_path: Path) -> None:
    record(tmp_path, "a", json.dumps({"url": "http://127.0.0.1:9", "pid": 1}))
    settings = Settings(_env_file=None, home=tmp_path, web_port=0)  # type: ignore[call-arg]
    assert worker_urls(settings) == ["http://127.0.0.1:9"]
