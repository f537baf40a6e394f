"""A real Prometheus with the exported rules, scraping a real worker: every panel of the dashboard has data."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.monitoring import export
from app.settings import Settings
from tests.integration.test_models_live import another_model
from tests.integration.test_web import Worker, caught_up, fraudstream, produce, wait_until
from tests.prometheus_server import Prometheus
from tests.worker_settings import environ_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus (Debian's package) is not installed"
    ),
]
#: Drift is measured on 1,000 predictions: all of a quiet stream are sampled, twenty per second of a longer one.
BURST, RATE = 4_000, 25
SIMULATE = ("simulate", "--to-kafka", "--cards", "300", "--terminals", "200")


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[Worker]:
    for command in ("topics", "migrate"):
        assert fraudstream(settings, command).returncode == 0
    one = Worker(settings, tmp_path)
    yield one
    one.stop()


def queries(folder: Path) -> set[str]:
    dashboard = json.loads((folder / "dashboard.json").read_text())
    return {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}


async def test_every_panel_has_data_and_an_alert_fires_when_the_worker_is_gone(
    settings: Settings, worker: Worker, tmp_path: Path
) -> None:
    folder, feed = tmp_path / "prometheus", None
    await produce(settings)
    await asyncio.to_thread(wait_until, lambda: caught_up([worker]), 120)
    another_model(settings)
    for command in ("register", "shadow"):
        done = await asyncio.to_thread(fraudstream, settings, "models", command, "other@1")
        assert done.returncode == 0, done.stderr
    prometheus = Prometheus(folder, [f"127.0.0.1:{worker.port}"])
    try:
        await asyncio.to_thread(wait_until, lambda: bool(prometheus.query("up")), 120)
        done = await asyncio.to_thread(fraudstream, settings, *SIMULATE, "--count", f"{BURST}")
        assert done.returncode == 0, done.stderr
        # something must happen while it looks
        words = [*SIMULATE, "--count", f"{180 * RATE}", "--rate", f"{RATE}", "--run", "slow"]
        feed = await asyncio.to_thread(
            subprocess.Popen, [sys.executable, "-m", "app", *words], env=environ_of(settings)
        )
        missing = queries(folder)
        deadline = time.monotonic() + 180
        while missing and time.monotonic() < deadline:
            await asyncio.sleep(1)
            missing = {query for query in missing if not prometheus.query(query)}
        assert missing == set()
        assert prometheus.firing() == set()
        assert prometheus.broken_rules() == []
        worker.stop()
        await asyncio.to_thread(
            wait_until, lambda: "FraudstreamWorkerGone" in prometheus.firing(), 240
        )
        worker.start()  # the all-clear
        await asyncio.to_thread(
            wait_until, lambda: "FraudstreamWorkerGone" not in prometheus.firing(), 240
        )
    finally:
        prometheus.stop()
        if feed is not None:
            feed.kill()
            feed.wait()


def test_no_metric_of_the_rules_is_unknown_to_a_worker(worker: Worker, tmp_path: Path) -> None:
    # ready: what it says of its partitions and its model is there, too
    wait_until(lambda: worker.get("/health/ready")[0] == 200, 120)
    text = worker.get("/metrics", accept="text/plain")[2].decode()
    known = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    export(tmp_path / "rules")
    rules = (tmp_path / "rules" / "rules.yml").read_text()
    used = set(re.findall(r"\b(fraudstream_(?!notify_)[a-z_]+|process_[a-z_]+)\b", rules))
    for name in used:
        base = re.sub(r"_(total|bucket)$", "", name)
        assert {name, base, f"{base}_total"} & known, name
