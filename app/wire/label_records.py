"""Labels on the wire: checking what comes on `labels`, and the batches in which they travel on `enriched`.

A label says of one transaction whether it was fraud. Card, terminal and event time may come with it; what is
missing is looked up. On `enriched` label messages stand among those of transactions (`app/wire/enriched_records.py`);
the version in front tells them apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.display import iso
from app.domain.event_times import TimeUnit, parse_moment_ms
from app.domain.ids import identifier, optional_identifier
from app.domain.json_text import Fields, exact_number, load_object, too_large
from app.domain.transaction import DeadRecordError, hash_id
from app.domain.verdict_words import ACCEPTED_VERDICTS, verdict_of
from app.windows.waiting_labels import EntryLabel
from app.wire.enriched_records import encode_item
from app.wire.erase_records import names_card

#: Version of a message of labels; those of transactions count from 1.
LABELS_VERSION = 100
#: Largest label: it waits in its terminal's state as it came.
MAX_LABEL_BYTES = 2_048
#: Bytes that `encode_source` adds to it: topic (249 characters at most), partition, offset.
SOURCE_OVERHEAD_BYTES = 300


@dataclass(slots=True)
class LabelRecord:
    """One valid label.

    Attributes:
        offset: where it stands in its partition.
        received_at: when the broker appended it, epoch milliseconds.
        transaction_id: what it speaks of.
        is_fraud: what it says.
        labelled_at_ms: when that was found, epoch milliseconds.
        card_id, terminal_id, event_time_ms: of the transaction, None where the label does not say.
        body: the object as it came, without surrounding white space.
    """

    offset: int
    received_at: int
    transaction_id: str
    is_fraud: bool
    labelled_at_ms: int
    card_id: str | None
    terminal_id: str | None
    event_time_ms: int | None
    body: bytes

    @property
    def whole(self) -> bool:
        """Whether it says all that its terminal needs; one without a terminal is looked up."""
        return None not in (self.card_id, self.terminal_id, self.event_time_ms)


def parse_label(
    value: bytes | None,
    offset: int,
    broker_time_ms: int,
    max_future_skew_ms: int,
    time_unit: TimeUnit = "auto",
) -> LabelRecord:
    """Check one record of `labels`.

    Args:
        value: its bytes.
        offset: where it stands.
        broker_time_ms: when the broker appended it, epoch milliseconds.
        max_future_skew_ms: how far past that it may claim to have been made.
        time_unit: what times that are numbers count.

    Raises:
        DeadRecordError: it cannot be used; `reason` is a stable code.
    """
    if value is not None and len(value) > MAX_LABEL_BYTES:
        raise too_large("label", value, MAX_LABEL_BYTES)
    fields, body = load_object(value)
    transaction_id = identifier(fields, "transaction_id", body)
    said = fields.get("is_fraud")
    if said is None:
        raise DeadRecordError("missing_is_fraud", "is_fraud is missing")
    is_fraud = verdict_of(said)
    if is_fraud is None:
        msg = f"is_fraud {str(said)[:40]!r} is not {ACCEPTED_VERDICTS}"
        raise DeadRecordError("invalid_is_fraud", msg)
    labelled_at_ms = _moment_ms(fields, "labelled_at", body, time_unit)
    event_time_ms = None
    if fields.get("event_time") is not None:
        event_time_ms = _moment_ms(fields, "event_time", body, time_unit)
    # A later verdict could never be corrected, and no transaction is accepted with such a time
    for name, moment_ms in (("labelled_at", labelled_at_ms), ("event_time", event_time_ms)):
        if moment_ms is not None and moment_ms > broker_time_ms + max_future_skew_ms:
            late_by = (moment_ms - broker_time_ms) / 1000
            msg = f"{name} is {late_by:.0f} s after the broker received the label"
            raise DeadRecordError("in_the_future", msg)
    return LabelRecord(
        offset,
        broker_time_ms,
        transaction_id,
        is_fraud,
        labelled_at_ms,
        optional_identifier(fields, "card_id", body),
        optional_identifier(fields, "terminal_id", body),
        event_time_ms,
        body,
    )


def label_object(
    transaction_id: str,
    *,
    is_fraud: bool,
    labelled_at: str | int,
    card_id: str | None = None,
    event_time: str | int | None = None,
    terminal_id: str | None = None,
) -> dict[str, Any]:
    """The object of a record on `labels`, as `parse_label` reads it; what is None is left out.

    Args:
        transaction_id: the transaction.
        is_fraud: whether it was fraud.
        labelled_at: when that was found: ISO 8601 with a UTC offset, or epoch milliseconds.
        card_id: its card; a label that lacks one of these is looked up.
        event_time: its event time, in the same notation.
        terminal_id: its terminal.
    """
    place = {"card_id": card_id, "event_time": event_time, "terminal_id": terminal_id}
    return {
        "transaction_id": transaction_id,
        "is_fraud": is_fraud,
        "labelled_at": labelled_at,
        **{name: value for name, value in place.items() if value is not None},
    }


def label_of_row(row: Mapping[str, Any], *, is_fraud: bool, at_ms: int) -> dict[str, Any]:
    """The label of a transaction that Cassandra has: see `label_object`.

    Args:
        row: with `transaction_id`, `card_id`, `terminal_id` and `event_time_ms`.
        is_fraud: the verdict.
        at_ms: when it was given, epoch milliseconds.
    """
    return label_object(
        row["transaction_id"],
        is_fraud=is_fraud,
        labelled_at=iso(at_ms),
        card_id=row["card_id"],
        event_time=iso(row["event_time_ms"]),
        terminal_id=row["terminal_id"],
    )


def _moment_ms(fields: Fields, name: str, body: bytes, unit: TimeUnit) -> int:
    when = fields.get(name)
    if type(when) is float:
        when = exact_number(body, name, when)
    return parse_moment_ms(when, name, unit)


class LabelItem(msgspec.Struct, array_like=True):
    """One label on its way to its terminal; see `LabelRecord`."""

    offset: int
    received_at: int
    transaction_id: str
    card_id: str
    terminal_id: str | None
    event_time_ms: int
    is_fraud: bool
    labelled_at_ms: int
    body: bytes


class LabelBatch(msgspec.Struct, array_like=True):
    """One message of labels on `enriched`: items of one partition of `topic`.

    Attributes:
        version: `LABELS_VERSION`.
        topic, partition: where the items come from.
        items: in source order, unless they were looked up.
        looked_up: the items were completed from Cassandra. One of them may come behind labels of higher offsets, and
            again after a crash: the deduplication by offset does not apply. Applying a label twice changes nothing.
    """

    version: int
    topic: str
    partition: int
    items: list[LabelItem]
    looked_up: bool = False


_label_decoder = msgspec.msgpack.Decoder(LabelBatch)
_source_decoder = msgspec.msgpack.Decoder(tuple[str, int, int, bytes])


def labels_message(
    topic: str, partition: int, items: Sequence[LabelItem], *, looked_up: bool = False
) -> bytes:
    """One message of labels on `enriched`."""
    return encode_item(LabelBatch(LABELS_VERSION, topic, partition, list(items), looked_up))


def is_of_labels(value: bytes) -> bool:
    """Whether a message on `enriched` carries labels."""
    # the second byte is the version: a small integer, which msgpack writes as it is
    return value[1:2] == bytes((LABELS_VERSION,))


def decode_labels(value: bytes) -> LabelBatch:
    """A message of labels on `enriched`.

    Raises:
        msgspec.DecodeError: it is damaged.
    """
    return _label_decoder.decode(value)


def as_label(batch: LabelBatch, item: LabelItem) -> EntryLabel:
    """A label as its terminal's state takes it."""
    source = encode_item((batch.topic, batch.partition, item.offset, item.body))
    return EntryLabel(
        item.event_time_ms,
        hash_id(item.transaction_id),
        item.is_fraud,
        item.labelled_at_ms,
        item.received_at,
        source,
    )


@dataclass(frozen=True, slots=True)
class ReturnedLabel:
    """A label as a source record once more, for its dead letter."""

    topic: str
    partition: int
    offset: int
    value: bytes
    timestamp: int
    key: None = None
    headers: tuple[()] = ()


def label_names_card(label: EntryLabel, card_id: str) -> bool:
    """Whether a label that waits at its terminal names a card in what is kept of it."""
    *_, body = _source_decoder.decode(label.source)
    return names_card(body, card_id)


def given_back(label: EntryLabel) -> ReturnedLabel:
    """The source record of a label that has waited in vain."""
    topic, partition, offset, body = _source_decoder.decode(label.source)
    return ReturnedLabel(topic, partition, offset, body, label.received_at_ms)
