"""`enriched`: msgpack messages, each a batch of transactions of one source partition."""

from collections.abc import Sequence

import msgspec

from app.domain.transaction import hash_id

ENRICHED_VERSION = 2
#: Messages of this version do not say which features their items have.
UNNAMED_VERSION = 1


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
        schema: names the features that the transactions are scored by (app/domain/features/feature_schema.py): those of
            the worker that began them. Empty in messages of release 0.1.0.
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
