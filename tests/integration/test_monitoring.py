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
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest

from app.cli.worker import free_port
from app.monitoring import export
from app.settings import Settings
from tests.integration.test_models_live import another_model
from tests.integration.test_web import Worker, caught_up, fraudstream, produce, wait_until
from tests.worker_settings import environ_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus (Debian's package) is not installed"
    ),
]
OPENER = build_opener(ProxyHandler({}))
#: Drift is measured on 1,000 predictions: all of a quiet stream are sampled, twenty per second of a longer one.
BURST, RATE = 4_000, 25
SIMULATE = ("simulate", "--to-kafka", "--cards", "300", "--terminals", "200")


class Prometheus:
    """A server of its own, in a folder of its own."""

    def __init__(self, folder: Path, target: str) -> None:
        export(folder)
        config = (folder / "prometheus.yml").read_text()
        config = config.replace("127.0.0.1:6066", target).replace("15s", "1s")
        (folder / "prometheus.yml").write_text(config)
        self.port = free_port("127.0.0.1")
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{self.port}"],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def get(self, path: str, **arguments: str) -> Any:
        """The data of an answer; None while it does not answer."""
        try:
            url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(arguments)}"
            with OPENER.open(url, timeout=20) as reply:
                return json.loads(reply.read())["data"]
        except OSError:
            return None

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        data = self.get("alerts") or {"alerts": []}
        return {one["labels"]["alertname"] for one in data["alerts"] if one["state"] == "firing"}

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


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
    prometheus = Prometheus(folder, f"127.0.0.1:{worker.port}")
    try:
        await asyncio.to_thread(
            wait_until, lambda: bool((prometheus.get("query", query="up") or {}).get("result")), 120
        )
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
            missing = {
                query
                for query in missing
                if not (prometheus.get("query", query=query) or {"result": []})["result"]
            }
        assert missing == set()
        assert prometheus.firing() == set()
        rules = prometheus.get("rules")["groups"]
        unhealthy = [rule for group in rules for rule in group["rules"] if rule["health"] == "err"]
        assert unhealthy == []
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
