"""Alerts of Prometheus fire by their faults, on real servers, stay silent before, and end with the fault.

The exported rules wait for minutes, hours and days. Here the durations of each rule are divided by a number
(`tests.prometheus_server.shorten`); its expression and its thresholds are the exported ones.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient

from app.kafka.clients import client_kwargs
from app.ops.reference import murmur2_partition
from app.settings import Settings
from tests.builders import tx
from tests.deployment import Deployment
from tests.fleet import Fleet
from tests.integration.test_models_live import harmful
from tests.prometheus_server import Prometheus, shorten
from tests.real_servers import Servers
from tests.tcp_proxy import TcpProxy
from tests.worker_settings import environ_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus (Debian's package) is not installed"
    ),
]

#: Longer than any alert waits that needs no fault of hours: half an hour divided by 60, and a window of 5 minutes.
QUIET_SECONDS = 40.0
#: For an alert to fire or to end: a bound against hangs.
PATIENCE_SECONDS = 120.0
#: Transactions per second: in a quiet stream, with faults, and while rows wait, so that more than 1,000 do.
QUIET, BUSY, GROWING = 20, 100, 200
MINUTE = 60_000
#: So many that few pay twice.
CARDS = 4_000
#: The card whose partition Kafka deletes before it is read.
LOST_CARD = "c0"
#: What a label has of its transaction.
LABELLED = ("transaction_id", "card_id", "terminal_id", "event_time")

#: What a fault raises as well. The synthetic payments are not what the model was trained on; drift is measured on
#: 1,000 predictions, more than a quiet run has. A worker that starts, or waits for Cassandra, is not ready.
ALSO = {
    "FraudstreamDrift", "FraudstreamNotReady", "FraudstreamSlow", "FraudstreamWritesRefused",
}  # fmt: skip


class Feed:
    """Payments of now with some faults among them, and labels.

    Attributes:
        rate: transactions per second.
        faults: what is wrong with some: `ahead`, `behind`, `conflicting` or `invalid`.
        labels: whether labels are sent.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.rate = QUIET
        self.faults: set[str] = set()
        self.labels = True
        self._deployment = deployment
        self._sent = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        producer = AIOKafkaProducer(**client_kwargs(self._deployment.settings))
        async with producer:
            due = time.monotonic()
            while True:
                for _ in range(self.rate // 10):
                    self._sent += 1
                    await self._send(producer, self._sent)
                due = max(due + 0.1, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def _send(self, producer: AIOKafkaProducer, number: int) -> None:
        topics, now = self._deployment.topics, time.time_ns() // 1_000_000
        good = payment(number, f"c{number % CARDS}", now, amount=5 + number * 7 % 23)
        sent = [good]
        if "ahead" in self.faults and number % 150 == 0:  # fewer than dead letters alert on
            sent.append(payment(number, "ahead", now + 60 * MINUTE))
        if "behind" in self.faults and number % 5 == 0:
            sent.append(payment(number, f"behind-{number % CARDS}", now - 10 * MINUTE))
        if "conflicting" in self.faults and number % 40 == 0:
            sent.append(payment("the-same", "conflicting", now))
        for one in sent:
            key, value = one["card_id"].encode(), orjson.dumps(one)
            await producer.send(topics.transactions.name, value, key=key)
        if "invalid" in self.faults and number % 20 == 0:
            await producer.send(topics.transactions.name, b"{bad", key=b"bad")
        if self.labels and number % 10 == 0:
            label = {name: good[name] for name in LABELLED} | {
                "is_fraud": False,
                "labelled_at": now,
            }
            await producer.send(topics.labels.name, orjson.dumps(label), key=b"%d" % number)


def payment(number: int | str, card: str, at_ms: int, amount: float = 5.0) -> dict[str, Any]:
    """A transaction at a time, epoch milliseconds."""
    return tx(f"{card}-{number}", card=card, event_time=at_ms, amount=amount)


class Watch:
    """Waits for alerts, and prints how long they took."""

    def __init__(self, prometheus: Prometheus) -> None:
        self.prometheus = prometheus
        self.took: dict[str, float] = {}

    async def fires(self, name: str, since: float) -> dict[str, str]:
        """Wait for an alert; its labels."""
        await self._until(lambda: name in self.prometheus.firing(), f"{name} fires")
        self.took[name] = time.monotonic() - since
        print(f"{name} after {self.took[name]:.0f} s")
        return next(one for one in self.prometheus.alerts() if one["alertname"] == name)

    async def ends(self, since: float, *names: str) -> None:
        """Wait until alerts are resolved."""
        for name in names:
            await self._until(lambda: name not in self.prometheus.firing(), f"{name} ends")  # noqa: B023
            print(f"{name} ended {time.monotonic() - since:.0f} s after its fault")

    async def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await asyncio.to_thread(done):
            assert time.monotonic() < deadline, f"not in time: {what}; {self.prometheus.alerts()}"
            await asyncio.sleep(0.5)


def delete_all_so_far(settings: Settings, topic: str, partition: int) -> None:
    """As Kafka's retention does."""
    admin = AdminClient({"bootstrap.servers": settings.broker})
    where = TopicPartition(topic, partition, OFFSET_END)
    for done in admin.delete_records([where], request_timeout=60).values():
        done.result()


async def command(deployment: Deployment, *arguments: str) -> None:
    done = await asyncio.to_thread(deployment.run, *arguments)
    assert done.returncode == 0, done.stderr


async def test_each_alert_fires_by_its_fault_and_ends_with_it(
    stack: Servers, settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    await asyncio.to_thread(deployment.prepare)
    harmful(settings, "inverted")
    await command(deployment, "models", "register", "inverted")
    feed = Feed(deployment)
    async with TcpProxy(*stack.endpoints.cassandra[0]) as proxy:
        far = settings.model_copy(update={"cassandra": f"127.0.0.1:{proxy.port}"})
        with Fleet(environ_of(far), tmp_path / "fleet") as fleet:
            fleet.start("a")
            await asyncio.to_thread(fleet.await_ready)
            target = fleet["a"].url.removeprefix("http://")
            async with feed.running():
                await asyncio.sleep(3)  # a stream that flows
                with Prometheus(tmp_path / "prometheus", [target], shorten) as prometheus:
                    watch = Watch(prometheus)
                    await quiet(prometheus)
                    await die_and_lose_records(watch, feed, fleet, deployment)
                    await spoil_the_stream(watch, feed, deployment)
                    await lose_cassandra(watch, feed, proxy)
                    assert set(watch.took) <= prometheus.fired() <= set(watch.took) | ALSO
                    assert prometheus.broken_rules() == []
                    print("also:", *prometheus.fired() - set(watch.took))
            assert fleet.restarts == []
            await asyncio.to_thread(fleet.terminate, "a")  # while its way to Cassandra is there


async def quiet(prometheus: Prometheus) -> None:
    """Nothing is wrong, and nothing fires."""
    await asyncio.sleep(QUIET_SECONDS)
    assert prometheus.query("up") != []
    assert prometheus.fired() == set()


async def die_and_lose_records(
    watch: Watch, feed: Feed, fleet: Fleet, deployment: Deployment
) -> None:
    """The worker is killed, and Kafka deletes what it has not read. From here on, no labels arrive."""
    settings, topic = deployment.settings, deployment.topics.transactions.name
    partition = murmur2_partition(LOST_CARD.encode(), settings.partitions)
    feed.labels = False
    began = time.monotonic()
    fleet.kill("a")
    await watch.fires("FraudstreamWorkerGone", began)
    await asyncio.to_thread(delete_all_so_far, settings, topic, partition)
    fleet.start("a")
    began_again = time.monotonic()
    lost = await watch.fires("FraudstreamRecordsLost", began_again)
    assert (lost["stage"], lost["partition"]) == ("cards", str(partition))
    await watch.ends(began_again, "FraudstreamWorkerGone")
    await asyncio.to_thread(fleet.await_ready)
    await watch.fires("FraudstreamLabelsStopped", began)  # although the worker has restarted


async def spoil_the_stream(watch: Watch, feed: Feed, deployment: Deployment) -> None:
    """Two producers whose clocks are wrong, one that repeats an id, and a model that calls good bad."""
    feed.rate, feed.faults = BUSY, {"ahead", "behind", "conflicting"}
    began = time.monotonic()
    await asyncio.sleep(6)  # the guard compares with what was before
    promoted = time.monotonic()
    await command(deployment, "models", "promote", "inverted", "--force")
    await watch.fires("FraudstreamConflictingIds", began)
    reverted = await watch.fires("FraudstreamGuardReverted", promoted)
    assert reverted["cause"] in ("more_alerts", "fewer_alerts")  # scores are upside down
    assert (await watch.fires("FraudstreamClockAhead", began))["stage"] == "cards"
    await watch.fires("FraudstreamClockBehind", began)
    assert "FraudstreamDeadLetters" not in watch.prometheus.fired()
    feed.rate, feed.faults = QUIET, set()
    await watch.ends(
        time.monotonic(), "FraudstreamClockAhead", "FraudstreamClockBehind", "FraudstreamConflictingIds",
        "FraudstreamGuardReverted", "FraudstreamRecordsLost",
    )  # fmt: skip


async def lose_cassandra(watch: Watch, feed: Feed, proxy: TcpProxy) -> None:
    """Cassandra goes away under load, while a producer sends what is no transaction; then all is well again."""
    feed.rate, feed.faults = GROWING, {"invalid"}
    proxy.cut(refuse=True)
    began = time.monotonic()
    await watch.fires("FraudstreamCassandraDown", began)
    await watch.fires("FraudstreamDeadLetters", began)
    behind = await watch.fires("FraudstreamLag", began)
    assert behind["stage"] in ("sink", "alerts")  # what writes to Cassandra
    feed.rate, feed.faults, feed.labels = QUIET, set(), True
    proxy.mend()
    await watch.ends(
        time.monotonic(), "FraudstreamCassandraDown", "FraudstreamLag", "FraudstreamDeadLetters",
        "FraudstreamLabelsStopped",
    )  # fmt: skip
