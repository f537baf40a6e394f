"""A replay of a part of history: with the same model it is what the stream stored, and the live side is untouched."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from app.cassandra.prediction_rows import COLUMNS
from app.cassandra.session import connected
from app.display import iso
from app.kafka.topic_admin import log_ends
from app.lab.simulation.simulate import Disorder, SimulationConfig, deliver, simulate
from app.settings import Settings
from tests.builders import T0
from tests.deployment import Deployment, Send
from tests.fleet import Fleet
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

DAY_MS = 86_400_000
DAYS = 125
#: The part that is replayed; windows, the label delay and lateness reach back 69 days from here.
FROM_MS, TO_MS = T0 - 30 * DAY_MS, T0 - 10 * DAY_MS


def history() -> tuple[list[Send], list[tuple[int, Send]]]:
    """Transactions in the order of their arrival, and their labels by event time: each a day later."""
    made = simulate(
        SimulationConfig(cards=40, terminals=30, days=DAYS, count=5_000, end_ms=T0, seed=5)
    )
    arrivals = deliver(
        made, Disorder(out_of_order=0.1, late=0.03, duplicates=0.03, broken=0.01), seed=5
    )
    sends = [Send(value, key) for key, value in arrivals.pairs()]
    rng = Random(5)
    every = zip(
        made.transaction_id.tolist(), made.card_id.tolist(), made.terminal_id.tolist(),
        made.event_time_ms.tolist(), [rng.random() < 0.25 for _ in range(len(made))], strict=True,
    )  # fmt: skip
    labels = [
        (
            time_ms + DAY_MS,
            Send(
                orjson.dumps(
                    {
                        "transaction_id": name, "card_id": card, "terminal_id": terminal,
                        "event_time": time_ms, "is_fraud": fraud, "labelled_at": time_ms + DAY_MS,
                    }
                ),
                name.encode(),
            ),
        )
        for name, card, terminal, time_ms, fraud in every
    ]  # fmt: skip
    return sends, labels


def live_side(deployment: Deployment) -> dict[str, Any]:
    """All that a replay must not touch: ends of topics, groups with their offsets, rows, keyspaces."""
    settings = deployment.settings

    async def kafka() -> tuple[Any, ...]:
        client = AIOKafkaAdminClient(bootstrap_servers=settings.broker)
        await client.start()
        try:
            topics = sorted(
                n for n in await client.list_topics() if n.startswith(settings.topic_prefix)
            )
            groups = sorted(
                group[0]
                for group in await client.list_consumer_groups()
                if group[0].startswith(settings.topic_prefix)  # those of other tests come and go
            )
            committed = await client.list_consumer_group_offsets(
                settings.topic_prefix + settings.app_id
            )
        finally:
            await client.close()
        ends = {name: await log_ends(settings, name) for name in topics}
        return ends, groups, {str(tp): at.offset for tp, at in committed.items()}

    with connected(settings) as session:
        keyspaces = sorted(
            row["keyspace_name"]
            for row in session.execute("SELECT keyspace_name FROM system_schema.keyspaces")
            if row["keyspace_name"].startswith(settings.keyspace)
        )
    return {
        "kafka": asyncio.run(kafka()),
        "rows": sorted(map(repr, deployment.rows(*COLUMNS))),
        "keyspaces": keyspaces,
    }


def by_source(records: list[Any]) -> dict[tuple[int, int], dict[str, Any]]:
    """Predictions by their source; repeated ones are the same."""
    found = {}
    for record in records:
        fields = orjson.loads(record.value)
        del fields["scored_at"], fields["scored_by"]  # a replay is a deployment of its own
        place = fields["source_partition"], fields["source_offset"]
        assert found.setdefault(place, fields) == fields
        assert record.key == fields["card_id"].encode()
    return found


def within(
    found: dict[Any, dict[str, Any]], first_ms: int, end_ms: int
) -> dict[Any, dict[str, Any]]:
    return {at: one for at, one in found.items() if first_ms <= one["event_time_ms"] < end_ms}


@pytest.fixture
def lived(settings: Settings, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose worker was killed once on the way, so that things stand twice on its topics."""
    settings = settings.model_copy(
        update={
            "features": ("engineered", "basic"), "model": "engineered", "session_timeout": 6_000,
            "block_records": 100,
        }
    )  # fmt: skip
    settings.model_fields_set.update(("features", "model"))
    deployment = Deployment(settings)
    deployment.prepare()
    sends, labels = history()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        step, sent = len(sends) // 8, 0
        for start in range(0, len(sends), step):
            part = sends[start : start + step]
            deployment.send(part)
            reached = (
                T0 - DAYS * DAY_MS + DAYS * DAY_MS * min(start + step, len(sends)) // len(sends)
            )
            due = [send for at, send in labels[sent:] if at < reached]
            deployment.send(due, deployment.topics.labels)
            sent += len(due)
            if start == 5 * step:
                fleet.kill("one")
                fleet.start("one")
        deployment.drain()
        deployment.verify()
    yield deployment


