"""Three brokers and three nodes, as `fraudstream up --brokers 3 --nodes 3` starts them: a broker that has lost its disk
is filled again, and the stream continues without one broker and one node.

`make crash BROKERS=3 NODES=3` does more of this for longer. Here the servers are started once, for one test.
"""

import asyncio
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import NewTopic
from aiokafka.structs import TopicPartition

from app.blocks.faust.committed_offsets import _see
from app.cassandra.session import connected
from app.devstack.cluster import Cluster, cluster_of
from app.devstack.servers import SERVERS
from app.kafka.clients import admin, client_kwargs
from app.kafka.topic_admin import check_topics
from app.settings import Settings
from app.start_checks import check_start
from tests.builders import tx_bytes
from tests.crash.feed import Feed
from tests.crash.run import replicated
from tests.crash.several import begin_again, out_of_sync
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.real_servers import servers_folder
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

NUMBERS = (1, 2, 3)
#: The broker that loses its disk, and the broker and node that are away afterwards.
EMPTY, AWAY = 2, 1


# it took 17 minutes at twenty times the capacity of two cores
@pytest.mark.timeout(2_400)
def test_the_stream_outlives_a_broker_and_a_node(no_settings: None, tmp_path: Path) -> None:
    del no_settings
    with servers_folder("fraudstream-three-") as folder:
        settings = settings_of(folder / "home")
        deployment = Deployment(settings)
        with started(deployment) as cluster:
            deployment.prepare()
            has_three_replicas(settings)
            with Fleet(environ_of(settings), tmp_path) as fleet:
                fleet.start("a")
                is_scored_and_read(deployment, "all-there")
                feed = Feed(settings, seed=3, events=20_000, say=print, transactional=False)
                feed.rate = 40.0
                feed.start()
                try:
                    a_broker_loses_its_disk(cluster, deployment, feed)
                    a_broker_and_a_node_are_away(cluster, deployment, feed)
                finally:
                    feed.give_up()
                    feed.join()
                assert feed.error is None
                deployment.drain()
                report = deployment.verify()
                assert report["read"] > 500
                assert fleet.failures == []
                fleet.terminate("a")
            commands_know_them_all(deployment)


def settings_of(home: Path) -> Settings:
    """Of a deployment that finds the servers in its home."""
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        home=home,
        web_port=0,
        session_timeout=6_000,
        partitions=4,
        features=("basic",),
        model="default@1",
    )
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        **{**settings.model_dump(include=settings.model_fields_set), **replicated(3, 3)},
    )


@contextmanager
def started(deployment: Deployment) -> Iterator[Cluster]:
    """The six servers, on free ports; wiped at the end."""
    home = deployment.settings.home
    # as the command does, but each with half the processor time of a start
    cluster = Cluster(home, 3, 3, free_ports=True, quick=True, durable=True)
    try:
        cluster.up(tuple(SERVERS))
        up = deployment.run("up", "--brokers", "3", "--nodes", "3", "--json", timeout=600)
        assert up.returncode == 0, up.stderr
        assert up.stderr.count("is already up at") == 6
        assert "FRAUDSTREAM_REPLICATION=3 FRAUDSTREAM_MIN_INSYNC=2" in up.stderr
        assert json.loads(up.stdout) == {name: cluster.addresses(name) for name in SERVERS}
        yield cluster
    finally:
        cluster.wipe()


def has_three_replicas(settings: Settings) -> None:
    """Each topic and the keyspace; reads and writes need two of them."""
    topics = Deployment(settings).topics.all

    async def found() -> list[Any]:
        assert await check_topics(settings, topics) == {}, "min.insync.replicas among others"
        async with admin(settings) as client:
            return list(await client.describe_topics([topic.name for topic in topics]))

    for topic in asyncio.run(found()):
        for one in topic["partitions"]:
            assert sorted(one["replicas"]) == [*NUMBERS], topic["topic"]
    with connected(settings) as session:
        keyspace = session.cluster.metadata.keyspaces[settings.keyspace]
        assert keyspace.replication_strategy.export_for_schema().endswith("'datacenter1': '3'}")
    assert settings.cassandra_consistency == "LOCAL_QUORUM"


def is_scored_and_read(deployment: Deployment, number: str) -> None:
    """A transaction goes through the worker; its row is read."""
    deployment.send([Send(tx_bytes(number, card="c-one"), b"c-one")])

    def read() -> bool:
        done = deployment.run("transaction", f"tx-{number}", "--json")
        return done.returncode == 0 and json.loads(done.stdout)["card_id"] == "c-one"

    wait_until(read, f"the row of tx-{number}")


def a_broker_loses_its_disk(cluster: Cluster, deployment: Deployment, feed: Feed) -> None:
    """It is killed, its folder is emptied, and it gets everything from the others while the stream runs."""
    stack = cluster.stacks["kafka", EMPTY]
    wait_until(lambda: feed.sent > 200, "some records")
    stack.stop("kafka", kill=True)
    before = feed.sent
    begin_again(stack, "kafka")
    wait_until(lambda: asyncio.run(out_of_sync(deployment.settings)) == "", "all are in sync")
    assert feed.sent > before
    wait_until(lambda: not differing(cluster, deployment), "its logs equal those of another broker")


