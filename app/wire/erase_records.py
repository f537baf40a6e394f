"""Erase records: the order to forget a card, at one offset of a partition (docs/adr/0026-erasure-is-a-record.md).

`fraudstream erase` sends one to each partition of `transactions` and of `labels`. The first stage forwards the one in
the card's own partition into every partition of `enriched`, behind all that it sent of the card before.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from app.domain.ids import optional_identifier
from app.domain.json_text import load_object
from app.domain.transaction import DeadRecordError
from app.wire.enriched_records import encode_item

#: Header of an erase record: the id of the erasure.
ERASE = "erase"
#: The card of erase records that erase nothing: they only make workers write to every changelog.
NOBODY = "erase --again"
#: Version of a message on `enriched` that carries one; see `app/wire/control_records.py`.
ERASE_VERSION = 120
_MARK = bytes((ERASE_VERSION,))


class _Record(Protocol):
    """What is needed of a Kafka record."""

    @property
    def key(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class EraseMessage(msgspec.Struct, array_like=True, frozen=True):
    """An erase record on its way to one partition of `enriched`.

    Attributes:
        version: `ERASE_VERSION`.
        topic, partition, offset: where it stands.
        card_id: the card.
    """

    version: int
    topic: str
    partition: int
    offset: int
    card_id: str


decode_erase = msgspec.msgpack.Decoder(EraseMessage).decode


def erase_record(card_id: str, erasure: str) -> tuple[bytes, None, list[tuple[str, bytes]]]:
    """Key, value and headers of the order to forget a card.

    Args:
        card_id: the card.
        erasure: its id.
    """
    return card_id.encode(), None, [(ERASE, erasure.encode())]


def erased_card(record: _Record) -> str | None:
    """The card that a record orders to forget; None: it is another record.

    Without the header it is a record that lacks its value: a producer's mistake must not delete anything.
    """
    if record.value is not None or not record.key or not record.headers:
        return None
    if not any(name == ERASE for name, _ in record.headers):
        return None
    try:
        return str(record.key.decode())
    except UnicodeDecodeError:
        return None


def erase_message(topic: str, partition: int, offset: int, card_id: str) -> bytes:
    """The message on `enriched` that carries an erase record."""
    return encode_item(EraseMessage(ERASE_VERSION, topic, partition, offset, card_id))


def is_of_erasure(value: bytes) -> bool:
    """Whether a message on `enriched` carries an erase record."""
    return value[1:2] == _MARK


def card_named_in(body: bytes) -> str | None:
    """The card that a label names, as it came: a look-up may have found one that it does not name."""
    try:
        fields, text = load_object(body)
        return optional_identifier(fields, "card_id", text)
    except DeadRecordError:
        return None


def names_card(body: bytes, card_id: str) -> bool:
    """Whether a label, as it came, names a card."""
    return card_named_in(body) == card_id
