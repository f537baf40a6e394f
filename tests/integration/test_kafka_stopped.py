"""Kafka that is there and does not answer: what a worker says of itself meanwhile, and how it stops."""

import os
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.real_servers import Servers
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

#: What Faust or aiokafka writes about themselves.
TRACES = ("Traceback", "[ERROR]", "[CRITICAL]")


def metrics_of(text: str) -> dict[str, list[float]]:
    """Values by name, whatever their labels."""
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, []).append(one.value)
    return found


def test_it_is_not_ready_and_stops_in_time(
    stack: Servers, settings: Settings, tmp_path: Path
) -> None:
    running = stack.require_local().running("kafka")
    assert running
    kafka = running.pid
    deployment = Deployment(settings)
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        worker = fleet["a"]
        deployment.send(
            Send(tx_bytes(n, card=f"c{n % 5}", at=n), b"c%d" % (n % 5)) for n in range(40)
        )
        deployment.drain()
        started = worker.log.read_text()
        os.kill(kafka, signal.SIGSTOP)
        try:
            wait_until(lambda: worker.reasons() == ["Kafka does not answer"], "it to be not ready")
            with worker.ask("/metrics") as answer:
                values = metrics_of(answer.read().decode())
            assert values["fraudstream_ready"] == values["fraudstream_kafka_up"] == [0]
            os.kill(kafka, signal.SIGCONT)
            wait_until(lambda: worker.reasons() == [], "it to be ready again")
            deployment.send([Send(tx_bytes(50, card="c1", at=50), b"c1")])
            deployment.drain()
            os.kill(kafka, signal.SIGSTOP)
            wait_until(lambda: worker.reasons() == ["Kafka does not answer"], "it to be not ready")
            fleet.terminate("a")
        finally:
            os.kill(kafka, signal.SIGCONT)
        print(worker.log.read_text())
        assert worker.exit_code() == 0
        said = worker.log.read_text().removeprefix(started).splitlines()
        assert [line for line in said if line.startswith("fraudstream: ")] == [said[-1]]
        assert "without an answer from Kafka" in said[-1]
        assert not [line for line in said if any(trace in line for trace in TRACES)]
        assert not [line for line in started.splitlines() if "[ERROR]" in line]
        fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        assert deployment.verify()["rows"] == 41
