"""Records for others to read: predictions (the input object with our fields added), duplicates, refunds, alerts."""

from collections.abc import Iterable
from typing import Any

import orjson

from app.domain.transaction import Transaction
from app.wire.input_records import SourceRecord

Headers = list[tuple[str, bytes]]
#: Header of an alert: equal for repeated records of it.
ALERT_KEY = "idempotency-key"


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


def origin_of(headers: Iterable[tuple[str, bytes]]) -> bytes | None:
    """The source position that a forwarded record came from, None for any other record."""
    return next((value for name, value in headers if name == "origin" and value), None)
