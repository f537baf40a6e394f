"""Changes on the wire: checking what comes on `control`, and the messages that carry a change on `enriched`.

On `enriched` these messages stand among those of transactions and labels (`app/wire/enriched_records.py`); the
version in front tells them apart.
"""

import re
from typing import Any

import msgspec

from app.domain.changes import AnyChange, ListChange, RuleChange
from app.domain.rules import RuleError
from app.domain.rules.ruleset import check_ids, check_reason, check_rule
from app.domain.transaction import DeadRecordError
from app.wire.enriched_records import EnrichedBatch, decode_enriched, encode_item
from app.wire.erase_records import EraseMessage, decode_erase, is_of_erasure
from app.wire.label_records import LabelBatch, decode_labels, is_of_labels

#: Version of a message that carries a change; those of transactions count from 1, those of labels from 100.
CHANGE_VERSION = 110
#: Largest change: it is copied into every partition of `enriched`.
MAX_CHANGE_BYTES = 64 * 1024
#: Objects and arrays in a change: how deep a decoder goes before it fails would depend on its caller's stack.
_MAX_CONTAINERS = 100
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


class ChangeMessage(msgspec.Struct, array_like=True, frozen=True):
    """A change on its way to one partition of `enriched`.

    Attributes:
        version: `CHANGE_VERSION`.
        topic, partition, offset: where it stands on `control`.
        received_at: when the broker appended it there, epoch milliseconds.
        body: the JSON object as it came.
    """

    version: int
    topic: str
    partition: int
    offset: int
    received_at: int
    body: bytes

    @property
    def change(self) -> AnyChange:
        """What it changes.

        Raises:
            DeadRecordError: this release does not know it.
        """
        return parse_change(self.body)


_change_decoder = msgspec.json.Decoder(AnyChange)
_message_decoder = msgspec.msgpack.Decoder(ChangeMessage)
_MARK = bytes((CHANGE_VERSION,))
encode_change = msgspec.json.Encoder().encode

Message = EnrichedBatch | LabelBatch | ChangeMessage | EraseMessage


def parse_change(value: bytes | None) -> AnyChange:
    """The change that a record on `control` asks for.

    Raises:
        DeadRecordError: it is none; the text says why.
    """
    if value is None:
        raise DeadRecordError(
            "invalid_change", "a change has no value: deleting its key means nothing"
        )
    if len(value) > MAX_CHANGE_BYTES:
        msg = f"a change has {len(value)} bytes; the limit is {MAX_CHANGE_BYTES}"
        raise DeadRecordError("invalid_change", msg)
    bare = _TEXT.sub(b"", value)
    if bare.count(b"[") + bare.count(b"{") > _MAX_CONTAINERS:
        msg = f"a change has more than {_MAX_CONTAINERS} objects and arrays"
        raise DeadRecordError("invalid_change", msg)
    try:
        change = _change_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DeadRecordError(
            "invalid_change", f"not a change that this release knows: {error}"
        ) from None
    for name in ("threshold", "share"):
        part: Any = getattr(change, name, None)
        if part is not None and not 0 <= part <= 1:
            raise DeadRecordError("invalid_change", f"a {name} of {part} is not between 0 and 1")
    try:
        _check_rules(change)
    except RuleError as error:
        raise DeadRecordError("invalid_change", str(error)) from None
    return change


def _check_rules(change: AnyChange) -> None:
    """Refuse a rule or a list entry that can be none in any deployment.

    Raises:
        RuleError: it cannot.
    """
    if isinstance(change, RuleChange):
        check_rule(change.name, change.expression or "True", change.reason, change.fields)
    elif isinstance(change, ListChange):
        check_ids(change.ids)
        check_reason(change.note)


def change_message(topic: str, partition: int, record: Any) -> bytes:
    """The message on `enriched` that carries a record of `control`."""
    value = (CHANGE_VERSION, topic, partition, record.offset, record.timestamp, record.value)
    return encode_item(value)


def decode_message(value: bytes) -> Message:
    """Any message on `enriched`.

    Raises:
        msgspec.DecodeError: it is damaged or of a version that this release does not know.
    """
    # the second byte is the version: all are small integers, which msgpack writes as they are
    mark = value[1:2]
    if mark == _MARK:
        return _message_decoder.decode(value)
    if is_of_labels(value):
        return decode_labels(value)
    return decode_erase(value) if is_of_erasure(value) else decode_enriched(value)
