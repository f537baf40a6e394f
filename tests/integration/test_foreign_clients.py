"""Records of producers that know nothing of us, read back by Cassandra's own shell."""

import csv
import io
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from zlib import crc32

import orjson
import pytest
from confluent_kafka import Producer

from app.devstack.jar_downloads import ensure_jars
from app.devstack.jar_lock import cache_dir, parse_lock, read_lock
from app.devstack.java import find_java
from app.devstack.progress import NoProgress
from app.ops.reference import murmur2_partition
from app.settings import Settings
from tests.builders import tx_bytes
from tests.deployment import Deployment
from tests.fleet import Fleet
from tests.real_servers import Servers
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

EACH = 5
CARDS = [f"c{number}" for number in range(12)]


def test_confluent_with_its_own_partitioner(settings: Settings, tmp_path: Path) -> None:
    deployment = Deployment(settings)
    deployment.prepare()
    producer = Producer({"bootstrap.servers": settings.broker})  # by CRC32, as librdkafka does
    for number in range(EACH):
        for card in CARDS:
            value = tx_bytes(f"{card}-{number}", card=card, at=number * 60_000, amount=10 + number)
            producer.produce(deployment.topics.transactions.name, value, key=card)
    assert producer.flush(60) == 0
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        report = deployment.verify()
    count = settings.partitions
    astray = [card for card in CARDS if crc32(card.encode()) % count != home(card, count)]
    assert 0 < len(astray) < len(CARDS)
    assert report["moved"] == EACH * len(astray)
    assert report["scored"] == EACH * len(CARDS)
    last = {}
    for record in deployment.records(deployment.topics.predictions):
        assert record.partition == home(record.key.decode(), count)
        fields = orjson.loads(record.value)
        if fields["transaction_id"].endswith(f"-{EACH - 1}"):
            last[fields["card_id"]] = fields["features"]
    assert last.keys() == set(CARDS)
    for features in last.values():
        assert (features["card_count_1h"], features["card_avg_amount_1h"]) == (EACH, 12.0)


def home(card: str, partitions: int) -> int:
    """The partition that a card belongs to."""
    return murmur2_partition(card.encode(), partitions)


def test_ten_lines_from_kcat(stack: Servers, settings: Settings, tmp_path: Path) -> None:
    kcat = shutil.which("kcat") or shutil.which("kafkacat")
    if kcat is None:
        pytest.skip("kcat is not installed: apt-get install kcat")
    deployment = Deployment(settings)
    deployment.prepare()
    lines = [
        f"c{number % 3}|".encode() + tx_bytes(number, card=f"c{number % 3}", at=number * 1_000)
        for number in range(8)
    ]
    lines.insert(3, b'c1|{"transaction_id": "cut off')
    lines.insert(6, b"c2|" + tx_bytes("early", card="c2", at=10**12))
    produced = subprocess.run(
        [kcat, "-P", "-b", stack.broker, "-t", deployment.topics.transactions.name,
         "-X", "topic.partitioner=murmur2_random", "-K", "|"],
        input=b"\n".join(lines) + b"\n", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert produced.returncode == 0, produced.stderr
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        fleet.await_ready()
        deployment.drain()
        report = deployment.verify()
    rows = shell(
        stack,
        "SELECT card_id, transaction_id, event_time, score, features['card_count_1h'] AS n "
        f"FROM {settings.keyspace}.predictions",
    )
    assert sorted(row["transaction_id"] for row in rows) == [f"tx-{number}" for number in range(8)]
    for row in rows:
        number = int(row["transaction_id"].removeprefix("tx-"))
        assert row["card_id"] == f"c{number % 3}"
        assert float(row["n"]) == number // 3 + 1
        assert 0 <= float(row["score"]) <= 1
    assert (report["scored"], report["dead"], report["moved"]) == (8, 2, 0)
    dead = deployment.run("deadletters", "--json")
    assert dead.returncode == 0, dead.stderr
    reasons = Counter(
        dict(record.headers)["reason"]
        for record in deployment.records(deployment.topics.dead_letters)
    )
    assert reasons == {b"invalid_json": 1, b"in_the_future": 1}
    for reason in reasons:
        assert reason.decode() in dead.stdout


def shell(stack: Servers, query: str) -> list[dict[str, str]]:
    """What cqlsh prints for a query, row by row."""
    program = Path(sys.executable).with_name("cqlsh")
    if not program.exists():
        pytest.skip("cqlsh is not installed: pip install cqlsh")
    host, port = stack.endpoints.cassandra[0]
    asked = subprocess.run(
        [program, host, str(port), "--no-color", "-e", f"EXPAND OFF; {query}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    table = [line for line in asked.stdout.splitlines() if "|" in line]
    cells = csv.reader(io.StringIO("\n".join(table)), delimiter="|")
    names, *rows = ([cell.strip() for cell in line] for line in cells)
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_the_java_client_in_every_codec(settings: Settings, tmp_path: Path) -> None:
    """Kafka's own console producer: Java's spelling of each codec, and its partitioner."""
    deployment = Deployment(settings)
    deployment.prepare()
    lock = parse_lock(Path(__file__).parents[1].joinpath("java_client.lock").read_text())
    jars = ensure_jars({**lock, "kafka": read_lock()["kafka"]}, cache_dir(), NoProgress())
    classpath = ":".join(str(jar) for jar in [*jars["java-client"], *jars["kafka"]])
    codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("a")
        for number, codec in enumerate(codecs):
            lines = [
                card.encode()
                + b"|"
                + tx_bytes(f"{codec}-{card}-{n}", card=card, at=number * 60_000 + n)
                for n, card in enumerate(CARDS * EACH)
            ]
            sent = subprocess.run(
                [find_java().path, "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={tmp_path}",
                 "-cp", classpath, "org.apache.kafka.tools.ConsoleProducer",
                 "--bootstrap-server", settings.broker, "--topic", deployment.topics.transactions.name,
                 "--compression-codec", codec, "--property", "parse.key=true",
                 "--property", "key.separator=|"],
                input=b"\n".join(lines) + b"\n", capture_output=True, timeout=120, check=False,
            )  # fmt: skip
            assert sent.returncode == 0, sent.stderr
        fleet.await_ready()
        deployment.drain()
        report = deployment.verify()
    assert report["scored"] == len(codecs) * EACH * len(CARDS)
    assert (report["moved"], report["dead"]) == (0, 0)
