"""Producing into a real Kafka: everything arrives once, in order, where Java would put it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.display import iso
from app.errors import SchemaError, UnavailableError, UsageError
from app.kafka.topic_admin import ensure_topics
from app.lab.simulation.files import write_deliveries
from app.lab.simulation.simulate import Disorder, SimulationConfig, deliver, simulate
from app.ops.produce import ProduceReport, produce, produce_on_schedule
from app.ops.producing import batches
from app.ops.producing.schedule import spread
from app.settings import Settings
from app.topics import Topics
from tests.real_servers import Servers
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration


@pytest.fixture
async def topic(settings: Settings) -> str:
    spec = Topics(settings).transactions
    await ensure_topics(settings, [spec])
    return spec.name


async def consume(settings: Settings, topic: str) -> dict[int, list[Any]]:
    """Every record of the topic, by partition in offset order."""
    # not by seek_to_beginning: it races with the reset to the default that assign() sets off
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.broker, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(settings.partitions)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: dict[int, list[Any]] = defaultdict(list)
        while sum(map(len, found.values())) < sum(ends.values()):
            for place, records in (await consumer.getmany(timeout_ms=1_000)).items():
                found[place.partition] += records
        return found
    finally:
        await consumer.stop()


def command(settings: Settings, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *map(str, arguments)],
        env=environ_of(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_records_arrive_once_in_order_and_where_java_puts_them(settings, topic):
    made = simulate(
        SimulationConfig(cards=300, terminals=300, count=20_000), now_ms=1_760_000_000_000
    )
    pairs = list(made.pairs())
    report = await produce(pairs, settings=settings)
    found = await consume(settings, topic)
    expected = defaultdict(list)
    for key, value in pairs:
        expected[murmur2_partition(key, settings.partitions)].append((key, value))
    assert {n: [(r.key, r.value) for r in records] for n, records in found.items()} == expected
    assert report.records == 20_000
    assert report.bytes == sum(len(value) for _, value in pairs)
    for number, part in report.partitions.items():
        records = found[number]
        assert (part.records, part.first_offset, part.last_offset) == (
            len(records), records[0].offset, records[-1].offset,
        )  # fmt: skip
    assert not any(record.headers for records in found.values() for record in records)


def murmur2_partition(key: bytes, partitions: int) -> int:
    """The partition that Kafka's Java producer chooses, written from its definition."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


async def test_a_further_run_goes_behind_the_first(settings, topic):
    first = await produce([(b"c1", b"{}")] * 5, settings=settings)
    second = await produce([(b"c1", b"{}")] * 3, settings=settings)
    (one,), (two,) = first.partitions.values(), second.partitions.values()
    assert (one.last_offset, two.first_offset, two.last_offset) == (4, 5, 7)


async def test_records_without_a_key_take_the_partitions_in_turn(settings, topic):
    report = await produce([(None, b"x")] * 8, settings=settings)
    assert [part.records for part in report.partitions.values()] == [2, 2, 2, 2]


async def test_a_rate_is_kept_and_every_record_says_when_it_was_due(settings, topic):
    began = time.time() * 1000
    report = await produce([(b"c%d" % n, b"x") for n in range(200)], settings=settings, rate=200)
    assert 0.99 < report.seconds < 3
    found = await consume(settings, topic)
    due = sorted(
        int(dict(record.headers)["due"]) for records in found.values() for record in records
    )
    assert due[0] >= began - 1
    assert 990 <= due[-1] - due[0] <= 1000
    assert report.behind_ms < 1_000


async def test_a_schedule_follows_event_time_and_needs_no_stamp(settings, topic):
    items = spread([(b"c", b"%d" % at, at * 60_000) for at in range(10)], 1_000)
    report = await produce_on_schedule(items, settings=settings, stamp=False)
    assert 0.5 < report.seconds < 3
    (records,) = (await consume(settings, topic)).values()
    assert [record.value for record in records] == [b"%d" % at for at in range(10)]
    assert not any(record.headers for record in records)


