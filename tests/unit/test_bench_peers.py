"""Designs that are compared: their protocol, what is skipped and why, and the load they get."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from app.devstack.jar_lock import parse_lock
from app.devstack.java import Java
from app.errors import UnavailableError
from app.lab.bench import flink, peer_designs
from app.lab.bench.exported_model import exported_model
from app.lab.bench.latency import live_load
from app.lab.bench.peer_process import Peer
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
    assert orjson.loads(Path(said["BENCH_MODEL_JSON"]).read_bytes())["kind"] == "forest"
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
    monkeypatch.setattr(peer_designs, "JOBS", tmp_path)
    said: list[str] = []
    designs, skipped = peer_designs.peer_designs(["quix", "ours-reduced"], said.append)
    assert [design.name for design in designs] == ["ours-reduced"]
    assert "from a checkout" in skipped["quix"]
    assert any("quix is skipped" in line for line in said)


@pytest.fixture
def flink_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job whose Java notes its arguments in `asked`, and refuses files that say so."""
    java = tmp_path / "java"
    java.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f"if grep -q wrong {tmp_path}/flink/src/Job.java; then\n"
        "  echo '1. ERROR in Job.java (at line 3)' >&2; exit 1\nfi\n"
    )
    java.chmod(0o755)
    monkeypatch.setattr(flink, "find_java", lambda: Java(java, "17.0.9", "a test"))
    jars = {"flink": [Path("/j/flink.jar")], "compiler": [Path("/j/ecj.jar")]}
    monkeypatch.setattr(flink, "ensure_jars", lambda *_: jars)
    monkeypatch.setattr(peer_designs, "JOBS", tmp_path)
    monkeypatch.setattr(peer_designs, "ENVIRONMENTS", tmp_path / "environments")
    (tmp_path / "flink" / "src").mkdir(parents=True)
    (tmp_path / "flink" / "jars.lock").write_text("# none\n")
    job = tmp_path / "flink" / "src" / "Job.java"
    job.write_text("class Job {}")
    return job


def test_flinks_job_is_compiled_when_it_has_changed(flink_job: Path, tmp_path: Path) -> None:
    for count in (1, 1):
        ((design,), skipped) = peer_designs.peer_designs(["flink"], lambda _: None)
        assert not skipped
        classes = tmp_path / "environments" / "flink"
        assert design.command[-3:] == ("-cp", f"{classes}:/j/flink.jar", "FlinkJob")
        asked = (tmp_path / "asked").read_text().splitlines()
        assert len(asked) == count
        assert asked[0].startswith("-cp /j/ecj.jar org.eclipse.jdt.")
        assert asked[0].endswith(f"-cp /j/flink.jar -d {classes} {flink_job}")
    flink_job.write_text("class Job { }")
    peer_designs.peer_designs(["flink"], lambda _: None)
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


def test_flink_is_skipped_with_the_reason(
    flink_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flink_job.write_text("wrong")
    for _ in range(2):  # what failed is not taken for compiled
        designs, skipped = peer_designs.peer_designs(["flink"], lambda _: None)
        assert not designs
        assert skipped["flink"].endswith("does not compile: 1. ERROR in Job.java (at line 3)")

    def no_network(*_: Any) -> None:
        msg = "cannot download flink-runtime"
        raise UnavailableError(msg)

    monkeypatch.setattr(flink, "ensure_jars", no_network)
    assert peer_designs.peer_designs(["flink"], lambda _: None)[1] == {
        "flink": "cannot download flink-runtime"
    }
    monkeypatch.setattr(peer_designs, "JOBS", tmp_path / "installed")
    assert "from a checkout" in peer_designs.peer_designs(["flink"], lambda _: None)[1]["flink"]


def score_by_hand(numbers: dict[str, Any], row: list[float]) -> float:
    """What `exported_model` says that a score is."""
    if numbers["kind"] == "logistic":
        parts = zip(numbers["weights"], row, numbers["mean"], numbers["scale"], strict=True)
        total = numbers["intercept"] + sum(w * (x - mean) / scale for w, x, mean, scale in parts)
        return 1 / (1 + math.exp(-total))
    values = []
    for tree in numbers["trees"]:
        at = 0
        while tree["left"][at] >= 0:
            left = np.float32(row[tree["feature"][at]]) <= tree["threshold"][at]
            at = tree["left" if left else "right"][at]
        values.append(tree["value"][at])
    return sum(values) / len(values)


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(7, max_depth=4, random_state=1),
    ],
    ids=["logistic", "forest"],
)
def test_an_exported_model_scores_like_the_model(model: Any) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 5)) * (1, 10, 100, 1000, 1e6)
    model.fit(rows, rows[:, 0] + rows[:, 4] / 1e6 > 0.5)
    numbers = orjson.loads(orjson.dumps(exported_model(model)))
    found = [score_by_hand(numbers, row) for row in rows.tolist()]
    assert found == pytest.approx(model.predict_proba(rows)[:, 1], rel=1e-9, abs=1e-12)


def test_other_models_are_not_exported() -> None:
    assert exported_model(GradientBoostingClassifier()) is None
    assert exported_model(make_pipeline(StandardScaler(), RandomForestClassifier())) is None


def test_a_failed_installation_tells_pips_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_designs, "JOBS", tmp_path)
    monkeypatch.setattr(peer_designs, "ENVIRONMENTS", tmp_path / "environments")

    def run(*command: Any) -> None:
        if "pip" in command:
            msg = "ERROR: no matching distribution"
            raise UnavailableError(msg)

    monkeypatch.setattr(peer_designs, "_run", run)
    (tmp_path / "quix").mkdir()
    (tmp_path / "quix" / "requirements.txt").write_text("x==1\n")
    with pytest.raises(UnavailableError, match="no matching"):
        peer_designs.installed("quix", lambda _: None)
    assert not (tmp_path / "environments" / "quix" / "requirements.sha256").exists()


def test_every_peer_has_a_job_and_pinned_requirements() -> None:
    for environment, *_ in peer_designs.PEERS.values():
        folder = peer_designs.JOBS / environment
        if environment == "flink":
            continue
        assert (folder / "job.py").is_file()
        if environment != "fraudstream":
            lines = (folder / "requirements.txt").read_text().splitlines()
            pins = [line for line in lines if line and not line.startswith("#")]
            assert all("==" in pin for pin in pins), environment
    jars = parse_lock((peer_designs.JOBS / "spark" / "jars.lock").read_text())["spark"]
    assert any(jar.parts[1] == "spark-sql-kafka-0-10_2.12" for jar in jars)
    lock = parse_lock((peer_designs.JOBS / "flink" / "jars.lock").read_text())
    assert any(jar.parts[1] == "flink-connector-kafka" for jar in lock["flink"])
    assert [jar.parts[1] for jar in lock["compiler"]] == ["ecj"]
    assert (peer_designs.JOBS / "flink" / "src" / "FlinkJob.java").is_file()


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
