"""Parked labels: labels whose transaction is not known yet, as rows of the table `labels`.

The record of the label writes the row. A later record of the same partition of `labels` removes it: a copy of the
label, now complete or expired, that names the label's offset in the header `origin` (app/stages/label_stage.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import orjson

from app.blocks.core.partition import RowReader
from app.blocks.core.row_groups import Row
from app.blocks.core.row_precedence import DELETED_KEY, Deletions
from app.blocks.faust.output_sender import OutRecord
from app.display import iso
from app.domain.event_times import TimeUnit, parse_moment_ms
from app.domain.ids import identifier, optional_identifier
from app.domain.transaction import DeadRecordError
from app.errors import RowFormatError
from app.wire.dead_letters import KEPT_HEADER_BYTES, LETTER_KEY_BYTES, REDRIVEN
from app.wire.erase_records import card_named_in
from app.wire.input_records import SourceRecord
from app.wire.label_records import LabelRecord, label_object, parse_label
from app.wire.output_records import origin_of, source_position

#: Row keys of parked labels start with this; the offset follows, so that rows are in the order of the log.
PREFIX = b"p"
#: Header of the copy of an expired label: its reason code.
REASON = "reason"
_VERSION = 1


class ParkedLabel(msgspec.Struct, array_like=True, frozen=True):
    """The source record of a parked label.

    Attributes:
        version: of this format.
        timestamp: when the broker appended it, epoch milliseconds.
        value: its bytes.
        key: its key, shortened as in a dead-letter record.
        redriven: its header of that name.
    """

    version: int
    timestamp: int
    value: bytes
    key: bytes | None
    redriven: bytes | None

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """The headers that a dead-letter record keeps."""
        return [] if self.redriven is None else [(REDRIVEN, self.redriven)]


_decoder = msgspec.msgpack.Decoder(ParkedLabel)
_encode = msgspec.msgpack.Encoder().encode


def row_key(offset: int) -> bytes:
    """The row key of the label at an offset."""
    return PREFIX + offset.to_bytes(8, "big")


def offset_of(key: bytes) -> int:
    """The opposite of `row_key`."""
    return int.from_bytes(key[len(PREFIX) :], "big")


def parked_row(record: SourceRecord) -> Row:
    """The row of a label that is parked."""
    redriven = next((raw for name, raw in record.headers if name == REDRIVEN and raw), None)
    key = record.key
    label = ParkedLabel(
        _VERSION,
        record.timestamp,
        record.value,
        None if key is None else key[:LETTER_KEY_BYTES],
        None if redriven is None else redriven[:KEPT_HEADER_BYTES],
    )
    return row_key(record.offset), record.offset.to_bytes(8, "big") + _encode(label)


def read_parked(raw: bytes) -> ParkedLabel:
    """The label of a row.

    Raises:
        RowFormatError: it is damaged, or has a format that this release cannot read.
    """
    try:
        label = _decoder.decode(raw[8:])
    except msgspec.DecodeError as error:
        msg = f"a parked label in the state is damaged: {error}"
        raise RowFormatError(msg) from error
    if label.version != _VERSION:
        msg = f"a parked label has format {label.version}, this release reads {_VERSION}"
        raise RowFormatError(msg)
    return label


# ---------------------------------------------------------------- erased cards


def erasures_of(state: RowReader) -> Deletions:
    """The newest erase records of a partition: by `erasure_key`, their offsets."""
    if "erasures" not in state.memo:
        state.memo["erasures"] = Deletions.read(state.get(DELETED_KEY))
    erasures: Deletions = state.memo["erasures"]
    return erasures


def erasure_key(card: bytes) -> bytes:
    """What the erase record of a card is found by."""
    return b"card " + card


def is_erased(label: ParkedLabel, offset: int, erasures: Deletions) -> bool:
    """Whether the card that a parked label names was erased after it."""
    named = card_named_in(label.value)
    cards = [label.key or b"", b"" if named is None else named.encode()]
    return any(erasures.offset(erasure_key(card)) > offset for card in cards)


def erased_rows(rows: Iterable[tuple[bytes, bytes]], erasures: Deletions) -> list[Row]:
    """Deletes those rows of parked labels whose card was erased: a frozen worker has written them since."""
    return [
        (key, None) for key, raw in rows if is_erased(read_parked(raw), offset_of(key), erasures)
    ]


# ---------------------------------------------------------------- copies


@dataclass(frozen=True, slots=True)
class FoundTransaction:
    """The transaction of a label, as Cassandra has it."""

    card_id: str
    terminal_id: str | None
    event_time_ms: int


def whole_copy(
    topic: str, partition: int, label: LabelRecord, parked: ParkedLabel, found: FoundTransaction
) -> OutRecord:
    """The record that completes a parked label: it names card, terminal and time."""
    said = label_object(
        label.transaction_id,
        is_fraud=label.is_fraud,
        labelled_at=iso(label.labelled_at_ms),
        card_id=found.card_id,
        event_time=iso(found.event_time_ms),
        terminal_id=found.terminal_id,
    )
    origin = source_position(topic, partition, label.offset)
    return parked.key, orjson.dumps(said), [("origin", origin)]


def given_up_copy(
    topic: str, partition: int, offset: int, parked: ParkedLabel, reason: str
) -> OutRecord:
    """The record that lets a parked label expire."""
    origin = source_position(topic, partition, offset)
    return parked.key, parked.value, [("origin", origin), (REASON, reason.encode())]


def copied_offset(topic: str, partition: int, record: SourceRecord) -> int | None:
    """The offset of the parked label that a record is a copy of; None for any other record.

    A label with an `origin` of another kind is treated like any other label.
    """
    origin = origin_of(record.headers)
    if origin is None:
        return None
    front = source_position(topic, partition, 0)[:-1]
    tail = origin[len(front) :]
    if not origin.startswith(front) or not tail.isdigit() or len(tail) > 19:
        return None
    offset = int(tail)
    return offset if offset < record.offset else None


def found_in(record: SourceRecord) -> FoundTransaction:
    """The transaction that a complete copy names.

    Raises:
        DeadRecordError: fraudstream did not write this copy.
    """
    try:
        said = orjson.loads(record.value)
        event_time_ms = parse_moment_ms(said["event_time"], "event_time")
        fields = {"card_id": said["card_id"], "terminal_id": said.get("terminal_id")}
        found = msgspec.convert({**fields, "event_time_ms": event_time_ms}, FoundTransaction)
        identifier(said, "card_id", record.value or b"")
        optional_identifier(said, "terminal_id", record.value or b"")
        return found
    except (
        orjson.JSONDecodeError, TypeError, KeyError, AttributeError, msgspec.ValidationError,
        DeadRecordError,
    ):  # fmt: skip
        msg = "the record claims to be a copy of a parked label, but does not name its transaction"
        raise DeadRecordError("invalid_copy", msg) from None


def decide(
    label: LabelRecord, same_id: Iterable[Mapping[str, object]]
) -> FoundTransaction | DeadRecordError | None:
    """The transaction that a label refers to, among those with its id.

    Returns:
        The only transaction that matches the label; the reason if several match; None if none does.
    """
    fitting = [row for row in same_id if _fits(label, row)]
    if len(fitting) > 1:
        msg = f"{len(fitting)} transactions have this id: add card_id and event_time"
        return DeadRecordError("ambiguous_transaction", msg)
    for row in fitting:
        return msgspec.convert(dict(row), FoundTransaction)
    return None


def _fits(label: LabelRecord, row: Mapping[str, object]) -> bool:
    said = {
        "card_id": label.card_id,
        "terminal_id": label.terminal_id,
        "event_time_ms": label.event_time_ms,
    }
    return all(value is None or row[name] == value for name, value in said.items())


def record_of(
    parked: ParkedLabel, offset: int, max_future_skew_ms: int, time_unit: TimeUnit
) -> LabelRecord:
    """A parked label, parsed again."""
    return parse_label(parked.value, offset, parked.timestamp, max_future_skew_ms, time_unit)


def scan(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[int]:
    """The offsets of parked labels among the table's rows."""
    return (offset_of(key) for key, _ in sorted(rows))