async def test_large_records_travel_and_larger_ones_are_named(settings, topic):
    limit = settings.max_message_bytes
    sizes = [limit - 200, 10, limit - 200, limit // 3, limit // 3, limit // 3]
    report = await produce([(b"c", b"x" * size) for size in sizes], settings=settings)
    assert report.records == len(sizes)
    (records,) = (await consume(settings, topic)).values()
    assert [len(record.value) for record in records] == sizes
    told: list[int] = []
    with pytest.raises(UsageError, match="record 2 has 1,048,[67].. bytes, more than"):
        await produce(
            [(b"c", b"x"), (b"c", b"x" * limit)], settings=settings, on_progress=told.append
        )
    assert told[-1] == 1  # the one before it is sent


async def test_what_comes_before_a_fault_of_the_records_is_sent(settings, topic):
    def records() -> Iterator[tuple[bytes, bytes]]:
        for number in range(2_500):
            yield b"c%d" % number, b"x"
        raise UsageError("line 2501 is bad")

    told: list[int] = []
    with pytest.raises(UsageError, match="line 2501 is bad"):
        await produce(records(), settings=settings, on_progress=told.append)
    found = await consume(settings, topic)
    assert told[-1] == sum(map(len, found.values())) == 2_500


async def test_a_missing_topic_is_named_and_not_created(settings):
    with pytest.raises(SchemaError, match=r"has no topic .*: run `fraudstream topics`"):
        await produce([(b"c", b"x")], settings=settings)
    client = AIOKafkaAdminClient(bootstrap_servers=settings.broker)
    await client.start()
    try:
        assert Topics(settings).transactions.name not in await client.list_topics()
    finally:
        await client.close()


async def test_a_topic_that_takes_less_is_explained(settings):
    name = Topics(settings).transactions.name
    client = AIOKafkaAdminClient(bootstrap_servers=settings.broker)
    await client.start()
    try:
        config = {"max.message.bytes": "65536"}
        await client.create_topics([NewTopic(name, 1, 1, topic_configs=config)])
    finally:
        await client.close()
    with pytest.raises(UsageError, match=r"set FRAUDSTREAM_MAX_MESSAGE_BYTES to the topic's"):
        await produce([(b"c", b"x" * 1_000)] * 500, settings=settings)
    small = settings.model_copy(update={"max_message_bytes": 65_536})
    report = await produce([(b"c", b"x" * 1_000)] * 500, settings=small)
    assert report.records == 500


async def test_a_kafka_that_stops_answering_is_told(
    settings, topic, stack: Servers, monkeypatch, kafka_pid
):
    monkeypatch.setattr(batches, "STALL_SECONDS", 2)
    monkeypatch.setattr("app.ops.producing.connection.STALL_SECONDS", 2)

    def records() -> Iterator[tuple[bytes, bytes]]:
        for number in range(30_000):
            if number == 10_000:
                os.kill(kafka_pid, signal.SIGSTOP)
            yield b"c%d" % (number % 50), b"x" * 100

    try:
        with pytest.raises(UnavailableError, match="no record for 2 s; .* of .* records are ack"):
            await produce(records(), settings=settings)
    finally:
        os.kill(kafka_pid, signal.SIGCONT)


@pytest.fixture
def kafka_pid(stack: Servers) -> int:
    from app.server_addresses import read_state

    return int(read_state(stack.require_local().home)["kafka"]["pid"])


async def test_the_commands_fill_the_topic(settings, topic, tmp_path: Path):
    made = simulate(SimulationConfig(cards=50, count=500, seed=4), now_ms=1_760_000_000_000)
    path = tmp_path / "t.csv.gz"
    write_deliveries(path, deliver(made))
    ran = await asyncio.to_thread(command, settings, "produce", path, "--run", "r2", "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert (summary["records"], summary["topic"]) == (500, topic)
    assert summary["left_out"] == ["is_fraud", "fraud_kind"]

    options = ("--cards", 50, "--count", 400, "--seed", 5, "--broken", 0.05, "--duplicates", 0.05)
    ran = await asyncio.to_thread(command, settings, "simulate", *options, "--to-kafka", "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert summary["produced"]["records"] == summary["records"] == 440

    found = await consume(settings, topic)
    records = [record.value for part in found.values() for record in part]
    assert len(records) == 940
    assert sum(b'"r2-s4-' in value for value in records) == 500
    assert not any(b"is_fraud" in value for value in records)


async def test_labels_of_a_file_go_to_their_own_topic(settings, topic, tmp_path: Path):
    labels = Topics(settings).labels
    await ensure_topics(settings, [labels])
    day_ms = 86_400_000
    config = SimulationConfig(cards=50, count=2_000, days=10, end_ms=1_760_000_000_000)
    made = simulate(config)
    path = tmp_path / "t.csv.gz"
    write_deliveries(path, deliver(made))
    until_ms = int(made.event_time_ms[0]) + 8 * day_ms
    expected = made.take(made.event_time_ms < until_ms)
    ran = await asyncio.to_thread(
        command, settings, "produce", path, "--with-labels", "is_fraud", "--label-after", "2d",
        "--until", iso(until_ms), "--json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert summary["records"] == summary["labels"]["records"] == len(expected)
    assert (summary["topic"], summary["labels"]["topic"]) == (topic, labels.name)
    assert summary["left_out"] == ["fraud_kind"]

    sent = [record for part in (await consume(settings, topic)).values() for record in part]
    assert not any(b"fraud" in record.value for record in sent)
    said = {}
    for part in (await consume(settings, labels.name)).values():
        known = [json.loads(record.value) for record in part]
        assert [label["labelled_at"] for label in known] == sorted(
            label["labelled_at"] for label in known
        )
        said |= {label["transaction_id"]: label for label in known}
    assert {name: label["is_fraud"] for name, label in said.items()} == dict(
        zip(expected.transaction_id.tolist(), expected.is_fraud.tolist(), strict=True)
    )
    assert {name: label["labelled_at"] for name, label in said.items()} == dict(
        zip(
            expected.transaction_id.tolist(),
            (expected.event_time_ms + 2 * day_ms).tolist(),
            strict=True,
        )
    )


async def test_raw_lines_arrive_with_the_keys_that_they_name(settings, topic, tmp_path: Path):
    made = simulate(SimulationConfig(cards=20, count=200), now_ms=1_760_000_000_000)
    deliveries = deliver(made, Disorder(broken=0.2), seed=2)
    path = tmp_path / "t.jsonl"
    write_deliveries(path, deliveries, labels=False)
    ran = await asyncio.to_thread(command, settings, "produce", path, "--raw")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{len(deliveries)} records (0.0 MB) to {topic} in ")
    found = await consume(settings, topic)
    arrived = [(record.key, record.value) for part in found.values() for record in part]
    as_text = [(key or b"", value or b"") for key, value in arrived]
    assert sorted(as_text) == sorted((key or b"", value) for key, value in deliveries.pairs())


async def test_a_malformed_line_ends_the_command_after_what_came_before(settings, topic, tmp_path):
    lines = [
        json.dumps(
            {
                "transaction_id": f"t{number}",
                "card_id": "c",
                "amount": 1,
                "event_time": "2024-05-01T12:00:00Z",
            }
        )
        for number in range(1_500)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join([*lines, "oops", lines[0]]))
    ran = await asyncio.to_thread(command, settings, "produce", path)
    assert ran.returncode == 2
    assert f"{path}, line 1501, not JSON" in ran.stderr
    assert "(1,500 records before it were sent)" in ran.stderr
    assert ran.stderr.count("\n") == 1
    ran = await asyncio.to_thread(command, settings, "produce", path, "--skip-bad")
    assert ran.returncode == 0
    assert "1,501 records" in ran.stdout
    assert "1 malformed left out, the first: " in ran.stdout


def test_the_report_counts_and_can_be_written_as_json():
    report = ProduceReport("t", 10, 100, 2.0, 0.0, {0: batches.AcknowledgedRecords(10, 0, 9)})
    assert report.rate == 5.0
    assert json.loads(json.dumps(report.as_dict()))["partitions"]["0"]["last_offset"] == 9
