"""Records of Protobuf schemas, as the JSON that Protobuf itself defines, with our field names.

A registry gives the file that describes a message, serialized; files that it imports are its references.
"""

import base64
import binascii
from typing import Any

from app.domain.json_text import Fields
from app.domain.transaction import DeadRecordError
from app.wire.decoding.framing import read_indexes
from app.wire.decoding.schemas import RegistrySchema

#: A decimal comes with its own scale, and its digits are written: 2^31 zeros behind one byte would be as many bytes.
_MOST_DIGITS = 1_000


class ProtobufReader:
    """Reads records with the schema that they were written with.

    Raises:
        ValueError: the schema cannot be read.
    """

    def __init__(self, source: RegistrySchema) -> None:
        from confluent_kafka.schema_registry.common.protobuf import _init_pool
        from google.protobuf.descriptor_pool import DescriptorPool
        from google.protobuf.message import DecodeError

        pool = DescriptorPool()
        _init_pool(pool)
        try:
            self._file = pool.FindFileByName(_add(pool, "the schema", source))
        except (KeyError, TypeError, binascii.Error, DecodeError) as error:
            msg = f"not a serialized Protobuf file: {type(error).__name__}: {error}"
            raise ValueError(msg) from error
        self._classes: dict[tuple[int, ...], Any] = {}

    def read(self, data: bytes) -> Fields:
        """See `app.wire.decoding.schemas.SchemaReader`."""
        from google.protobuf.message import DecodeError

        indexes, begin = read_indexes(data)
        made = self._classes.get(indexes)
        if made is None:
            made = self._classes[indexes] = self._class(indexes)
        message = made()
        try:
            message.ParseFromString(data[begin:])
        except DecodeError as error:
            msg = f"not a message of its Protobuf schema: {error}"
            raise DeadRecordError("undecodable", msg) from None
        try:
            return _fields(message)
        except DeadRecordError:
            raise
        except (
            Exception
        ) as error:  # values that Protobuf lets through, such as a time in the year 60000
            msg = f"a value of the Protobuf message is out of range: {str(error)[:200]}"
            raise DeadRecordError("undecodable", msg) from None

    def _class(self, indexes: tuple[int, ...]) -> Any:
        from google.protobuf.message_factory import GetMessageClass

        try:
            if min(indexes) < 0:
                raise IndexError  # noqa: TRY301 -- Python would count from the end
            outer, *inner = indexes
            described = list(self._file.message_types_by_name.values())[outer]
            for index in inner:
                described = described.nested_types[index]
        except IndexError:
            msg = f"its Protobuf schema has no message {list(indexes)}"
            raise DeadRecordError("undecodable", msg) from None
        return GetMessageClass(described)


def _add(pool: Any, name: str, source: RegistrySchema) -> str:
    """Add a file and those that it imports; returns its name in the pool."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    for imported, each in source.references.items():
        try:
            pool.FindFileByName(imported)
        except KeyError:
            _add(pool, imported, each)
    text = "".join(source.text.split())
    described = FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    described.name = name
    pool.Add(described)
    return name


def _fields(message: Any) -> Fields:
    """A message's fields under their own names; those that are not set and have no default are missing."""
    fields: Fields = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            fields[field.name] = {str(key): _value(inner, value[key]) for key in value}
        elif field.is_repeated:
            fields[field.name] = [_value(field, each) for each in value]
        else:
            fields[field.name] = _value(field, value)
    return fields


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        known = _WELL_KNOWN.get(field.message_type.full_name)
        return known(value) if known else _fields(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return named.name if named else value
    return value


def _timestamp(value: Any) -> Any:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(value)


def _decimal(value: Any) -> Any:
    from confluent_kafka.schema_registry.common.protobuf import protobuf_to_decimal

    if abs(value.scale) > _MOST_DIGITS or len(value.value) > _MOST_DIGITS:
        msg = f"a decimal of scale {value.scale} and {len(value.value)} bytes is out of range"
        raise DeadRecordError("undecodable", msg)
    return protobuf_to_decimal(value)


#: Messages that stand for one value; the others are objects of their fields.
_WELL_KNOWN: dict[str, Any] = {
    **{
        f"google.protobuf.{name}": _timestamp
        for name in ("Timestamp", "Duration", "FieldMask", "Struct", "Value", "ListValue")
    },
    **{
        f"google.protobuf.{name}Value": lambda message: message.value
        for name in (
            "Double",
            "Float",
            "Int64",
            "UInt64",
            "Int32",
            "UInt32",
            "Bool",
            "String",
            "Bytes",
        )
    },
    "confluent.type.Decimal": _decimal,
}
