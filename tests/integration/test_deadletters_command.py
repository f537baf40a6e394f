"""`fraudstream deadletters` against a real topic, without a worker."""

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from app.domain.transaction import DeadRecordError
from app.kafka.clients import client_kwargs
from app.kafka.recent_dead_letters import DeadLetterQuery, recent_dead_letters
from app.kafka.topic_admin import ensure_topics
from app.settings import Settings
from app.topics import Topics
from app.wire.dead_letters import dead_letter
from tests.builders import T0
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", "deadletters", *arguments],
        env=environ_of(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def fill(settings: Settings, count: int) -> None:
    """`count` dead letters in all partitions; every fifth is sent twice, as a replay does."""
    await ensure_topics(settings, Topics(settings).all)
    topic = Topics(settings).dead_letters.name
    producer = AIOKafkaProducer(**client_kwargs(settings))
    await producer.start()
    try:
        for number in range(count):
            partition = number % settings.partitions
            reason = "invalid_json" if number % 3 else "negative_amount"
            value = b"\x1b[31m" + b"\xff" * number
            record = SimpleNamespace(offset=number, timestamp=0, key=b"c1", value=value, headers=[])
            dead = DeadRecordError(reason, f"number {number}")
            key, value_, headers = dead_letter("tx", partition, record, dead)
            for _ in range(1 if number % 5 else 2):
                await producer.send_and_wait(
                    topic,
                    value_,
                    key=key,
                    headers=headers,
                    partition=partition,
                    timestamp_ms=T0 + number,
                )
    finally:
        await producer.stop()


async def pages_read_backwards(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page shows of the 60: the newest of a period, whatever is further back."""

    async def numbers(**query: Any) -> list[str]:
        found = await recent_dead_letters(settings, DeadLetterQuery(**query))
        assert found.complete
        assert found.read == found.counts.total()
        return [letter.message.removeprefix("number ") for letter in found.newest]

    def down(*bounds: int) -> list[str]:
        return [str(number) for number in reversed(range(*bounds))]

    everything = await recent_dead_letters(settings, DeadLetterQuery())
    assert everything.counts == {"invalid_json": 40, "negative_amount": 20}
    assert await numbers(limit=7) == down(53, 60)
    assert await numbers(reason="negative_amount", limit=60) == down(0, 60, 3)
    assert await numbers(from_ms=T0 + 5, to_ms=T0 + 50, limit=60) == down(5, 50)
    assert await numbers(from_ms=T0 + 60) == await numbers(to_ms=T0) == []
    monkeypatch.setattr("app.kafka.recent_dead_letters.MOST_OFFSETS", 60)  # of 72
    some = await recent_dead_letters(settings, DeadLetterQuery(limit=40))
    assert not some.complete
    assert [letter.message.removeprefix("number ") for letter in some.newest] == down(20, 60)


def test_dead_letters(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # the records' timestamps are years old: with a retention, Kafka may delete them in the middle of the test
    settings = settings.model_copy(update={"retention": "forever"})
    missing = command(settings)
    assert missing.returncode == 5, missing
    assert missing.stderr.splitlines() == [
        f"fraudstream: Kafka lacks the topic {Topics(settings).dead_letters.name}: "
        "run `fraudstream topics`"
    ]
    asyncio.run(fill(settings, 0))
    assert command(settings).stdout == "no dead-letter records\n"

    asyncio.run(fill(settings, 60))
    listed = command(settings, "--json", "--limit", "7")
    report = json.loads(listed.stdout)
    assert listed.stderr == ""
    assert report["total"] == 60
    assert report["counts"] == {"invalid_json": 40, "negative_amount": 20}
    assert [letter["message"] for letter in report["dead_letters"]] == [
        f"number {number}" for number in range(53, 60)
    ]
    report = json.loads(command(settings, "--json", "--reason", "negative_amount").stdout)
    assert [letter["message"] for letter in report["dead_letters"]] == [
        f"number {number}" for number in range(0, 60, 3)
    ]
    assert report["total"] == 60

    asyncio.run(pages_read_backwards(settings, monkeypatch))

    text = command(settings, "list", "--limit", "1").stdout
    assert "\x1b" not in text
    assert text.splitlines()[0] == f"tx/{59 % settings.partitions}/59  invalid_json"
    assert "1 of 60 shown" in text

    whole = command(settings, "show", "tx/3/7", "--json")
    assert json.loads(whole.stdout)["message"] == "number 7"
    assert "12 bytes" in command(settings, "show", "tx/3/7").stdout
    unknown = command(settings, "show", "tx/2/7")
    assert unknown.returncode == 4
    assert unknown.stderr.count("\n") == 1
