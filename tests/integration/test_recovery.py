"""What a worker survives, and what it refuses to start on."""

import signal
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from app.errors import SchemaError
from app.kafka.clients import admin
from app.kafka.topic_admin import check_topics, ensure_topics
from app.settings import Settings
from app.topics import Topics
from tests import deaf_worker
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet, prompt_seconds
from tests.real_servers import Servers
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

MINUTE = 60_000


def transactions(first: int, count: int) -> list[Send]:
    """Ten cards in turn, a minute between two transactions."""
    return [
        Send(
            tx_bytes(number, card=f"c{number % 10}", terminal=f"t{number % 3}", at=number * MINUTE),
            f"c{number % 10}".encode(),
        )
        for number in range(first, first + count)
    ]


def test_a_lost_disk_is_rebuilt(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"session_timeout": 6_000})
    deployment = Deployment(settings)
    deployment.prepare()

    def shown() -> dict[tuple[str, str], str]:
        found = {}
        for kind, name in (("card", "c1"), ("card", "c7"), ("terminal", "t2")):
            done = deployment.run(kind, name, "--json", "--url", fleet["a"].url)
            assert done.returncode == 0, done.stderr
            found[kind, name] = done.stdout
        return found

    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        deployment.send(transactions(0, 150))
        fleet.await_ready()
        deployment.drain()
        before = shown()
        assert '"entries":15,' in before["card", "c1"].replace(" ", "")
        fleet.kill("a")
        fleet.wipe("a")
        fleet.start("a")
        fleet.await_ready()
        assert shown() == before
        assert fleet.terminate("a") < prompt_seconds()

    # a state that was built with other settings is not gone on with, and not harmed: also an idle one
    other = environ_of(settings) | {"FRAUDSTREAM_ALLOWED_LATENESS": "2d"}
    with Fleet(other, tmp_path / "other") as fleet:
        fleet.start("a")
        wait_until(lambda: bool(fleet.failures), "the worker to refuse")
        (said,) = fleet.failures
        assert "ready: partitions" not in fleet["a"].log.read_text()
    assert "ended with exit code 2" in said
    assert "was built with look-back 3" in said
    assert "(and FRAUDSTREAM_MODEL=default@1)" in said
    assert "FRAUDSTREAM_APP_ID" in said
    deployment.send(transactions(150, 10))
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        assert deployment.verify()["scored"] == 160

    # another app builds a state of its own, also in that folder
    anew = Deployment(settings.model_copy(update={"app_id": f"{settings.app_id}-anew"}))
    anew.prepare()
    with Fleet(environ_of(anew.settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        assert (
            f"was that of {settings.topic_prefix}{settings.app_id} on cluster "
            in fleet["a"].log.read_text()
        )
        anew.drain()
        assert len(anew.records(anew.topics.predictions)) == 320


@pytest.mark.own_keyspace
def test_it_says_what_is_missing_and_what_does_not_fit(settings: Settings) -> None:
    deployment = Deployment(settings)
    for command in ("topics", "migrate"):
        refused = deployment.run("worker")
        assert refused.returncode == 5, refused.stderr
        assert refused.stderr.rstrip().endswith(f"run `fraudstream {command}`")
        assert deployment.run(command).returncode == 0
    other = Deployment(settings.model_copy(update={"windows": (3_600_000, 7_200_000)}))
    refused = other.run("worker")
    assert refused.returncode not in (0, 70)
    assert refused.stderr.startswith("fraudstream: ")
    assert refused.stderr.count("\n") == 1


async def test_topics_that_were_there_before_are_compared(settings: Settings) -> None:
    topics = Topics(settings)
    theirs = NewTopic(
        topics.transactions.name,
        settings.partitions,
        1,
        topic_configs={"retention.ms": "604800000"},
    )
    async with admin(settings) as client:
        await client.create_topics([theirs])
    with pytest.raises(
        SchemaError, match="has message.timestamp.type=CreateTime: otherwise producers' clocks"
    ):
        await ensure_topics(settings, topics.all)
    allowed = settings.model_copy(update={"allow_topic_config": ("create-time",)})
    assert await ensure_topics(allowed, topics.all) == []
    with pytest.raises(SchemaError, match="FRAUDSTREAM_ALLOW_TOPIC_CONFIG=create-time"):
        await check_topics(settings, topics.all)
    assert await check_topics(allowed, topics.all) == {
        topics.transactions.name: "message.timestamp.type is CreateTime, but the settings require LogAppendTime; "
        "retention.ms is 604800000, but the settings require 7776000000"
    }


def test_cassandra_goes_and_comes_back(stack: Servers, settings: Settings, tmp_path: Path) -> None:
    servers = stack.require_local()
    settings = settings.model_copy(update={"session_timeout": 6_000})
    deployment = Deployment(settings)
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:

        def waits(name: str) -> bool:
            said = fleet[name].reasons() or []
            return any(reason.startswith("predictions wait for Cassandra: ") for reason in said)

        def scored() -> int:
            return deployment.count(deployment.topics.predictions)

        fleet.start("a")
        fleet.await_ready()
        deployment.send(transactions(0, 50))
        deployment.drain()

        # killed: scoring goes on, and partitions move to a worker that starts meanwhile
        servers.stop("cassandra", kill=True)
        try:
            deployment.send(transactions(50, 50))
            wait_until(lambda: waits("a"), "the worker to say that predictions wait")
            fleet.start("b")
            wait_until(lambda: waits("b"), "the new worker to have some that wait")
            deployment.send(transactions(100, 50))
            wait_until(lambda: scored() >= 150, "scoring to go on without Cassandra")
        finally:
            servers.start("cassandra")
        deployment.drain()
        fleet.await_ready()

        # frozen: it accepts connections and answers nothing
        running = servers.running("cassandra")
        assert running is not None
        running.process.send_signal(signal.SIGSTOP)
        try:
            deployment.send(transactions(150, 50))
            wait_until(lambda: scored() >= 200, "scoring to go on while Cassandra is frozen")
            assert fleet.terminate("a") < prompt_seconds()
            wait_until(lambda: waits("b"), "the worker to say that predictions wait")
        finally:
            running.process.send_signal(signal.SIGCONT)
        report = deployment.verify()
        fleet.await_ready()
        assert not fleet.restarts
    assert report["scored"] == report["rows"] == 200


def test_kafka_does_not_answer_while_partitions_start_and_recover(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    deaf = tmp_path / "deaf"
    environ = environ_of(settings) | {deaf_worker.WHILE: str(deaf)}
    with Fleet(environ, tmp_path, module=deaf_worker.__name__) as fleet:

        def says(what: str) -> bool:
            return what in fleet["a"].log.read_text()

        # tables are recovered, and then each partition asks where its log ends
        deaf.write_text(deployment.topics.enriched.name)
        fleet.start("a")
        wait_until(lambda: says("waits for Kafka, which does not answer"), "a partition to wait")
        assert fleet["a"].reasons() != []
        deaf.unlink()
        fleet.await_ready()
        deployment.send(transactions(0, 50))
        deployment.drain()

        # another worker comes, and what is left to this one has to be recovered
        deaf.touch()
        fleet.start("b", environ={deaf_worker.WHILE: str(tmp_path / "never")})
        wait_until(lambda: says("Kafka does not answer while tables recover"), "recovery to wait")
        deaf.unlink()
        deployment.send(transactions(50, 50))
        deployment.drain()
        fleet.await_ready()
        assert not fleet.restarts
        assert fleet.waits == 0
        assert deployment.verify()["scored"] == 100


def test_a_worker_that_fetches_nothing_ends_and_is_started_again(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    still = tmp_path / "still"
    environ = environ_of(settings) | {deaf_worker.STILL: str(still)}
    with Fleet(environ, tmp_path, module=deaf_worker.__name__) as fleet:

        def has_ended(times: int) -> None:
            wait_until(lambda: len(fleet.restarts) >= times, "the worker to end")
            still.unlink()
            assert "nothing was fetched for" in fleet.restarts[-1]
            assert "_fetch_requests_routine" in fleet["a"].log.read_text()

        fleet.start("a")
        fleet.await_ready()
        deployment.send(transactions(0, 50))
        deployment.drain()
        still.touch()
        deployment.send(transactions(50, 50))
        has_ended(1)
        deployment.drain()

        # while its tables recover
        fleet.kill("a")
        fleet.wipe("a")
        still.touch()
        fleet.start("a")
        has_ended(2)
        assert "-changelog/" in fleet.restarts[-1]
        fleet.await_ready()
        deployment.send(transactions(100, 50))
        deployment.drain()
        assert deployment.verify()["scored"] == 150
