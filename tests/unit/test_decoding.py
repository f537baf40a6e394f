"""Framed records and envelopes, decoded: with schemas as registries give them, without a registry."""

import base64
import io
import struct
import sys
import uuid
from collections.abc import Hashable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import orjson
import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    timestamp_pb2,
    wrappers_pb2,
)
from hypothesis import given
from hypothesis import strategies as st

from app.domain.transaction import DeadRecordError, NotReadableYetError, Transaction
from app.errors import SettingsError, UsageError
from app.kafka.schema_registry import SchemaRegistry
from app.settings import load_settings
from app.wire.dead_letters import dead_letter
from app.wire.decoding.avro import AvroReader
from app.wire.decoding.framing import SCHEMA_HEADER, frame_of
from app.wire.decoding.protobuf import ProtobufReader
from app.wire.decoding.record_rules import record_rules
from app.wire.decoding.schemas import RefusedSchema, RegistrySchema, SchemaReader
from app.wire.input_records import RecordRules, parse_transaction
from tests.builders import T0, tx, tx_bytes

GUID = "5f2b1c9e-8d7a-4b6f-9c3e-2a1d0e4f5b6c"
FIELDS = [
    {"name": "transaction_id", "type": "string"},
    {"name": "card_id", "type": "string"},
    {"name": "terminal_id", "type": ["null", "string"]},
    {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
    {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
]  # fmt: skip
VALUES: dict[str, Any] = {
    "transaction_id": "tx-1", "card_id": "c1", "terminal_id": "t1", "amount": Decimal("12.50"),
    "event_time": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
}  # fmt: skip


LATER = VALUES["event_time"] + timedelta(microseconds=1_999)


def avro_schema(*fields: dict[str, Any]) -> dict[str, Any]:
    mine = {field["name"]: field for field in (*FIELDS, *fields)}
    return {"type": "record", "name": "Transaction", "fields": list(mine.values())}


def source(schema: Any, **references: RegistrySchema) -> RegistrySchema:
    return RegistrySchema("AVRO", orjson.dumps(schema).decode(), references)


def avro(schema: Any, values: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), values)
    return stream.getvalue()


def framed(schema_id: int, data: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + data


class Known(dict[Hashable, SchemaReader]):
    """Schemas that are here."""

    def get(self, schema: Hashable, default: Any = None) -> Any:
        if schema not in self:
            raise NotReadableYetError(schema)
        return self[schema]


def rules(schemas: Any = None, **settings: Any) -> RecordRules:
    given = {"input_format": "avro", "schema_registry": "http://r", **settings}
    return record_rules(load_settings(given), schemas)


def parse(value: bytes, schemas: Any, headers: Any = (), **settings: Any) -> Transaction:
    return parse_transaction(value, b"c1", T0, rules(schemas, **settings), headers)


def reason(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(DeadRecordError) as caught:
        parse(*args, **kwargs)
    assert caught.value.message
    return caught.value.reason


def one(*fields: dict[str, Any], **values: Any) -> Transaction:
    """A record with these fields beside the usual ones."""
    schema = avro_schema(*fields)
    return parse(
        framed(7, avro(schema, {**VALUES, **values})), Known({7: AvroReader(source(schema))})
    )


class TestAvro:
    def test_a_record_of_logical_types(self) -> None:
        found = one()
        assert (found.transaction_id, found.card_id, found.terminal_id) == ("tx-1", "c1", "t1")
        assert (found.minor, found.event_time_ms) == (1250, T0)
        assert b'"amount":12.50' in found.body
        assert orjson.loads(found.body)["event_time"] == "2023-11-14T22:13:20+00:00"

    @pytest.mark.parametrize(
        ("field", "value", "text"),
        [
            ({"type": ["null", "double"]}, None, b"null"),
            ({"type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}}, "B", b'"B"'),
            ({"type": {"type": "array", "items": "long"}}, [1, 2**62], b"[1,4611686018427387904]"),
            ({"type": {"type": "map", "values": "string"}}, {"k": "v"}, b'{"k":"v"}'),
            ({"type": "bytes"}, b"\0\xff", b'"AP8="'),
            ({"type": {"type": "fixed", "name": "F", "size": 2}}, b"\0\xff", b'"AP8="'),
            ({"type": {"type": "string", "logicalType": "uuid"}}, uuid.UUID(GUID), f'"{GUID}"'.encode()),
            ({"type": {"type": "int", "logicalType": "date"}}, date(2026, 11, 20), b'"2026-11-20"'),
            ({"type": "double"}, float("nan"), b"null"),
            (
                {"type": {"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 20}},
                Decimal("12345678901234567890.12345678901234567890"),
                b"12345678901234567890.12345678901234567890",
            ),
            (
                {"type": {"type": "record", "name": "M", "fields": [{"name": "n", "type": "string"}]}},
                {"n": "Acme"}, b'{"n":"Acme"}',
            ),
        ],
    )  # fmt: skip
    def test_other_fields_are_kept_as_json(self, field: Any, value: Any, text: bytes) -> None:
        assert b'"more":' + text in one({"name": "more", **field}, more=value).body

    @pytest.mark.parametrize(
        ("kind", "value", "ms"),
        [
            ({"type": "long", "logicalType": "timestamp-micros"}, LATER, T0 + 1),
            ("long", T0, T0), ("long", T0 * 1000, T0), ("double", T0 / 1000, T0),
            ("string", "2023-11-14T23:13:20+01:00[Europe/Berlin]", T0),
        ],
    )  # fmt: skip
    def test_event_times(self, kind: Any, value: Any, ms: int) -> None:
        assert one({"name": "event_time", "type": kind}, event_time=value).event_time_ms == ms

    @pytest.mark.parametrize(
        ("kind", "value", "text"),
        [("long", 42, "42"), ({"type": "string", "logicalType": "uuid"}, uuid.UUID(GUID), GUID),
         ({"type": "bytes", "logicalType": "decimal", "precision": 30}, Decimal(10**25), str(10**25)),
         ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, Decimal("42.00"), "42")],
    )  # fmt: skip
    def test_ids(self, kind: Any, value: Any, text: str) -> None:
        found = one({"name": "transaction_id", "type": kind}, transaction_id=value)
        assert found.transaction_id == orjson.loads(found.body)["transaction_id"] == text

    def test_versions_of_a_schema_side_by_side(self) -> None:
        old, new = avro_schema(), avro_schema({"name": "note", "type": "string"})
        schemas = Known({1: AvroReader(source(old)), 2: AvroReader(source(new))})
        assert b"note" not in parse(framed(1, avro(old, VALUES)), schemas).body
        assert b'"note":"n"' in parse(framed(2, avro(new, {**VALUES, "note": "n"})), schemas).body

    def test_a_schema_that_refers_to_another(self) -> None:
        merchant = {
            "type": "record",
            "name": "shop.Merchant",
            "fields": [{"name": "n", "type": "string"}],
        }
        schema = avro_schema({"name": "merchant", "type": "shop.Merchant"})
        whole = avro_schema({"name": "merchant", "type": merchant})
        reader = AvroReader(source(schema, **{"shop.Merchant": source(merchant)}))
        value = framed(1, avro(whole, {**VALUES, "merchant": {"n": "Acme"}}))
        assert b'"merchant":{"n":"Acme"}' in parse(value, Known({1: reader})).body

    def test_an_id_or_a_guid_in_a_header_names_the_schema(self) -> None:
        data = avro(avro_schema(), VALUES)
        reader = AvroReader(source(avro_schema()))
        schemas = Known({7: reader, GUID: reader})
        by_guid = b"\1" + uuid.UUID(GUID).bytes
        for named in (by_guid, framed(7, b"")):
            headers = [("x", None), (SCHEMA_HEADER, named)]
            assert parse(data, schemas, headers).minor == 1250
        assert reason(data, schemas, [(SCHEMA_HEADER, by_guid[:-1])]) == "undecodable"

    def test_json_records_stay_readable(self) -> None:
        """The topic may have changed from one to the other: what is read again must read the same."""
        assert parse(tx_bytes(), Known()).minor == 1000
        assert reason(b"junk", Known()) == "invalid_json"

    def test_a_schema_that_is_not_here_is_waited_for(self) -> None:
        with pytest.raises(NotReadableYetError) as caught:
            parse(framed(9, b"x"), Known())
        assert caught.value.schema == 9

    def test_what_no_schema_can_help(self) -> None:
        schemas = Known(
            {7: AvroReader(source(avro_schema())), 8: RefusedSchema("unknown_schema", "no")}
        )
        data = avro(avro_schema(), VALUES)
        assert reason(framed(7, data)[:3], schemas) == "undecodable"
        assert reason(framed(7, data[:-3]), schemas) == "undecodable"
        assert reason(framed(7, data + b"x"), schemas) == "undecodable"
        assert reason(framed(8, data), schemas) == "unknown_schema"

    @given(st.binary(max_size=60))
    def test_no_bytes_break_it(self, data: bytes) -> None:
        schemas = Known(
            {
                7: AvroReader(
                    source(avro_schema({"name": "m", "type": {"type": "map", "values": "double"}}))
                )
            }
        )
        for value in (framed(7, data), data, b"\0" + data):
            try:
                parse(value, schemas)
            except (DeadRecordError, NotReadableYetError):
                continue

    def test_no_deeper_than_json(self) -> None:
        schema = avro_schema(
            {
                "name": "n",
                "type": {
                    "type": "record",
                    "name": "N",
                    "fields": [{"name": "n", "type": ["null", "N"]}],
                },
            }
        )
        schemas = Known({7: AvroReader(source(schema))})
        for depth, wanted in ((90, None), (101, "too_deep"), (400, "too_deep")):
            nested: Any = None
            for _ in range(depth):
                nested = {"n": nested}
            value = framed(7, avro(schema, {**VALUES, "n": nested}))
            if wanted is None:
                assert parse(value, schemas).minor == 1250
            else:
                assert reason(value, schemas) == wanted

    @pytest.mark.parametrize("kind", ["bytes", "fixed"])
    def test_decimals_are_exact_and_bounded(self, kind: str) -> None:
        """fastavro's own reader rounds to the schema's precision, and takes a minute for 300 KB."""
        for size, digits in ((8, 4), (128, 300), (129, None), (400_000, None)):
            of = {"logicalType": "decimal", "precision": 4, "scale": 2}
            schema = avro_schema(
                {"name": "x", "type": {"type": kind, "name": "F", "size": size, **of}}
            )
            exact = 10 ** (digits or 4) + 1
            number = exact.to_bytes(size, "big", signed=True)
            before = avro(avro_schema(), VALUES)
            length = io.BytesIO()
            fastavro.schemaless_writer(length, "long", size)
            framing = length.getvalue() if kind == "bytes" else b""
            value = framed(7, before + framing + number)
            schemas = Known({7: AvroReader(source(schema))})
            if digits is None:
                assert reason(value, schemas) == "undecodable"
            else:
                assert b'"x":%d.01}' % (exact // 100) in parse(value, schemas).body

    def test_no_depth_ends_the_process(self) -> None:
        """The reader in C has no limit: records that may hold themselves are read by the one in Python."""
        inner = {
            "type": "record",
            "name": "B",
            "fields": [{"name": "a", "type": {"type": "map", "values": "A"}}],
        }
        schema = {"type": "record", "name": "A", "fields": [{"name": "b", "type": ["null", inner]}]}
        data = framed(7, b"\2\2\2x" * 200_000)
        assert reason(data, Known({7: AvroReader(source(schema))})) == "too_deep"


def proto_file() -> descriptor_pb2.FileDescriptorProto:
    kinds = descriptor_pb2.FieldDescriptorProto
    made = descriptor_pb2.FileDescriptorProto(name="tx.proto", package="shop", syntax="proto3")
    made.dependency.append("google/protobuf/timestamp.proto")
    made.dependency.append("google/protobuf/wrappers.proto")
    made.message_type.add(name="Other")
    message = made.message_type.add(name="Tx")
    for number, (name, kind, of) in enumerate(
        [
            ("transaction_id", kinds.TYPE_INT64, ""), ("card_id", kinds.TYPE_STRING, ""),
            ("amount", kinds.TYPE_STRING, ""), ("event_time", kinds.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
            ("terminal_id", kinds.TYPE_MESSAGE, ".google.protobuf.StringValue"), ("raw", kinds.TYPE_BYTES, ""),
            ("kind", kinds.TYPE_ENUM, ".shop.Tx.Kind"), ("part", kinds.TYPE_MESSAGE, ".shop.Tx.Part"),
        ], 1,
    ):  # fmt: skip
        message.field.add(
            name=name, number=number, type=kind, type_name=of or None, label=kinds.LABEL_OPTIONAL
        )
    message.field.add(name="tags", number=9, type=kinds.TYPE_UINT64, label=kinds.LABEL_REPEATED)
    part = message.nested_type.add(name="Part")
    part.field.add(name="n", number=1, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_OPTIONAL)
    kind = message.enum_type.add(name="Kind")
    kind.value.add(name="UNKNOWN", number=0)
    kind.value.add(name="ONLINE", number=1)
    return made


class TestProtobuf:
    def message(self) -> Any:
        pool = descriptor_pool.DescriptorPool()
        for known in (timestamp_pb2, wrappers_pb2):
            pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
        pool.Add(proto_file())
        described = pool.FindMessageTypeByName("shop.Tx")
        made = message_factory.GetMessageClass(described)(
            transaction_id=2**60,
            card_id="c1",
            amount="12.50",
            raw=b"\0\xff",
            kind=1,
            tags=[1, 2**63],
        )
        made.event_time.FromMilliseconds(T0 + 7)
        made.terminal_id.value = "t1"
        made.part.n = 2.5
        return made

    def reader(self) -> ProtobufReader:
        text = base64.b64encode(proto_file().SerializeToString()).decode()
        return ProtobufReader(RegistrySchema("PROTOBUF", text, {}))

    def test_a_message_and_well_known_types(self) -> None:
        value = framed(3, b"\2\2" + self.message().SerializeToString())
        found = parse(value, Known({3: self.reader()}), input_format="protobuf")
        assert (found.transaction_id, found.terminal_id) == (str(2**60), "t1")
        assert (found.minor, found.event_time_ms) == (1250, T0 + 7)
        fields = orjson.loads(found.body)
        assert fields["raw"] == "AP8="
        assert fields["kind"] == "ONLINE"
        assert fields["part"] == {"n": 2.5}
        assert fields["tags"] == [1, 2**63]

    def test_message_indexes(self) -> None:
        data = self.message().SerializeToString()
        schemas = Known({3: self.reader()})
        outer = parse(framed(3, b"\2\2" + data), schemas, input_format="protobuf")
        assert outer.card_id == "c1"
        assert (
            reason(framed(3, b"\0" + data), schemas, input_format="protobuf") == "missing_card_id"
        )
        nested = b"\4\2\0" + struct.pack("<Bd", 9, 1.0)
        assert reason(framed(3, nested), schemas, input_format="protobuf") == "missing_card_id"
        for bad in (b"", b"\2", b"\2\x7e", b"\2\1", b"\xff\xff\xff", b"\4\2\x10", b"\2\2\xff"):
            assert reason(framed(3, bad), schemas, input_format="protobuf") == "undecodable"

    @pytest.mark.parametrize(
        "text",
        ['syntax = "proto3"; message T {}', "AAAA", base64.b64encode(b"\xff\xff").decode()],
    )
    def test_a_schema_that_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="serialized"):
            ProtobufReader(RegistrySchema("PROTOBUF", text, {}))

    @pytest.mark.parametrize(
        ("seconds", "nanos"), [(T0, 0), (-(10**13), 0), (T0 // 1000, -5), (T0 // 1000, 2**31 - 1)]
    )
    def test_a_time_out_of_range(self, seconds: int, nanos: int) -> None:
        """Such as milliseconds where seconds belong: Protobuf sends them, and refuses to write them."""
        message = self.message()
        message.event_time.seconds, message.event_time.nanos = seconds, nanos
        value = framed(3, b"\2\2" + message.SerializeToString())
        assert reason(value, Known({3: self.reader()}), input_format="protobuf") == "undecodable"

    @pytest.mark.parametrize("scale", [2**31 - 1, -(2**31)])
    def test_a_decimal_with_an_absurd_scale(self, scale: int) -> None:
        """Its digits would fill the memory."""
        from confluent_kafka.schema_registry.confluent.types import decimal_pb2

        file = proto_file()
        file.dependency.append("confluent/type/decimal.proto")
        amount = file.message_type[1].field[2]
        amount.type, amount.type_name = amount.TYPE_MESSAGE, ".confluent.type.Decimal"
        reader = ProtobufReader(
            RegistrySchema("PROTOBUF", base64.b64encode(file.SerializeToString()).decode(), {})
        )
        decimal = decimal_pb2.Decimal(value=b"\x04\xd2", scale=scale, precision=4)
        field = decimal.SerializeToString()
        value = framed(3, b"\2\2\x1a" + bytes([len(field)]) + field)
        assert reason(value, Known({3: reader}), input_format="protobuf") == "undecodable"


class TestEnvelopes:
    def event(self, op: str = "c", **fields: Any) -> dict[str, Any]:
        return {"before": None, "after": tx(), "op": op, "source": {"db": "shop"}, **fields}

    def parse(self, event: Any) -> Transaction:
        settings = {"input_format": "json", "schema_registry": None, "input_envelope": "debezium"}
        value = event if isinstance(event, bytes) else orjson.dumps(event)
        return parse(value, None, **settings)

    @pytest.mark.parametrize("op", ["c", "r"])
    def test_the_row_is_the_record(self, op: str) -> None:
        for event in (self.event(op), {"schema": {"type": "struct"}, "payload": self.event(op)}):
            assert self.parse(event).body == tx_bytes()
        assert self.parse(tx_bytes()).body == tx_bytes()
        assert self.parse({"schema": {}, "payload": tx()}).body == tx_bytes()

    def test_its_digits_stay(self) -> None:
        text = orjson.dumps(self.event()).replace(
            b'"amount":10.0', b'"amount":10.00,"x":12345678901234567890123'
        )
        assert b'"amount":10.00,"x":12345678901234567890123' in self.parse(text).body

    @pytest.mark.parametrize(
        ("event", "wanted"),
        [({"op": "u"}, "not_an_insert"), ({"op": "d", "after": None}, "not_an_insert"),
         ({"op": "t"}, "not_an_insert"), ({"op": ["c"]}, "not_an_insert"), ({"after": None}, "not_an_object")],
    )  # fmt: skip
    def test_what_is_no_new_row(self, event: dict[str, Any], wanted: str) -> None:
        with pytest.raises(DeadRecordError) as caught:
            self.parse(self.event() | event)
        assert caught.value.reason == wanted

    @pytest.mark.parametrize("payload", [None, "x", 1, [1]])
    def test_a_wrapper_around_nothing(self, payload: Any) -> None:
        """What Kafka Connect writes with a schema where a row was deleted."""
        with pytest.raises(DeadRecordError, match="payload") as caught:
            self.parse({"schema": None, "payload": payload})
        assert caught.value.reason == "not_an_object"

    @pytest.mark.parametrize("op", ["t", "m"])
    def test_an_event_without_a_row(self, op: str) -> None:
        for settings, wanted in (
            ("debezium", "not_an_insert"),
            ("none", "debezium_envelope"),
        ):
            value = orjson.dumps({"op": op, "source": {"db": "shop"}, "ts_ms": T0})
            given = {"input_format": "json", "schema_registry": None, "input_envelope": settings}
            assert reason(value, None, **given) == wanted

    def test_a_record_beside_its_schema_is_named_without_the_setting(self) -> None:
        value = orjson.dumps({"schema": {"type": "struct"}, "payload": tx()})
        with pytest.raises(DeadRecordError, match=r"schemas\.enable=false") as caught:
            parse(value, None, input_format="json", schema_registry=None)
        assert caught.value.reason == "missing_card_id"

    def test_in_avro(self) -> None:
        row = avro_schema()
        schema = {
            "type": "record", "name": "Envelope",
            "fields": [{"name": "before", "type": ["null", row]}, {"name": "after", "type": ["null", "Transaction"]},
                       {"name": "op", "type": "string"}],
        }  # fmt: skip
        value = framed(4, avro(schema, {"before": None, "after": VALUES, "op": "c"}))
        schemas = Known({4: AvroReader(source(schema))})
        assert parse(value, schemas, input_envelope="debezium").minor == 1250
        assert reason(value, schemas) == "debezium_envelope"


class TestJsonSchema:
    def test_framed_and_plain_json(self) -> None:
        settings = {"input_format": "json-schema", "schema_registry": None}
        assert parse(framed(1, tx_bytes()), None, **settings).body == tx_bytes()
        assert parse(tx_bytes(), None, **settings).body == tx_bytes()
        headers = [(SCHEMA_HEADER, b"\1" + uuid.UUID(GUID).bytes)]
        assert parse(tx_bytes(), None, headers, **settings).body == tx_bytes()
        assert reason(framed(1, b"{"), None, **settings) == "invalid_json"


def test_a_header_that_names_a_schema_is_told_without_the_setting() -> None:
    headers = [(SCHEMA_HEADER, b"\1" + uuid.UUID(GUID).bytes)]
    plain = {"input_format": "json", "schema_registry": None}
    assert reason(avro(avro_schema(), VALUES), None, headers, **plain) == "framed_record"
    assert parse(tx_bytes(), None, headers, **plain).minor == 1000


def test_a_dead_letter_keeps_the_header_that_names_its_schema() -> None:
    named = (SCHEMA_HEADER, b"\1" + uuid.UUID(GUID).bytes)
    record: Any = type("R", (), {"offset": 1, "key": b"k", "value": b"v", "headers": [named]})
    *_, headers = dead_letter("t", 0, record, DeadRecordError("undecodable", "m"))
    assert named in headers


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    with pytest.raises(UsageError, match=r"pip install 'fraudstream\[registry\]'"):
        SchemaRegistry(load_settings({"input_format": "avro", "schema_registry": "http://r"}))


def test_a_format_without_a_registry_is_refused() -> None:
    with pytest.raises(SettingsError, match="needs FRAUDSTREAM_SCHEMA_REGISTRY"):
        load_settings({"input_format": "protobuf"})


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40))
def test_any_frame_is_told(value: bytes, header: bytes) -> None:
    try:
        frame_of(value, [(SCHEMA_HEADER, header)])
    except DeadRecordError as error:
        assert error.reason == "undecodable"
