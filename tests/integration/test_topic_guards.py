"""Topics that are deleted, created again, or given partitions: the worker stops, and the way out works."""

import asyncio
import re
import shlex
from pathlib import Path

import orjson
import pytest
from aiokafka.admin import NewPartitions

from app.kafka.clients import admin
from app.kafka.partitioner import partition_of
from app.kafka.topic_admin import ensure_topics
from app.settings import Settings
from app.topics import TopicSpec
from tests.builders import tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

MINUTE = 60_000


def transactions(first: int, count: int, partitions: int = 4) -> list[Send]:
    place = partition_of(partitions)
    cards = [f"c{number % 40}".encode() for number in range(first, first + count)]
    return [
        Send(tx_bytes(number, card=card.decode(), at=number * MINUTE), card, place(card))
        for number, card in enumerate(cards, first)
    ]


async def recreate(settings: Settings, spec: TopicSpec) -> None:
    async with admin(settings) as client:
        await client.delete_topics([spec.name])
        while spec.name in await client.list_topics():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        while await ensure_topics(settings, [spec]) != [spec.name]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def grow(settings: Settings, name: str, partitions: int) -> None:
    async with admin(settings) as client:
        await client.create_partitions({name: NewPartitions(partitions)})


def refused(fleet: Fleet, code: int) -> str:
    """The line with which a worker ended."""
    wait_until(lambda: bool(fleet.failures), "the worker to refuse")
    (said,) = fleet.failures
    fleet.failures.clear()
    assert f"ended with exit code {code}:" in said
    return said


def way_out(said: str, settings: Settings) -> Deployment:
    """Run the command that the line names; returns the deployment to which it leads."""
    found = re.search(r"run `((?:FRAUDSTREAM_\w+=\S+ )+)fraudstream (topics[^`]*)`", said)
    assert found is not None, said
    given = dict(word.split("=", 1) for word in shlex.split(found[1]))
    changes = {name.removeprefix("FRAUDSTREAM_").lower(): value for name, value in given.items()}
    for name, value in given.items():
        assert f"{name}={value}" in said[found.end() :], "the workers need the same"
    if "partitions" in changes:
        changes["partitions"] = int(changes["partitions"])  # type: ignore[assignment]
    follower = Deployment(settings.model_copy(update=changes))
    done = follower.run(*shlex.split(found[2]))
    assert done.returncode == 0, done.stderr
    return follower


def scored(deployment: Deployment) -> set[str]:
    """Ids of transactions with a prediction."""
    records = deployment.records(deployment.topics.predictions)
    return {orjson.loads(record.value)["transaction_id"] for record in records}


def test_a_topic_that_was_created_again_is_refused_shorter_or_longer(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.send(transactions(0, 200))
        deployment.drain()
        fleet.terminate("a")
        asyncio.run(recreate(settings, deployment.topics.transactions))
        sent: set[str] = set()
        for turn, count in enumerate((20, 400)):  # shorter than the state, then longer
            deployment.send(transactions(1000 + len(sent), count))
            sent |= {f"tx-{1000 + len(sent) + number}" for number in range(count)}
            if turn:
                fleet.wipe("a")  # what is known of topics is in the changelog, too
            fleet.start("a")
            said = refused(fleet, 5)
            assert f"{deployment.topics.transactions.name} was deleted and created again" in said
        assert "ready: partitions" not in fleet["a"].log.read_text().split("worker stopped")[1]
    assert not sent & scored(deployment)

    follower = way_out(said, settings)
    with Fleet(environ_of(follower.settings), tmp_path / "2") as fleet:
        fleet.start("a")
        fleet.await_ready()
        follower.drain()
        assert fleet.restarts == []
        assert sent <= scored(follower)
        assert sent <= {row[0] for row in follower.rows("transaction_id")}
        fleet.terminate("a")


def test_changelogs_that_were_lost_are_refused_while_and_before_a_worker_runs(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    topics = deployment.topics
    changelogs = (topics.cards_changelog, topics.terminals_changelog, topics.labels_changelog)
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.send(transactions(0, 100))
        deployment.drain()
        for spec in changelogs:
            asyncio.run(recreate(settings, spec))
        deployment.send(
            transactions(100, 20)
        )  # the worker writes into a changelog that it does not know
        wait_until(lambda: bool(fleet.failures), "the worker to refuse")
        assert "-changelog was deleted and created again" in refused(fleet, 5).replace(
            "were", "was"
        )
        fleet.restarts.clear()  # it may have stopped because of what it wrote there
        stores = {path for path in fleet["a"].datadir.rglob("*.db") if path.is_dir()}
        assert stores
        for lost in (False, True):  # with its state folder, and without one
            if lost:
                fleet.wipe("a")
            fleet.start("a")
            said = refused(fleet, 5)
            assert re.search(r"-changelog (was|were) deleted and created again", said), said
            assert "the state cannot be rebuilt from it" in said
            if not lost:
                assert all(path.exists() for path in stores), "they are all that is left"
        assert not fleet.restarts

    follower = way_out(said, settings)
    with Fleet(environ_of(follower.settings), tmp_path / "2") as fleet:
        fleet.start("a")
        fleet.await_ready()
        follower.drain()
        assert fleet.restarts == []
        assert follower.verify()["scored"] == 120
        fleet.terminate("a")


def test_a_lost_changelog_of_parked_labels_is_refused(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    topics = deployment.topics
    # of an unknown transaction: only the changelog has it
    label = Send(b'{"transaction_id": "x", "is_fraud": true}', b"x")
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.send([label], topics.labels)
        deployment.drain()
        fleet.terminate("a")
        asyncio.run(recreate(settings, topics.labels_changelog))
        for lost in (False, True):  # with its state folder, and without one
            if lost:
                fleet.wipe("a")
            fleet.start("a")
            said = refused(fleet, 5)
            assert f"topic {topics.labels_changelog.name} was deleted and created again" in said
            assert "the state cannot be rebuilt from it" in said


def test_partitions_that_are_added_stop_the_worker_with_a_command_that_helps(
    settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.send(transactions(0, 100))
        deployment.drain()
        asyncio.run(grow(settings, deployment.topics.transactions.name, 6))
        said = refused(fleet, 5)
        assert f"{deployment.topics.transactions.name} has 6 partitions" in said
        fleet.start("a")  # at start the same is said
        assert way_out_of(refused(fleet, 5)) == way_out_of(said)

    follower = way_out(said, settings)
    follower.send(transactions(100, 200, partitions=6))
    with Fleet(environ_of(follower.settings), tmp_path / "2") as fleet:
        fleet.start("a")
        fleet.await_ready()
        follower.drain()
        assert fleet.restarts == []
        assert scored(follower) == {f"tx-{number}" for number in range(300)}
        follower.verify()
        fleet.terminate("a")


def way_out_of(said: str) -> str:
    """The part of a line that says what to do."""
    return said[said.index("run `") :].partition(" (log: ")[0]
