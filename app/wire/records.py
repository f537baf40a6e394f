"""Records on the wire behind `transactions`: what goes from stage to stage, predictions, dead letters.

`enriched` carries msgpack batches, `predictions` the input object with our fields spliced on. See
app/wire/input_records.py for what comes in.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import msgspec
import orjson

from app.domain.privacy import AS_IT_CAME, Privacy
from app.domain.refusals import LOST
from app.domain.transaction import DeadRecordError, Transaction, hash_id
from app.wire.input_records import MAX_RECORD_BYTES, SourceRecord

ENRICHED_VERSION = 2
#: Messages of this version do not say which features their items have.
UNNAMED_VERSION = 1
Headers = list[tuple[str, bytes]]
#: Header of an alert: equal for repeated records of it.
ALERT_KEY = "idempotency-key"


class EnrichedItem(msgspec.Struct, array_like=True):
    """One transaction on its way to its terminal.

    Attributes:
        offset: its source offset (topic and partition stand in the batch).
        received_at: when the broker appended the source record, epoch milliseconds.
        transaction_id, card_id, terminal_id, minor, event_time_ms, body: see `Transaction`.
        features: the card's features, in the order of the batch's schema.
        flags: `late`, `out_of_order`, `inexact:card_...`.
        own: codes of the deployment's own fields that its terminal keeps.
    """

    offset: int
    received_at: int
    transaction_id: str
    card_id: str
    terminal_id: str | None
    minor: int
    event_time_ms: int
    body: bytes
    features: list[float]
    flags: list[str]
    own: list[int] = []

    @property
    def id8(self) -> bytes:
        """64-bit hash of the transaction id."""
        return hash_id(self.transaction_id)


class EnrichedBatch(msgspec.Struct, array_like=True):
    """One message on `enriched`: consecutive items of one source partition.

    Attributes:
        version: `ENRICHED_VERSION`.
        topic, partition: where the items come from.
        items: in source order.
        schema: names the features that the transactions are scored by (app/domain/features/schema.py): those of the
            worker that began them. Empty in messages of releases before 0.2.0.
    """

    version: int
    topic: str
    partition: int
    items: list[EnrichedItem]
    schema: str = ""


_enriched_decoder = msgspec.msgpack.Decoder(EnrichedBatch)
encode_item = msgspec.msgpack.Encoder().encode


def enriched_message(topic: str, partition: int, items: Sequence[bytes], schema: str = "") -> bytes:
    """One `enriched` message from items that `encode_item` encoded already.

    The parts are joined by hand: an item is encoded once, and its length decides where a message ends.
    """
    count = len(items)
    if count < 16:
        array_header = bytes((0x90 | count,))
    elif count < 1 << 16:
        array_header = b"\xdc" + count.to_bytes(2, "big")
    else:
        array_header = b"\xdd" + count.to_bytes(4, "big")
    head = encode_item((ENRICHED_VERSION, topic, partition))
    return b"".join((b"\x95", head[1:], array_header, *items, encode_item(schema)))


def decode_enriched(value: bytes) -> EnrichedBatch:
    """The batch of one `enriched` message.

    Raises:
        msgspec.DecodeError: it is damaged or of a version that this release does not know.
    """
    batch = _enriched_decoder.decode(value)
    if batch.version not in (UNNAMED_VERSION, ENRICHED_VERSION):
        msg = f"enriched message of version {batch.version}, this release reads up to {ENRICHED_VERSION}"
        raise msgspec.DecodeError(msg)
    return batch


def prediction_message(body: bytes, added: dict[str, Any]) -> bytes:
    """The prediction record: the input object with `added` (see `OUTPUT_FIELDS`) spliced on."""
    return body[:-1] + b"," + orjson.dumps(added)[1:]


def duplicate_message(
    topic: str, partition: int, record: SourceRecord, transaction: Transaction, currency: str
) -> bytes:
    """The record on `duplicates`: what was repeated, and where the repetition is.

    Args:
        topic: source topic.
        partition: source partition.
        record: the source record.
        transaction: what it says.
        currency: the deployment's: that of `amount_minor`.
    """
    return orjson.dumps(
        {
            "transaction_id": transaction.transaction_id,
            "card_id": transaction.card_id,
            "terminal_id": transaction.terminal_id,
            "amount_minor": transaction.minor,
            "currency": currency,
            "event_time_ms": transaction.event_time_ms,
            "source_topic": topic,
            "source_partition": partition,
            "source_offset": record.offset,
            "received_at": record.timestamp,
        }
    )


def refund_message(topic: str, partition: int, record: SourceRecord, refund: Transaction) -> bytes:
    """The record on `refunds`: the input object with what is needed to store it spliced on."""
    return prediction_message(
        refund.body,
        {
            "amount_minor": refund.minor,
            "event_time_ms": refund.event_time_ms,
            "source_topic": topic,
            "source_partition": partition,
            "source_offset": record.offset,
            "received_at": record.timestamp,
        },
    )


def alert_record(alert: dict[str, Any]) -> tuple[bytes, bytes, Headers]:
    """Key, value and headers of the record on `alerts`: a header names it, for readers that drop repetitions."""
    return alert["card_id"].encode(), orjson.dumps(alert), [(ALERT_KEY, alert["key"].encode())]


def source_position(topic: str, partition: int, offset: int) -> bytes:
    """How a source record is named in keys and headers: `topic/partition/offset`."""
    return f"{topic}/{partition}/{offset}".encode()


#: Header of a dead letter's record that was sent back: where it first died. Its next letter keeps it.
REDRIVEN = "redriven"
#: Headers that a dead letter's record needs when it is sent back: the second one names the value's schema.
KEPT_HEADERS = (REDRIVEN, "__value_schema_id")
#: Header of a letter that accounts for lost offsets: the one after the last.
UNTIL = "until"
#: Bytes of a key that a dead letter keeps.
LETTER_KEY_BYTES = 4096
#: Header of a letter whose value or key is not as it came: card numbers in it are masked.
MASKED = "masked"
KEPT_HEADER_BYTES = 512


def dead_letter(
    topic: str,
    partition: int,
    record: SourceRecord,
    dead: DeadRecordError,
    max_bytes: int = MAX_RECORD_BYTES,
    privacy: Privacy = AS_IT_CAME,
) -> tuple[bytes, bytes | None, Headers]:
    """Key, value and headers of a dead letter: the original bytes are the value, their card numbers masked.

    A value beyond `max_bytes` is cut there; its size and SHA-256 stand in the headers then. A record that was
    sent back from the dead letters keeps the header that says so. One that is not as it came says so, too.
    """
    kept = privacy.of_letter
    headers: Headers = [
        ("topic", topic.encode()),
        ("partition", str(partition).encode()),
        ("offset", str(record.offset).encode()),
        ("reason", dead.reason.encode()),
        ("message", kept(dead.message[:1000].encode(errors="replace"))),
    ]
    key, value = record.key, record.value
    if key is not None:
        headers.append(("key", kept(key[:LETTER_KEY_BYTES])))
    if record.headers:
        came = headers_of(record)
        headers += [(name, came[name][:KEPT_HEADER_BYTES]) for name in KEPT_HEADERS if name in came]
    if value is not None and len(value) > max_bytes:
        headers.append(("size", str(len(value)).encode()))
        headers.append(("sha256", sha256(value).hexdigest().encode()))
        value = value[:max_bytes]
    masked = None if value is None else kept(value)
    if masked != value or (key is not None and kept(key) != key):
        headers.append((MASKED, b"1"))
    return source_position(topic, partition, record.offset), masked, headers


def headers_of(record: SourceRecord) -> dict[str, bytes]:
    """The headers of a record by name, the last of equal names; Kafka allows null for a value, which is none."""
    return {name: value for name, value in record.headers if value is not None}


def loss_letter(topic: str, partition: int, begin: int, end: int) -> tuple[bytes, None, Headers]:
    """Key, value and headers of what accounts for offsets that were deleted before they were read.

    Args:
        topic: the topic that lacks them.
        partition: its partition.
        begin: the first of them.
        end: the offset after the last one.
    """
    message = f"offsets {begin} to {end - 1} were deleted before they were read"
    return (
        source_position(topic, partition, begin),
        None,
        [
            ("topic", topic.encode()),
            ("partition", str(partition).encode()),
            ("offset", str(begin).encode()),
            (UNTIL, str(end).encode()),
            ("reason", LOST.encode()),
            ("message", message.encode()),
        ],
    )


def origin_of(headers: Iterable[tuple[str, bytes]]) -> bytes | None:
    """The source position that a forwarded record came from, None for any other record."""
    return next((value for name, value in headers if name == "origin" and value), None)
