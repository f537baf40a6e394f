"""Kafka transactions, and records that are deleted before they are read; with foreign producers, on real servers."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as AIOTopicPartition
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from app.durations import DAY_MS
from app.kafka.clients import client_kwargs
from app.ops.reference import murmur2_partition
from app.ops.verification.topic_log import open_log
from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment, wait_until
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

MINUTE = 60_000


class Feed:
    """Sends transactions of one card, by producers with Kafka transactions and without."""

    def __init__(self, settings: Settings, card: str) -> None:
        self._settings = settings
        self._topic = settings.topic_prefix + "transactions"
        self.card = card
        self.partition = murmur2_partition(card.encode(), settings.partitions)
        self._names = self._numbers()

    def _numbers(self) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    def producer(self, transactional_id: str | None = None) -> Producer:
        config: dict[str, Any] = {"bootstrap.servers": self._settings.broker, "linger.ms": 0}
        if transactional_id is None:
            return Producer(config)
        made = Producer(
            config | {"transactional.id": f"{self._settings.app_id}-{transactional_id}"}
        )
        made.init_transactions(60)
        return made

    def send(self, producer: Producer, count: int, days: int = 0) -> None:
        for _ in range(count):
            number = next(self._names)
            at = number * MINUTE + days * DAY_MS
            value = tx_bytes(f"{self.card}-{number}", card=self.card, at=at)
            producer.produce(self._topic, value, key=self.card, partition=self.partition)
        assert producer.flush(60) == 0

    def delete_before(self, offset: int) -> None:
        """As retention does."""
        admin = AdminClient({"bootstrap.servers": self._settings.broker})
        where = TopicPartition(self._topic, self.partition, offset)
        for done in admin.delete_records([where], request_timeout=60).values():
            done.result()


def feeds_of_all_partitions(settings: Settings) -> list[Feed]:
    """A card for each partition."""
    found: dict[int, Feed] = {}
    number = 0
    while len(found) < settings.partitions:
        feed = Feed(settings, f"all-{number}")
        found.setdefault(feed.partition, feed)
        number += 1
    return list(found.values())


async def forget_commits(deployment: Deployment, partitions: list[int]) -> None:
    """Commit an older offset of `transactions` without metadata, as if Kafka had lost the newer commits.

    A group that has members refuses commits from outside, except in a transaction.
    """
    settings, topic = deployment.settings, deployment.topics.transactions
    async with open_log(settings) as log:
        done = await log.done(topic)
    offsets = {
        AIOTopicPartition(topic.name, each): OffsetAndMetadata(done[each] - 1, "")
        for each in partitions
    }
    producer = AIOKafkaProducer(
        **client_kwargs(settings), transactional_id=f"{settings.app_id}-forget"
    )
    async with producer, producer.transaction():
        await producer.send_offsets_to_transaction(offsets, settings.deployment)


def index(fleet: Fleet, name: str) -> Any:
    """What a worker's page says of itself."""
    with urllib.request.urlopen(f"{fleet[name].url}/index.json", timeout=60) as answer:
        return json.load(answer)


def card_stage(fleet: Fleet, name: str, partition: int) -> Any:
    found = next(one for one in index(fleet, name)["partitions"] if one["partition"] == partition)
    return found["stages"]["cards"]


def said(folder: Path) -> str:
    """What the workers have printed."""
    return "".join(file.read_text() for file in folder.glob("*.log"))