def test_the_same_model_gives_what_the_stream_stored(lived: Deployment) -> None:
    deployment, settings = lived, lived.settings
    before = live_side(deployment)
    shadow = Deployment(
        settings.model_copy(
            update={
                "topic_prefix": f"{settings.topic_prefix}same.",
                "keyspace": f"{settings.keyspace}_same",
            }
        )
    )
    live = by_source(deployment.records(deployment.topics.predictions))
    asked = within(live, FROM_MS, TO_MS)
    assert any("late" in one["flags"] for one in asked.values())
    assert any(one["features"]["terminal_plain_streak"] for one in asked.values())
    assert any("high_amount" in one["flags"] for one in asked.values())

    # the same model: not a bit differs
    span = ["--from", iso(FROM_MS) or "", "--to", iso(TO_MS) or ""]
    done = deployment.run("replay", "--group", "same", *span, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert by_source(shadow_records(shadow)) == asked
    stored = {
        row[:2]: row[2:] for row in deployment.rows("source_partition", "source_offset", *PLAIN)
    }
    again = {row[:2]: row[2:] for row in shadow.rows("source_partition", "source_offset", *PLAIN)}
    assert again == {at: stored[at] for at in asked}
    found = result["comparison"]
    assert result["scored"] == found["compared"] == found["same_score"] == len(asked)
    assert found["newly_flagged"]["all"] == found["no_longer_flagged"]["all"] == 0
    assert found["live"] == found["replay"]
    assert found["live"]["average_precision"] > 0.1
    assert result["lost"] == result["not_scored_live_yet"] == result["short_by_ms"] == 0
    # it began in the middle of the log: what lies further back than windows reach was not read
    assert len(asked) < result["scored"] + result["warmed"] < 0.8 * len(live)

    # the name is taken now; what is there can be removed, once
    refused = deployment.run("replay", "--group", "same", *span)
    assert refused.returncode == 2, refused.stderr
    assert "fraudstream replay --remove same" in refused.stderr
    assert deployment.run("replay", "--remove", "same").returncode == 0
    assert deployment.run("replay", "--remove", "same").returncode == 4
    assert live_side(deployment) == before

    # a stricter threshold, by offsets: the decisions that change are those between the two
    begin = min(offset for partition, offset in asked if partition == 1)
    part = {at: one for at, one in live.items() if at[0] == 1 and at[1] >= begin}
    stricter = ["--group", "strict", "--from", f"1:{begin}", "--threshold", "0.0001"]
    done = deployment.run("replay", *stricter, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    found = result["comparison"]
    newly = [one for one in part.values() if one["score"] >= 0.0001 and not one["is_fraud"]]
    assert newly
    assert result["scored"] == found["same_score"] == len(part)
    assert found["newly_flagged"]["all"] == len(newly)
    assert found["no_longer_flagged"]["all"] == 0

    # another model and other features: what it says stands beside, the live rows stay
    done = deployment.run(
        "replay", "--group", "plain", *span, "--model", "default@1", "--features", "basic"
    )
    assert done.returncode == 0, done.stderr
    assert "avg prec." in done.stdout
    with connected(settings) as session:
        row = session.execute(
            f"SELECT model_version, features FROM {settings.keyspace}_plain.predictions"
        ).one()
    assert row["model_version"].startswith("default@")
    assert "terminal_plain_streak" not in row["features"]
    for name in ("strict", "plain"):
        assert deployment.run("replay", "--remove", name).returncode == 0
    assert live_side(deployment) == before

    check_refusals(deployment, span, before)


PLAIN = (
    "card_id",
    "transaction_id",
    "event_time",
    "score",
    "is_fraud",
    "features",
    "reasons",
    "flags",
    "model_hash",
)


def shadow_records(shadow: Deployment) -> list[Any]:
    """Records of a shadow's predictions: it has no other topics that a log could be opened with."""
    from aiokafka import AIOKafkaConsumer

    async def read() -> list[Any]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=shadow.settings.broker, enable_auto_commit=False
        )
        await consumer.start()
        try:
            tps = [
                TopicPartition(shadow.topics.predictions.name, n)
                for n in range(shadow.settings.partitions)
            ]
            consumer.assign(tps)
            await consumer.seek_to_beginning(*tps)
            ends, found = await consumer.end_offsets(tps), []
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += records
            return found
        finally:
            await consumer.stop()

    return asyncio.run(read())


def check_refusals(deployment: Deployment, span: list[str], before: dict[str, Any]) -> None:
    """Each mistake gets one line that says what to do, and leaves nothing behind."""
    group = deployment.settings.topic_prefix + deployment.settings.app_id
    for arguments, code, said in (
        (["--group", "x", "--from", "2030-01-01"], 2, "no scored transaction is between"),
        (["--group", "x", "--from", span[3], "--to", span[1]], 2, "is not before --to"),
        (["--group", "x", "--from", "9:0"], 2, "partition 9 does not exist: there are 4"),
        (["--group", "x", "--from", "1:99999999"], 2, "/1 ends at offset"),
        (["--group", "x", "--from", "tomorrow"], 2, "write a time such as"),
        (["--group", "X-1", *span], 2, "write lower-case letters, digits and underscores"),
        (["--group", deployment.settings.app_id, *span], 2, "is a live consumer group"),
        (["--group", "x", *span, "--model", "nobody"], 4, "no model 'nobody'"),
        (["--group", "x", *span, "--set", "partitions=7"], 2, "NAME is one of allowed_lateness"),
        (["--group", "x", *span, "--features", "basic"], 2, "FRAUDSTREAM_FEATURES"),
    ):
        refused = deployment.run("replay", *arguments)
        assert refused.returncode == code, (arguments, refused.stderr)
        assert said in refused.stderr, (arguments, refused.stderr)
        assert refused.stderr.count("\n") == 1
    assert group in before["kafka"][1]
    assert live_side(deployment) == before

    # what is deleted cannot be looked back to
    asyncio.run(delete_first(deployment))
    refused = deployment.run("replay", "--group", "x", *span)
    assert refused.returncode == 2
    assert "--allow-short-windows" in refused.stderr
    assert "The earliest --from with full windows is " in refused.stderr
    refused = deployment.run("replay", "--group", "x", "--from", "0:0")
    assert "was deleted by retention; the earliest is 5" in refused.stderr
    done = deployment.run("replay", "--group", "x", *span, "--allow-short-windows", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["short_by_ms"] > 0
    # its broker appended all of it just now: for all that can be known, anything may be missing
    assert result["full_windows_from_ms"] > T0
    assert result["comparison"]["short_windows"] == result["scored"] > 0
    live = deployment.settings.keyspace
    with connected(deployment.settings) as session:
        for keyspace, expected in ((f"{live}_x", True), (live, False)):
            rows = session.execute(f"SELECT flags FROM {keyspace}.predictions")
            assert all("inexact:card_30d" in (row["flags"] or ()) for row in rows) is expected
    assert deployment.run("replay", "--remove", "x").returncode == 0


async def delete_first(deployment: Deployment) -> None:
    """As retention would: the first records of one partition."""
    client = AIOKafkaAdminClient(bootstrap_servers=deployment.settings.broker)
    await client.start()
    try:
        tp = TopicPartition(deployment.topics.transactions.name, 0)
        await client.delete_records({tp: RecordsToDelete(before_offset=5)})
    finally:
        await client.close()
