"""Designs that are compared: their protocol, what is skipped and why, and the load they get."""

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.devstack.jars import parse_lock
from app.errors import UnavailableError
from app.lab.bench import peers
from app.lab.bench.latency import live_load
from app.lab.bench.peer import Peer
from app.settings import Settings
from app.wire.input_records import RecordRules, parse_transaction


def settings(home: Path) -> Settings:
    return Settings(_env_file=None, home=home, broker="b:1", cassandra="c:2", topic_prefix="p-")  # type: ignore[call-arg]


def peer(home: Path, code: str, events: int = 7) -> Peer:
    return Peer(settings(home), [sys.executable, "-c", code], events, warm_up=3)


TELLS = """
import json, os, time
print("noise", flush=True)
print(json.dumps({"mark": "begin"}), flush=True)
burnt = time.process_time() + 0.2
while time.process_time() < burnt: pass
said = {name: os.environ[name] for name in os.environ if name.startswith(("BENCH_", "FRAUDSTREAM_"))}
print(json.dumps({"mark": "end", "events": 100, "seconds": 0.5, "said": said}), flush=True)
time.sleep(60)
"""


def test_a_peer_is_measured_between_its_marks(tmp_path: Path) -> None:
    with peer(tmp_path, TELLS) as running:
        running.await_begin()
        found = running.await_end()
    assert (found.events, found.rate) == (100, 200)
    assert 1_500 < found.cpu_us["worker"] < 20_000  # 0.2 s for 100 events
    assert found.memory_mib["worker"] > 1
    said = found.work["said"]
    assert said["BENCH_EVENTS"] == "7"
    assert said["BENCH_WARM_UP"] == "3"
    assert Path(said["BENCH_MODEL"]).is_file()
    assert said["FRAUDSTREAM_TOPIC_PREFIX"] == "p-"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('no such jar')", "no such jar"),
        ("print('only this')", "only this"),
        ("", "it said nothing"),
    ],
)
def test_a_peer_that_ends_early_says_why(tmp_path: Path, code: str, words: str) -> None:
    with peer(tmp_path, code) as running, pytest.raises(UnavailableError, match=words):
        running.await_begin()


def test_what_cannot_be_installed_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "JOBS", tmp_path)
    said: list[str] = []
    designs, skipped = peers.peer_designs(["quix", "ours-reduced"], said.append)
    assert [design.name for design in designs] == ["ours-reduced"]
    assert "from a checkout" in skipped["quix"]
    assert any("quix is skipped" in line for line in said)


def test_a_failed_installation_tells_pips_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "JOBS", tmp_path)
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path / "environments")

    def run(*command: Any) -> None:
        if "pip" in command:
            msg = "ERROR: no matching distribution"
            raise UnavailableError(msg)

    monkeypatch.setattr(peers, "_run", run)
    (tmp_path / "quix").mkdir()
    (tmp_path / "quix" / "requirements.txt").write_text("x==1\n")
    with pytest.raises(UnavailableError, match="no matching"):
        peers.installed("quix", lambda _: None)
    assert not (tmp_path / "environments" / "quix" / "requirements.sha256").exists()


def test_every_peer_has_a_job_and_pinned_requirements() -> None:
    for environment, *_ in peers.PEERS.values():
        folder = peers.JOBS / environment
        assert (folder / "job.py").is_file()
        if environment != "fraudstream":
            lines = (folder / "requirements.txt").read_text().splitlines()
            pins = [line for line in lines if line and not line.startswith("#")]
            assert all("==" in pin for pin in pins), environment
    jars = parse_lock((peers.JOBS / "spark" / "jars.lock").read_text())["spark"]
    assert any(jar.parts[1] == "spark-sql-kafka-0-10_2.12" for jar in jars)


def test_the_event_time_of_a_live_load_is_when_it_is_due() -> None:
    load = live_load(rate=1_000.0, seconds=0.05, seed=3)
    items = list(load.items())
    assert len(items) == len(load) == 50
    rules = RecordRules("EUR", 2, 0)
    times = []
    for number, (due, key, value) in enumerate(items):
        assert due == number / 1_000
        assert orjson.loads(value)["event_time"].endswith("+00:00")
        times.append(parse_transaction(value, key, 2**50, rules).event_time_ms)
    assert times == sorted(times)
    assert times[-1] - times[0] in (48, 49, 50)
    assert abs(load.ended_at * 1000 - times[-1]) <= 1.5
    assert len(load.behind) == 50
    assert load.behind_ms()["p50"] <= load.behind_ms()["p99"] <= load.behind_ms()["max"]
