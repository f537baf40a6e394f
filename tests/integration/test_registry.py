"""Schemas from a real registry: fetched, waited for while it is away, told apart from those that do not exist."""

import asyncio
import threading
import time
from typing import Any

import orjson
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from app.domain.transaction import DeadRecordError, NotReadableYetError
from app.errors import UnavailableError, UsageError
from app.kafka import schema_registry as registry_module
from app.kafka.schema_registry import CommandSchemas, SchemaRegistry, WorkerSchemas
from app.settings import Settings, load_settings
from app.wire.decoding.framing import frame_of
from tests.schema_registry import url
from tests.tcp_proxy import TcpProxy
from tests.unit import test_decoding
from tests.unit.test_decoding import VALUES, avro_schema

pytestmark = pytest.mark.integration
CONTEXT = SerializationContext("schemas", MessageField.VALUE)


def settings_of(address: str, kind: str = "avro") -> Settings:
    return load_settings({"input_format": kind, "schema_registry": address})


def client(port: int) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": url(port), "timeout": 60})


def framed(serializer: Any, value: Any) -> Any:
    frame = frame_of(serializer(value, CONTEXT), [])
    assert frame
    return frame


def test_avro_and_protobuf_of_confluents_serializers(registry: int) -> None:
    schema = orjson.dumps(avro_schema({"name": "note", "type": "string", "default": ""})).decode()
    frame = framed(AvroSerializer(client(registry), schema), {**VALUES, "note": "n"})
    schemas = CommandSchemas(SchemaRegistry(settings_of(url(registry))))
    assert schemas.get(frame.schema).read(frame.data) == {**VALUES, "note": "n"}
    message = test_decoding.TestProtobuf().message()
    conf = {"use.deprecated.format": False}
    frame = framed(ProtobufSerializer(type(message), client(registry), conf), message)
    others = CommandSchemas(SchemaRegistry(settings_of(url(registry), "protobuf")))
    assert others.get(frame.schema).read(frame.data)["card_id"] == "c1"
    with pytest.raises(DeadRecordError, match="PROTOBUF") as caught:
        schemas.get(frame.schema).read(frame.data)
    assert caught.value.reason == "unsupported_schema"


def test_references(registry: int) -> None:
    inner = '{"type":"record","name":"shop.Merchant","fields":[{"name":"n","type":"string"}]}'
    ours = client(registry)
    ours.register_schema("merchant", Schema(inner, "AVRO"))
    outer = '{"type":"record","name":"shop.Tx","fields":[{"name":"m","type":"shop.Merchant"}]}'
    from confluent_kafka.schema_registry import SchemaReference

    refers = [SchemaReference("shop.Merchant", "merchant", 1)]
    number = ours.register_schema("outer", Schema(outer, "AVRO", refers))
    reader = SchemaRegistry(settings_of(url(registry))).fetch(number)
    assert reader.read(b"\x08Acme") == {"m": {"n": "Acme"}}


@pytest.mark.parametrize("schema", [2_000_000_000, "5f2b1c9e-8d7a-4b6f-9c3e-2a1d0e4f5b6c"])
def test_a_schema_that_does_not_exist(schema: Any, registry: int) -> None:
    if isinstance(schema, str):
        pytest.skip(
            "this registry knows no GUIDs: it answers 404 without a code, as a wrong address"
        )
    reader = SchemaRegistry(settings_of(url(registry))).fetch(schema)
    with pytest.raises(DeadRecordError) as caught:
        reader.read(b"")
    assert caught.value.reason == "unknown_schema"


def test_a_wrong_address_is_not_taken_for_an_answer(registry: int) -> None:
    for address in (f"http://127.0.0.1:{registry}/nowhere", "http://127.0.0.1:1"):
        with pytest.raises(UnavailableError, match="FRAUDSTREAM_SCHEMA_REGISTRY"):
            SchemaRegistry(settings_of(address)).fetch(1)
    with pytest.raises(UsageError, match="FRAUDSTREAM_SCHEMA_REGISTRY"):
        SchemaRegistry(settings_of("ftp://registry"))


async def test_while_it_is_away(registry: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known schemas stay, others are asked for once, until it answers; the event loop is never blocked."""
    monkeypatch.setattr(registry_module, "_RETRY_SECONDS", 0.05)
    text = '{"type":"record","name":"away.%s","fields":[{"name":"a","type":"string"}]}'
    ours = client(registry)
    known = await asyncio.to_thread(ours.register_schema, "known", Schema(text % "known", "AVRO"))
    new = await asyncio.to_thread(ours.register_schema, "new", Schema(text % "new", "AVRO"))
    async with TcpProxy("127.0.0.1", registry) as proxy:
        schemas = WorkerSchemas(SchemaRegistry(settings_of(url(proxy.port))))
        with pytest.raises(NotReadableYetError):
            schemas.get(known)
        await schemas.obtain(known)
        asked = []
        fetch = schemas.registry.fetch

        def counted(schema: Any) -> Any:
            asked.append(threading.current_thread())
            return fetch(schema)

        monkeypatch.setattr(schemas.registry, "fetch", counted)
        proxy.cut(refuse=True)
        waiting = [asyncio.create_task(schemas.obtain(new)) for _ in range(3)]
        deadline = time.monotonic() + 120
        while len(asked) < 3 and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert schemas.get(known).read(b"\x02x") == {"a": "x"}
        with pytest.raises(NotReadableYetError):
            schemas.get(new)
        assert list(schemas.waiting) == [new]
        assert threading.current_thread() not in asked
        waiting[0].cancel()  # its partition is revoked: the others still wait
        proxy.mend()
        await asyncio.gather(*waiting[1:])
        assert schemas.get(new).read(b"\x02x") == {"a": "x"}
        assert not schemas.waiting


def test_a_command_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(UnavailableError, match="does not return schemas"):
        CommandSchemas(SchemaRegistry(settings_of("http://127.0.0.1:1"))).get(1)


def test_only_so_many_schemas_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_KEPT", 3)
    schemas = WorkerSchemas(SchemaRegistry(settings_of("http://127.0.0.1:1")))
    reader: Any = object()
    for number in range(5):
        schemas.keep(number, reader)
    assert schemas.get(4) is schemas.get(2) is reader
    with pytest.raises(NotReadableYetError):
        schemas.get(1)
