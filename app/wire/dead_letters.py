"""Dead letters: what a refused record, or a lost range of offsets, leaves on `dead-letters`."""

from hashlib import sha256

from app.domain.privacy import AS_IT_CAME, KeptValue, Privacy
from app.domain.refusal_reasons import LOST
from app.domain.transaction import DeadRecordError
from app.wire.input_records import MAX_RECORD_BYTES, SourceRecord
from app.wire.output_records import Headers, source_position

#: Header of a dead letter's record that was sent back: where it first died. Its next letter keeps it.
REDRIVEN = "redriven"
#: Headers that a dead letter's record needs when it is sent back: the second one names the value's schema.
KEPT_HEADERS = (REDRIVEN, "__value_schema_id")
#: Header of a letter that accounts for lost offsets: the one after the last.
UNTIL = "until"
#: Bytes of a key that a dead letter keeps.
LETTER_KEY_BYTES = 4096
#: Header of a letter whose value or key is not as it came: card numbers in it are masked, or fields are hashed.
MASKED = "masked"
#: Header of a letter on whose value rules for single fields have acted: the digest of these rules.
PRIVATE = "private"
KEPT_HEADER_BYTES = 512


def dead_letter(
    topic: str,
    partition: int,
    record: SourceRecord,
    dead: DeadRecordError,
    max_bytes: int = MAX_RECORD_BYTES,
    privacy: Privacy = AS_IT_CAME,
) -> tuple[bytes, bytes | None, Headers]:
    """Key, value and headers of a dead letter: the original bytes are the value, as far as the rules keep them.

    A value beyond `max_bytes` is cut there; its size and SHA-256 stand in the headers then. A record that was
    sent back from the dead letters keeps the header that says so. One that is not as it came says so, too.
    """
    kept = privacy.of_text
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
    left = KeptValue(None) if value is None else privacy.of_letter(value)
    if left.is_masked or (key is not None and kept(key) != key):
        headers.append((MASKED, b"1"))
    if left.is_private:
        headers.append((PRIVATE, privacy.digest))
    return source_position(topic, partition, record.offset), left.value, headers


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
