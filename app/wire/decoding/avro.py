"""Records of Avro schemas; what JSON has no value for is written as docs/input-formats.md says."""

import json
from collections.abc import Mapping
from decimal import MAX_PREC, Context, Decimal
from io import BytesIO
from typing import Any

from app.domain.json_text import Fields
from app.domain.transaction import DeadRecordError
from app.wire.decoding.schemas import RegistrySchema

#: Some 300 digits.
_MOST_DECIMAL_BYTES = 128
_EXACT = Context(prec=MAX_PREC)


class AvroReader:
    """Reads records with the schema that they were written with.

    Raises:
        ValueError: the schema is no Avro schema of a record.
    """

    def __init__(self, source: RegistrySchema) -> None:
        from fastavro import parse_schema, schemaless_reader
        from fastavro._read_py import schemaless_reader as slow_reader
        from fastavro.read import LOGICAL_READERS

        LOGICAL_READERS.update({"bytes-decimal": _read_decimal, "fixed-decimal": _read_decimal})
        try:
            named: dict[str, Any] = {}
            for each in _in_order(source):
                parsed = parse_schema(json.loads(each.text), named_schemas=named)
        except Exception as error:  # fastavro has errors of many kinds for what it does not take
            msg = f"{type(error).__name__}: {error}"
            raise ValueError(msg) from error
        self._schema = parsed
        # records that may hold themselves can be nested so deep that the reader in C ends the process
        self._read = slow_reader if _holds_itself(named) else schemaless_reader

    def read(self, data: bytes) -> Fields:
        """See `app.wire.decoding.schemas.SchemaReader`."""
        stream = BytesIO(data)
        try:
            fields = self._read(stream, self._schema, None)
        except RecursionError:
            raise DeadRecordError("too_deep", "the Avro record is nested too deep") from None
        except Exception as error:  # hostile bytes fail anywhere in it
            msg = f"not a record of its Avro schema: {type(error).__name__}: {str(error)[:200]}"
            raise DeadRecordError("undecodable", msg) from None
        if stream.tell() != len(data):
            msg = f"{len(data) - stream.tell()} bytes remain after the Avro record"
            raise DeadRecordError("undecodable", msg)
        if not isinstance(fields, dict):
            msg = f"an Avro record was expected, not {type(fields).__name__}"
            raise DeadRecordError("not_an_object", msg)
        return fields


def _read_decimal(data: bytes, writer_schema: Any = None, _reader_schema: Any = None) -> Decimal:
    """A decimal with all its digits, in place of fastavro's reader.

    That one rounds to the precision of the schema, and takes a minute for 300 KB.

    Raises:
        ValueError: it has more bytes than any number that is meant.
    """
    if len(data) > _MOST_DECIMAL_BYTES:
        msg = f"a decimal has {len(data):,} bytes; the limit is {_MOST_DECIMAL_BYTES}"
        raise ValueError(msg)
    unscaled = int.from_bytes(data, "big", signed=True)
    return Decimal(unscaled).scaleb(-writer_schema.get("scale", 0), _EXACT)


def _in_order(source: RegistrySchema) -> list[RegistrySchema]:
    """A schema behind all that it refers to, each once."""
    found: dict[str, RegistrySchema] = {}
    for each in source.references.values():
        for inner in _in_order(each):
            found.setdefault(inner.text, inner)
    return [*found.values(), source]


def _holds_itself(named: Mapping[str, Any]) -> bool:
    """Whether a record of these definitions may hold one of its own kind."""
    mentioned = {name: _names_in(each.get("fields", ())) for name, each in named.items()}
    for name in mentioned:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            for inner in mentioned.get(waiting.pop(), ()):
                if inner == name:
                    return True
                if inner not in seen:
                    seen.add(inner)
                    waiting.append(inner)
    return False


def _names_in(schema: Any) -> set[str]:
    """All that a schema mentions, names of types among it."""
    if isinstance(schema, str):
        return {schema}
    if isinstance(schema, Mapping):
        inner = [schema.get(key, ()) for key in ("type", "items", "values", "fields", "name")]
        return set().union(*map(_names_in, inner))
    return set().union(*map(_names_in, schema))
