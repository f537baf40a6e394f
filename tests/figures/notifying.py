"""From the append of a transaction to its webhook, at 1,000/s of which 1 % raise alerts."""

import subprocess
import sys
import time
from collections.abc import Iterator

import orjson

from app.lab.bench.latency import live_load, offer
from tests.deployment import wait_until
from tests.figures.servers import Servers, quantiles
from tests.fleet import Fleet
from tests.integration.test_notify import SECRET, Receiver
from tests.worker_settings import environ_of

RATE, SECONDS, SHARE = 1_000.0, 120.0, 0.01


class Timed(Receiver):
    """Knows when each webhook came, milliseconds after the append of its transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.after_ms: dict[str, float] = {}

    def took(self, body: dict[str, object]) -> None:
        """A webhook came."""
        data = body["data"]
        assert isinstance(data, dict)
        name = str(data["transaction_id"])
        self.after_ms.setdefault(name, time.time() * 1000 - data["received_at"])


def measure(servers: Servers, part: float) -> Iterator[str]:
    """One line."""
    load = live_load(RATE, SECONDS * part, seed=1)
    amounts = sorted(row[3] for row in load._rows)
    limit = amounts[int(len(amounts) * (1 - SHARE))] / 100
    # a second's window: each alert is one of its own
    settings = {"threshold": 1.0, "default_rules": False, "alert_window": 1_000}
    with servers.deployment("notify", **settings) as (deployment, folder), Timed() as receiver:
        environ = environ_of(deployment.settings)
        secrets = {
            "FRAUDSTREAM_NOTIFY_ROUTES": f"hook=low:{receiver.url}",
            "FRAUDSTREAM_NOTIFY_SECRET": SECRET,
        }
        log = folder / "notify.log"
        with (
            Fleet(environ, folder / "fleet") as fleet,
            log.open("wb") as file,
            subprocess.Popen(
                [sys.executable, "-m", "app", "notify"],
                env=environ | secrets, stdout=file, stderr=file,
            ) as process,
        ):  # fmt: skip
            try:
                fleet.start("a")
                fleet.await_ready()
                rule = ("rules", "add", "large", f"amount > {limit}")
                # a worker may be ready before its model is on the control topic
                wait_until(lambda: not deployment.run(*rule).returncode, "the rule")
                wait_until(lambda: b"has partitions" in log.read_bytes(), "the notifier")
                offer(deployment.settings, load)
                deployment.drain()
                records = deployment.records(deployment.topics.alerts)
                # two of a card within a second are one
                alerts = len({orjson.loads(record.value)["alert_id"] for record in records})
                wait_until(lambda: len(receiver.taken) >= alerts, "the webhooks")
            finally:
                process.terminate()
    yield (
        f"transaction to webhook at {RATE:,.0f}/s, {alerts:,} alerts of {len(load):,}: "
        f"{quantiles(list(receiver.after_ms.values()))}"
    )
