"""Change events of a database: Debezium wraps a row in an envelope that names the operation."""

from collections.abc import Mapping
from typing import Any

from app.domain.transaction import DeadRecordError

#: Inserts, and rows that a snapshot read.
_INSERTS = ("c", "r")
#: Events without a row.
_ROWLESS = ("t", "m")
_WORDS = {"u": "an update", "d": "a delete", "t": "a truncate", "m": "a message"}


def is_envelope(fields: Mapping[str, Any]) -> bool:
    """Whether fields are those of an envelope, with or without the schema that Kafka Connect adds."""
    inner = _payload(fields)
    if not isinstance(inner, dict) or "op" not in inner:
        return False
    return "after" in inner or "before" in inner or ("source" in inner and inner["op"] in _ROWLESS)


def is_wrapped(fields: Mapping[str, Any]) -> bool:
    """Whether fields are those in which Kafka Connect wraps a record together with its schema."""
    return fields.keys() == {"schema", "payload"} and isinstance(fields["payload"], dict)


def path_to_record(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The path of field names to the row in an envelope; empty if the record is not an envelope.

    Raises:
        DeadRecordError: the envelope does not describe a new row, or contains no row.
    """
    path = () if _payload(fields) is fields else ("payload",)
    if not isinstance(_payload(fields), dict):  # null if the row was deleted
        raise DeadRecordError("not_an_object", "the envelope has no object under `payload`")
    if not is_envelope(fields):
        return path
    inner = _payload(fields)
    if inner["op"] not in _INSERTS:
        op = str(inner["op"])[:20]
        word = _WORDS.get(op, f"op {op!r}")
        msg = f"{word} of a row is not a new transaction; only c (insert) and r (snapshot) are"
        raise DeadRecordError("not_an_insert", msg)
    if not isinstance(inner.get("after"), dict):
        raise DeadRecordError("not_an_object", "the envelope has no row under `after`")
    return (*path, "after")


def _payload(fields: Mapping[str, Any]) -> Any:
    return fields["payload"] if fields.keys() == {"schema", "payload"} else fields
