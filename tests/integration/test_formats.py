"""Records in Confluent's wire format, by its own serializers, with a real registry that goes away and comes back."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from app.ops.reference import murmur2_partition
from app.settings import Settings
from app.wire.decoding.framing import SCHEMA_HEADER
from tests.builders import T0, tx_bytes
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.integration.test_score import TOKEN, post
from tests.schema_registry import url
from tests.tcp_proxy import TcpProxy
from tests.unit import test_decoding
from tests.unit.test_decoding import avro_schema
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

CARDS = [f"c{number}" for number in range(8)]


class Proxy:
    """A proxy before the registry, in a thread of its own: tests block."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._proxy = TcpProxy("127.0.0.1", port)
        self._call(self._proxy.__aenter__())

    @property
    def url(self) -> str:
        return url(self._proxy.port)

    def away(self) -> None:
        self._loop.call_soon_threadsafe(lambda: self._proxy.cut(refuse=True))

    def back(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.mend)

    def close(self) -> None:
        self._call(self._proxy.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(60)


@contextmanager
def before(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


class Sender:
    """Sends by Confluent's producer, serialized by one of its serializers."""

    def __init__(self, deployment: Deployment, serializer: Any) -> None:
        self._topic = deployment.topics.transactions.name
        self._serializer = serializer
        self._producer = Producer(
            {"bootstrap.servers": deployment.settings.broker, "partitioner": "murmur2_random"}
        )

    def send(self, card: str, record: Any) -> None:
        headers: list[Any] = []
        context = SerializationContext(self._topic, MessageField.VALUE, headers)
        value = self._serializer(record, context)
        self._producer.produce(self._topic, value, key=card, headers=headers)

    def flush(self) -> None:
        assert self._producer.flush(60) == 0


def in_header(payload: bytes, context: Any, schema: Any) -> bytes:
    """What Confluent's serializers do when they put the schema in a header; by id, as this registry has no GUIDs."""
    context.headers.append((SCHEMA_HEADER, schema.id_to_bytes()))
    return payload


def client(port: int) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": url(port), "timeout": 60})


def avro_sender(deployment: Deployment, port: int, *fields: Any, **options: Any) -> Sender:
    schema = avro_schema(*fields)
    schema["namespace"] = (
        deployment.settings.keyspace
    )  # ids of its own in a registry that tests share
    text = orjson.dumps(schema).decode()
    return Sender(deployment, AvroSerializer(client(port), text, **options))


def values(number: int, card: str, **others: Any) -> dict[str, Any]:
    moment = datetime.fromtimestamp(T0 / 1000, UTC) + timedelta(minutes=number)
    return {
        "transaction_id": f"{card}-{number}", "card_id": card, "terminal_id": "t1",
        "amount": Decimal(f"{10 + number}.50"), "event_time": moment, **others,
    }  # fmt: skip


def with_format(settings: Settings, name: str, address: str | None, **others: Any) -> Settings:
    return settings.model_copy(update={"input_format": name, "schema_registry": address, **others})


def test_avro_while_the_registry_goes_away(
    registry: int, settings: Settings, tmp_path: Path
) -> None:
    """Known schemas flow, unknown ones wait; nothing is dead-lettered; all is right in the end."""
    with before(registry) as proxy:
        settings = with_format(settings, "avro", proxy.url)
        deployment = Deployment(settings)
        deployment.prepare()
        old = avro_sender(deployment, registry)
        new = avro_sender(deployment, registry, {"name": "note", "type": "string"})
        headed = avro_sender(
            deployment, registry, {"name": "by", "type": "string"},
            conf={"schema.id.serializer": in_header},
        )  # fmt: skip
        with Fleet(environ_of(settings), tmp_path) as fleet:
            fleet.start("one")
            for card in CARDS:
                old.send(card, values(0, card))
            old.flush()
            deployment.send([Send(tx_bytes("plain", card="c0", at=1), b"c0")])
            deployment.drain()
            proxy.away()
            for card in CARDS:
                old.send(card, values(1, card))
            old.flush()
            wait_until(lambda: len(predicted(deployment)) == 17, "known schemas flow")
            new.send("c0", values(2, "c0", note="n"))
            new.flush()
            old.send("c0", values(3, "c0"))  # behind it in its partition: waits as well
            old.flush()
            wait_until(
                lambda: b"records of schema" in fleet["one"].log.read_bytes(),
                "the log says who waits",
            )
            for card in others_than(deployment, "c0"):
                old.send(card, values(4, card))
            old.flush()
            count = 17 + len(others_than(deployment, "c0"))
            wait_until(lambda: len(predicted(deployment)) == count, "other partitions flow")
            assert deployment.records(deployment.topics.dead_letters) == []
            proxy.back()
            deployment.drain()
            for card in CARDS:
                headed.send(card, values(5, card, by="header"))
            headed.flush()
            deployment.send([Send(b"\0\x7f\xff\xff\xff" + b"x", b"c1")])  # no such schema
            deployment.drain()
            report = deployment.verify()
            rebuilt = deployment.run("rebuild", "--from-source", "--datadir", str(tmp_path))
            assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert report["scored"] == count + 2 + 8
    assert report["dead"] == 1
    (letter,) = deployment.records(deployment.topics.dead_letters)
    assert dict(letter.headers)["reason"] == b"unknown_schema"
    found = predicted(deployment)
    assert orjson.loads(found["c0-2"])["note"] == "n"
    assert b'"amount":12.50' in found["c0-2"]
    assert orjson.loads(found["c0-3"])["features"]["card_count_1h"] == 5


@pytest.mark.parametrize("name", ["protobuf", "json-schema"])
def test_other_formats(name: str, registry: int, settings: Settings, tmp_path: Path) -> None:
    settings = with_format(settings, name, url(registry) if name == "protobuf" else None)
    environ = {
        **environ_of(settings),
        "FRAUDSTREAM_SCORE": "true",
        "FRAUDSTREAM_SCORE_TOKEN": TOKEN,
    }
    deployment = Deployment(settings)
    deployment.prepare()
    if name == "protobuf":
        message = test_decoding.TestProtobuf().message()
        serializer: Any = ProtobufSerializer(
            type(message), client(registry), {"use.deprecated.format": False}
        )
        record: Any = message
    else:
        schema = {
            "title": "Transaction",
            "type": "object",
            "properties": {"card_id": {"type": "string"}},
        }
        serializer = JSONSerializer(orjson.dumps(schema).decode(), client(registry))
        record = orjson.loads(tx_bytes())
    sender = Sender(deployment, serializer)
    sender.send("c1", record)
    sender.flush()
    with Fleet(environ, tmp_path) as fleet:
        fleet.start("one")
        fleet.await_ready()
        # in JSON, whatever the topic has
        status, answer = post(fleet["one"].url, tx_bytes("posted", card="c2"))
        deployment.drain()
        report = deployment.verify()
    assert (status, answer.get("card_id")) == (200, "c2")
    assert (report["read"], report["scored"]) == (2, 2)


def test_a_framed_record_without_the_setting(
    registry: int, settings: Settings, tmp_path: Path
) -> None:
    """Named as what it is; sent back once the setting is there, it is scored, header or not."""
    deployment = Deployment(settings)
    deployment.prepare()
    for options in ({}, {"conf": {"schema.id.serializer": in_header}}):
        sender = avro_sender(deployment, registry, **options)
        sender.send("c1", values(len(options), "c1"))
        sender.flush()
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one")
        deployment.drain()
        fleet.terminate("one")
    letters = deployment.records(deployment.topics.dead_letters)
    assert [dict(each.headers)["reason"] for each in letters] == [b"framed_record"] * 2
    other = Deployment(with_format(settings, "avro", url(registry)))
    with Fleet(environ_of(other.settings), tmp_path) as fleet:
        fleet.start("one")
        done = other.run("deadletters", "redrive", "--reason", "framed_record")
        assert done.returncode == 0, done.stderr
        other.drain()
        report = other.verify()
    assert (report["read"], report["dead"], report["scored"]) == (4, 2, 2)


def predicted(deployment: Deployment) -> dict[str, bytes]:
    found = deployment.records(deployment.topics.predictions)
    return {orjson.loads(record.value)["transaction_id"]: record.value for record in found}


def others_than(deployment: Deployment, card: str) -> list[str]:
    """Cards of other partitions."""
    count = deployment.settings.partitions
    home = murmur2_partition(card.encode(), count)
    return [each for each in CARDS if murmur2_partition(each.encode(), count) != home]
