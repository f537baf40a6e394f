"""Records of Avro schemas; what JSON has no value for is written as docs/input-formats.md says."""

import json
from io import BytesIO
from typing import Any

from app.domain.json_text import Fields
from app.domain.transaction import DeadRecordError
from app.wire.decoding.schemas import Source


class AvroReader:
    """Reads records with the schema that they were written with.

    Raises:
        ValueError: the schema is no Avro schema of a record.
    """

    def __init__(self, source: Source) -> None:
        from fastavro import parse_schema, schemaless_reader

        try:
            named: dict[str, Any] = {}
            for each in _in_order(source):
                parsed = parse_schema(json.loads(each.text), named_schemas=named)
        except Exception as error:  # fastavro has errors of many kinds for what it does not take
            msg = f"{type(error).__name__}: {error}"
            raise ValueError(msg) from error
        self._schema = parsed
        self._read = schemaless_reader

    def read(self, data: bytes) -> Fields:
        """See `app.wire.decoding.schemas.Reader`."""
        stream = BytesIO(data)
        try:
            fields = self._read(stream, self._schema, None)
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


def _in_order(source: Source) -> list[Source]:
    """A schema behind all that it refers to, each once."""
    found: dict[str, Source] = {}
    for each in source.references.values():
        for inner in _in_order(each):
            found.setdefault(inner.text, inner)
    return [*found.values(), source]