def differing(cluster: Cluster, deployment: Deployment) -> list[str]:
    """Partitions whose records on the broker that lost its disk are not those of another one, byte by byte.

    Records arrive meanwhile: the one may have some more than the other.
    """
    topics = deployment.topics
    found = []
    for topic in (topics.transactions, topics.enriched, topics.predictions):
        total = 0
        for number in range(deployment.settings.partitions):
            name = f"{topic.name}-{number}"
            ours, theirs = (log_bytes(cluster, broker, name) for broker in (EMPTY, 3))
            length = min(len(ours), len(theirs))
            total += length
            if ours[:length] != theirs[:length]:
                found.append(name)
        if total == 0:
            found.append(topic.name)
    return found


def log_bytes(cluster: Cluster, broker: int, partition: str) -> bytes:
    folder = SERVERS["kafka"].folder(cluster.stacks["kafka", broker].home) / "data" / partition
    return b"".join(one.read_bytes() for one in sorted(folder.glob("*.log")))


def a_broker_and_a_node_are_away(cluster: Cluster, deployment: Deployment, feed: Feed) -> None:
    """The broker that was filled again is needed now: two replicas must be in sync."""
    single = f"single-{uuid.uuid4().hex[:8]}"
    ends = LogEnds(deployment.settings, single)
    with asyncio.Runner() as runner:
        runner.run(ends.make())
        assert runner.run(ends.read()) == [0, 0, 0]
        for server in SERVERS:
            cluster.stacks[server, AWAY].stop(server, kill=True)
        before = feed.sent
        # for some seconds it is still advertised: one start in three asked it first, and ended
        for _ in range(5):
            runner.run(check_start(deployment.settings, deployment.topics))
        # while one partition has no leader, the others still report their ends
        assert runner.run(ends.read()) == [None, 0, 0]
        is_scored_and_read(deployment, "one-away")
        wait_until(lambda: feed.sent > before + 200, "more records")
        deployment.drain()
        assert runner.run(ends.read()) == [None, 0, 0]
        shown = status(deployment, 3)
        for title in ("Kafka", "Cassandra"):
            states = [shown[f"{title} {number}"] for number in NUMBERS]
            assert states == ["stopped", "running", "running"]
        again = deployment.run("up", timeout=600)
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("is already up at") == 4
        wait_until(lambda: runner.run(ends.read()) == [0, 0, 0], "the first one has a leader again")
        runner.run(ends.close())


class LogEnds:
    """The ends of a topic's partitions, as event-time alignment reads them; each has one replica, on another broker."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic

    async def make(self) -> None:
        """Make the topic, and a consumer of a group."""
        places = {number - 1: [number] for number in NUMBERS}
        async with admin(self._settings) as client:
            await client.create_topics([NewTopic(self._topic, -1, -1, replica_assignments=places)])
        self._consumer = AIOKafkaConsumer(
            self._topic, **client_kwargs(self._settings), group_id=self._topic
        )
        await self._consumer.start()

    async def read(self) -> list[int | None]:
        """By partition; None: it is not reported."""
        tps = [TopicPartition(self._topic, number) for number in range(3)]
        seen = await _see(self._consumer, tps)
        return [seen[tp].end for tp in tps]

    async def close(self) -> None:
        await self._consumer.stop()


def status(deployment: Deployment, code: int) -> dict[str, str]:
    """State of each server, as `fraudstream status` prints it."""
    done = deployment.run("status")
    assert done.returncode == code, done.stderr
    words = [line.partition(",")[0].split() for line in done.stdout.splitlines()]
    return {f"{title} {number}": state for title, number, state, *_ in words}


def commands_know_them_all(deployment: Deployment) -> None:
    """They print each of the six; `down` keeps data, `wipe` deletes it."""
    each = {f"{title} {number}" for title in ("Kafka", "Cassandra") for number in NUMBERS}
    assert status(deployment, 0) == dict.fromkeys(each, "running")
    down = deployment.run("down")
    assert down.returncode == 0, down.stderr
    stopped = down.stdout.splitlines()[-1]
    assert set(stopped.removeprefix("Stopped: ").partition(".")[0].split(", ")) == each
    assert status(deployment, 3) == dict.fromkeys(each, "stopped")
    home = deployment.settings.home
    assert (home / "brokers" / "3").is_dir()
    wiped = deployment.run("wipe", "--yes")
    assert wiped.returncode == 0, wiped.stderr
    assert f"Deleted {home / 'brokers'}" in wiped.stdout
    assert f"Deleted {home / 'nodes'}" in wiped.stdout
    assert not (home / "brokers").exists()
    assert not (home / "nodes").exists()
    assert cluster_of(home) is None