def test_transactions_of_producers(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    feed = Feed(settings, "c1")
    one, two, plain = feed.producer("one"), feed.producer("two"), feed.producer()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()

        for _ in range(30):  # a transaction for each record
            one.begin_transaction()
            feed.send(one, 1)
            one.commit_transaction()
        for _ in range(3):  # interleaved: one is aborted, the other committed, and a third has none
            one.begin_transaction()
            two.begin_transaction()
            feed.send(one, 2)
            feed.send(two, 3)
            feed.send(plain, 1)
            feed.send(one, 2)
            one.abort_transaction()
            two.commit_transaction()
        one.begin_transaction()
        feed.send(one, 5)
        one.abort_transaction()  # the log ends in what is no record
        wanted = 30 + 3 * 4
        began = time.monotonic()
        report = deployment.verify()
        assert report["seconds_waited"] < 60, "it waited for offsets without a record"
        assert time.monotonic() - began < 100
        assert (report["read"], report["scored"], report["lost"]) == (wanted, wanted, 0)
        wait_until(lambda: card_stage(fleet, "a", feed.partition)["lag"] == 0, "lag 0")
        assert card_stage(fleet, "a", feed.partition)["records_done"] == wanted

        two.begin_transaction()  # an open one: what is behind it waits, and that is shown
        feed.send(two, 2)
        feed.send(plain, 3)
        wait_until(
            lambda: card_stage(fleet, "a", feed.partition)["open_offsets"] == 5,
            "an open transaction",
        )
        stage = card_stage(fleet, "a", feed.partition)
        assert (stage["lag"], stage["open_since"] > 0) == (0, True)
        assert deployment.verify()["read"] == wanted
        two.commit_transaction()
        deployment.drain()
        assert deployment.verify()["scored"] == wanted + 5
        wait_until(
            lambda: card_stage(fleet, "a", feed.partition)["open_since"] is None, "none open"
        )
        assert "fetching again" not in said(tmp_path)


def test_uncommitted_records_where_the_setting_asks_for_them(
    settings: Settings, tmp_path: Path
) -> None:
    other = settings.model_copy(update={"isolation_level": "read_uncommitted"})
    other.model_fields_set.add("isolation_level")
    deployment = Deployment(other)
    deployment.prepare()
    feed = Feed(other, "c1")
    one = feed.producer("one")
    one.begin_transaction()
    feed.send(one, 4)
    one.abort_transaction()
    with Fleet(environ_of(other), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        assert deployment.verify()["scored"] == 4


def test_records_that_are_deleted_before_they_are_read(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    feed = Feed(settings, "c1")
    plain = feed.producer()
    where = f"{settings.topic_prefix}transactions/{feed.partition}"
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        feed.send(plain, 20)
        deployment.drain()
        assert deployment.verify()["read"] == 20
        fleet.terminate("a")

        feed.send(plain, 10)  # offsets 20 to 29, of which 20 to 26 go
        feed.delete_before(27)
        unread = deployment.run("verify", "--timeout", "0")
        assert (unread.returncode, "offsets 20 to 26 were deleted" in unread.stdout) == (6, True), (
            unread
        )
        fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        feed.send(plain, 5)
        deployment.drain()
        stage = card_stage(fleet, "a", feed.partition)
        assert (stage["lost"], stage["lag"]) == (7, 0)
        assert f"{where}: offsets 20 to 26 were deleted before they were read" in said(tmp_path)

        fleet.pause("a")  # while it runs, too: for less than its session lasts
        feed.send(plain, 10)  # 35 to 44
        feed.delete_before(40)
        fleet.resume("a")
        deployment.drain()
        lost = [
            (dict(record.headers)["offset"], dict(record.headers)["until"])
            for record in deployment.records(deployment.topics.dead_letters)
        ]
        assert lost[0] == (b"20", b"27")
        for begin, until in lost[
            1:
        ]:  # it may have fetched some or all of them before it was paused
            assert (35 <= int(begin) < 40, until) == (True, b"40"), lost
        assert len(lost) <= 2, lost

        fleet.terminate("a")
        fleet.start("a", "b")  # a restart does not forget
        fleet.await_ready()
        told = deployment.run("verify")
        assert told.returncode == 6, told
        assert f"{where}: offsets 20 to 26 were deleted before they were read" in told.stdout
        assert "everything is in its place" not in told.stdout
        accepted = deployment.run("verify", "--accept-lost", "--json")
        assert accepted.returncode == 0, accepted
        report = json.loads(accepted.stdout)
        assert report["lost"] >= 7
        assert (report["missing"], report["differing"], report["identity"]) == (0, 0, True)
        letters = deployment.run("deadletters", "--json")
        assert "lost_to_retention" in letters.stdout
        assert deployment.run("deadletters", "redrive", f"{where}/20").returncode == 1

        first, *others = feeds_of_all_partitions(settings)
        for name in fleet.running:
            fleet.pause(name)
        for feed in (first, *others):
            feed.send(plain, 5)
            feed.delete_before(OFFSET_END)
        first.send(plain, 1, days=100)  # far ahead of partitions that have nothing left
        for name in fleet.running:
            fleet.resume(name)
        deployment.drain()

        # Nothing follows on these partitions. Their workers commit again all the same, or the first waits for them.
        asyncio.run(forget_commits(deployment, [feed.partition for feed in others]))
        first.send(plain, 1, days=200)
        deployment.drain()
