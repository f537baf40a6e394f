"""Every codec, from foreign clients and from the broker itself, and what cannot be read, on a real Kafka."""

import asyncio
import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cramjam
import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from confluent_kafka import Producer

from app.kafka.clients import admin
from app.ops.reference import murmur2_partition
from app.settings import Settings
from app.topics import TopicSpec
from tests.builders import T0, tx_bytes
from tests.deployment import Deployment, wait_until
from tests.fleet import Fleet
from tests.raw_batches import Made, batch, compressed, plain, sealed, send_raw
from tests.real_servers import Servers
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
CARDS = [f"c{number}" for number in range(6)]
EACH = 40


def recompress(settings: Settings, topic: TopicSpec, codec: str) -> None:
    """Let the broker keep a topic in this codec, whatever producers send."""

    async def alter() -> None:
        async with admin(settings) as client:
            config = {**topic.config, "compression.type": codec}
            await client.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic.name, configs=config)]
            )

    asyncio.run(alter())


def codecs_in(stack: Servers, topic: TopicSpec) -> set[int]:
    """The codecs of the batches that Kafka keeps of a topic."""
    found = set()
    for file in segments(stack, topic.name):
        raw = file.read_bytes()
        at = 0
        while at + 61 <= len(raw) and (length := int.from_bytes(raw[at + 8 : at + 12], "big")):
            found.add(raw[at + 22] & 7)
            at += 12 + length
    return found


def segments(stack: Servers, topic: str, partition: int | None = None) -> list[Path]:
    """The files in which Kafka keeps a topic."""
    home = stack.require_local().home
    number = "*" if partition is None else partition
    return sorted(home.rglob(f"{topic}-{number}/*.log"))


