"""`fraudstream bench` on real servers: every figure is there, runs verify, nothing is left. No time is asserted."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.cassandra.session import connected
from app.errors import UnavailableError
from app.kafka.clients import admin
from app.kafka.topic_admin import log_ends
from app.lab.bench.latency import live_load
from app.lab.bench.takeover import Load
from app.settings import Settings
from tests.deployment import Deployment, wait_until
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration


async def topics(settings: Settings) -> set[str]:
    async with admin(settings) as client:
        return {name for name in await client.list_topics() if "bench_" in name}


def test_a_quick_bench(settings: Settings, tmp_path: Path) -> None:
    plot = tmp_path / "latency.svg"
    done = subprocess.run(
        [sys.executable, "-m", "app", "bench", "--quick", "--events", "4000", "--naive-events", "300",
         "--rates", "200", "--peers", "ours-reduced", "--plot", str(plot), "--json"],
        env=environ_of(settings), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert next(iter(found)) == "ratio_to_naive"
    assert found["ratio_to_naive"] > 0
    assert found["verified_runs"] == 2
    ours, naive, reduced = found["systems"]
    for system, events in ((ours, 4000), (naive, 300), (reduced, 6000)):
        assert system["runs"], done.stderr
        (run,) = system["runs"]
        assert run["events"] == events
        assert run["seconds"] > 0
        assert run["cpu_us"]["worker"] > 0
        assert run["memory_mib"]["worker"] > 0
    (load,) = ours["latency"]
    assert (load["rate"], load["events"]) == (200, 1000)
    marks = list(load["quantiles_ms"].values())
    assert marks == sorted(marks)
    assert load["behind_ms"]["max"] >= load["behind_ms"]["p50"] >= 0
    assert found["machine"]["load_1m_after"] is not None
    assert plot.read_text().count("<polyline") == 3

    assert asyncio.run(topics(settings)) == set()
    with connected(settings) as session:
        found = session.execute("SELECT keyspace_name FROM system_schema.keyspaces")
        names = [row["keyspace_name"] for row in found]
    assert not [name for name in names if name.startswith("bench_")]
    assert list((settings.home / "bench").iterdir()) == []


def test_a_bench_with_labels(settings: Settings) -> None:
    environ = environ_of(settings)
    environ |= {"FRAUDSTREAM_FEATURES": "engineered", "FRAUDSTREAM_MODEL": "engineered"}
    done = subprocess.run(
        [sys.executable, "-m", "app", "bench", "--quick", "--with-labels", "--events", "15000",
         "--naive-events", "0", "--rates", "", "--json"],
        env=environ, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verified_runs"] == 1
    (ours,) = found["systems"]
    assert "feature sets engineered; model engineered (logistic) without anomaly" in ours["work"]
    (run,) = ours["runs"]
    assert run["events"] == 15_000
    assert 0 < run["work"]["labels"] < 15_000, "those of the last day are not known yet"
    assert asyncio.run(topics(settings)) == set()


def test_a_load_ends_with_the_part_that_it_was_for(settings: Settings) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    events = 60_000

    def sent() -> int:
        return sum(asyncio.run(log_ends(settings, deployment.topics.transactions.name)).values())

    still = "a partition has made no progress"
    with (
        pytest.raises(UnavailableError, match=still),
        Load(settings, live_load(100, events / 100, seed=1)) as load,
    ):
        wait_until(lambda: sent() > 20, "the load to begin")
        raise UnavailableError(still)
    assert not load.is_alive()
    assert sent() < events