def test_every_codec_of_producers_and_of_topics(
    stack: Servers, settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    topics = deployment.topics
    # our own batches come uncompressed; the broker compresses them
    kept = (
        (topics.enriched, "zstd"), (topics.predictions, "snappy"), (topics.dead_letters, "gzip"),
        (topics.duplicates, "lz4"), (topics.cards_changelog, "lz4"),
        (topics.terminals_changelog, "zstd"), (topics.labels, "snappy"),
    )  # fmt: skip
    for topic, codec in kept:
        recompress(settings, topic, codec)
    number = 0
    for codec in CODECS:
        producer = Producer(
            {
                "bootstrap.servers": settings.broker,
                "partitioner": "murmur2_random",
                "compression.type": codec,
                "linger.ms": 200,
            }
        )
        for _ in range(EACH):
            for card in CARDS:
                value = tx_bytes(f"{card}-{number}", card=card, at=number * 1_000)
                producer.produce(topics.transactions.name, value, key=card)
            number += 1
        producer.produce(topics.transactions.name, b"no JSON " * 20, key="c1")
        producer.produce(topics.transactions.name, value, key=card)  # again
        labels = [
            json.dumps({"transaction_id": f"tx-{card}-{number - 1}", "is_fraud": True,
                        "labelled_at": T0 + 3_600_000})
            for card in CARDS
        ]  # fmt: skip
        assert producer.flush(60) == 0
        kcat = shutil.which("kcat")
        if kcat:  # librdkafka again, the packaged one
            subprocess.run(
                [kcat, "-P", "-b", settings.broker, "-t", topics.labels.name, "-z", codec],
                input="\n".join(labels).encode(), check=True, timeout=60,
            )  # fmt: skip
    assert codecs_in(stack, topics.transactions) == {0, 1, 2, 3, 4}
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        report = deployment.verify()
        # from the changelogs
        fleet.kill("a")
        shutil.rmtree(tmp_path / "a")
        fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        assert deployment.verify()["scored"] == report["scored"]
        rebuilt = deployment.run("rebuild", "--datadir", str(tmp_path), "--json")
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert json.loads(rebuilt.stdout)["differing"] == 0
        assert not fleet.restarts
    assert report["scored"] == len(CODECS) * EACH * len(CARDS)
    assert (report["dead"], report["duplicate"]) == (len(CODECS), len(CODECS))
    assert codecs_in(stack, topics.enriched) == {4}
    assert codecs_in(stack, topics.predictions) == {2}
    assert codecs_in(stack, topics.dead_letters) == {1}
    assert codecs_in(stack, topics.terminals_changelog) == {4}
    listed = deployment.run("deadletters", "--json")
    assert json.loads(listed.stdout)["counts"] == {"invalid_json": len(CODECS)}


def home(card: str, settings: Settings) -> int:
    return murmur2_partition(card.encode(), settings.partitions)


def test_what_cannot_be_read_is_a_dead_letter_and_the_rest_is_scored(
    stack: Servers, settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    topic = deployment.topics.transactions
    good = [tx_bytes(f"good-{number}", card="c1", at=number * 1_000) for number in range(8)]
    where = home("c1", settings)

    def send(raw: Any) -> int:
        return send_raw(settings.broker, topic.name, where, bytes(raw))

    send(keyed(good[0:2]))
    odd = keyed([Made(good[2], [("XXXX", b"v")]), good[3]])
    at = odd.index(b"XXXX")
    odd[at : at + 4] = b"\xff\xfe\xfd\xfc"
    send(sealed(odd))
    bomb = bytes(70 << 20)  # 64 MiB may be
    last: dict[int, str] = {}
    for codec, packed in (
        (1, gzip.compress(plain([bomb]))),
        (4, bytes(cramjam.zstd.compress(plain([bomb])))),
    ):
        last[send(compressed(packed, codec, [b""]))] = "batch_too_large"
    send(keyed(good[4:6]))
    files = segments(stack, topic.name, where)
    damaged = send(keyed(good[6:8]))
    last[damaged + 1] = "damaged_batch"
    after = send(keyed([tx_bytes("after", card="c1", at=60_000)]))
    overwrite(files, damaged, 90)
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        report = deployment.verify()
        assert not fleet.restarts
    assert (report["scored"], report["dead"]) == (7, len(last))
    letters = map(
        dict, (record.headers for record in deployment.records(deployment.topics.dead_letters))
    )
    assert {int(letter["offset"]): letter["reason"].decode() for letter in letters} == last
    assert after > damaged
    sent_back = deployment.run("deadletters", "redrive", "--all", "--json")
    assert json.loads(sent_back.stdout)["sent"] == 0
    assert len(json.loads(sent_back.stdout)["refused"]) == len(last)
    shown = deployment.run("deadletters", "show", f"{topic.name}/{where}/{damaged + 1}")
    assert "does not match its checksum" in shown.stdout
    assert f"offsets {damaged} to {damaged + 1}" in shown.stdout


def keyed(values: Any) -> bytearray:
    """A batch of the card c1."""
    return batch(values, key=b"c1")


def overwrite(files: list[Path], offset: int, at: int, new: bytes | None = None) -> None:
    """Damage the batch at an offset where Kafka keeps it: one bit or these bytes, so far behind its beginning."""
    for file in files:
        raw = file.read_bytes()
        place = 0
        while place + 61 <= len(raw) and (
            length := int.from_bytes(raw[place + 8 : place + 12], "big")
        ):
            if int.from_bytes(raw[place : place + 8], "big") == offset:
                with file.open("r+b") as log:
                    os.pwrite(log.fileno(), new or bytes([raw[place + at] ^ 1]), place + at)
                return
            place += 12 + length
    pytest.fail(f"no batch begins at offset {offset}")


def test_a_partition_that_cannot_be_read_stops_until_its_offsets_are_given_up(
    stack: Servers, settings: Settings, tmp_path: Path
) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    topic = deployment.topics.transactions
    where = home("c1", settings)
    other = next(f"x{number}" for number in range(99) if home(f"x{number}", settings) != where)

    def send(card: str, name: str, minute: int) -> int:
        values = [tx_bytes(f"{name}-{n}", card=card, at=minute * 60_000 + n) for n in range(3)]
        raw = batch(values, key=card.encode())
        return send_raw(settings.broker, topic.name, home(card, settings), bytes(raw))

    send("c1", "before", 0)
    unknown = send("c1", "damaged", 1)
    send("c1", "after", 2)
    lost = send("c1", "lost", 3)
    files = segments(stack, topic.name, where)
    overwrite(files, unknown, 16, b"\x07")  # a format that nobody knows
    overwrite(files, lost, 8, b"\0\0\0\x07")  # a length that even the broker stumbles over

    def stopped(offset: int) -> str:
        return f"{topic.name}/{where} cannot be read from offset {offset} on"

    def skip(offset: int, *options: str) -> Any:
        position = f"{topic.name}/{where}/{offset}"
        return deployment.run("deadletters", "skip", position, "--why", "a test", *options)

    def rows() -> int:
        return len(deployment.rows("transaction_id"))

    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        send(other, "other", 0)
        wait_until(lambda: rows() == 6, "the rows of the other partition")
        log = tmp_path / "a.log"
        wait_until(lambda: stopped(unknown) in log.read_text(), "the line that says so")
        refused = skip(0)
        assert refused.returncode == 2
        assert "can be read: there is nothing to skip" in refused.stderr
        verified = deployment.run("verify", "--timeout", "1")
        assert verified.returncode == 70, verified.stderr
        assert stopped(unknown) in verified.stderr.splitlines()[-1]
        skipped = skip(unknown, "--json")
        assert skipped.returncode == 0, skipped.stderr
        assert json.loads(skipped.stdout)["last"] == unknown + 2
        wait_until(lambda: rows() == 9, "the rows behind what was given up")
        wait_until(lambda: stopped(lost) in log.read_text(), "the line that says so")
        assert "give the last offset with --to" in skip(lost).stderr
        assert skip(lost, "--to", str(lost + 2)).returncode == 0
        deployment.drain()
        report = deployment.verify()
        assert not fleet.restarts
    assert (report["scored"], report["dead"]) == (9, 2)
    listed = json.loads(deployment.run("deadletters", "--json").stdout)
    assert listed["counts"] == {"skipped": 2}
    assert {letter["source"] for letter in listed["dead_letters"]} == {
        f"{topic.name}/{where}/{last + 2}" for last in (unknown, lost)
    }
