"""Refunds as packed Cassandra rows, and read again."""

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from app.cassandra.packed_rows import UNSET, PackedTable, text_cell, unstorable
from app.cassandra.prediction_columns import month_of
from app.cassandra.prediction_rows import extra_cell, routing_key

_COLUMNS = (
    "card_id", "month", "transaction_id", "terminal_id", "extra", "currency", "source_topic",
    "event_time", "amount", "amount_minor", "source_partition", "source_offset", "received_at",
    "schema_version",
)  # fmt: skip
#: The columns from event_time on, the length of each before it; a decimal is its scale and an integer.
_fixed = struct.Struct(">iqiiqiqiiiqiqii").pack

#: cql/006_refunds.cql
REFUNDS = PackedTable("refunds", _COLUMNS, "refund", routing_key, expires=True)


class RefundPacker:
    """Packs the refunds of one deployment.

    Args:
        currency: the deployment's, in which `amount_minor` is.
        minor_unit_digits: digits after its decimal point.
    """

    def __init__(self, currency: str, minor_unit_digits: int) -> None:
        self._currency = currency
        self._digits = minor_unit_digits

    def pack_many(self, refunds: Iterable[bytes]) -> list[bytes]:
        """Rows of the records on `refunds`.

        Raises:
            StateError: one is no refund; the text says which.
        """
        return [self._checked(value) for value in refunds]

    def _checked(self, value: bytes) -> bytes:
        try:
            return self._pack(orjson.loads(value), value)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise unstorable("refund", error) from None

    def _pack(self, record: dict[str, Any], value: bytes) -> bytes:
        event_ms, minor = record["event_time_ms"], record["amount_minor"]
        terminal_id, currency = record.get("terminal_id"), record.get("currency")
        foreign = currency is not None and currency != self._currency
        return b"".join((
            text_cell(record["card_id"]),
            text_cell(month_of(event_ms)),
            text_cell(record["transaction_id"]),
            UNSET if terminal_id is None else text_cell(terminal_id),
            extra_cell(record, value, foreign=foreign),
            text_cell(self._currency),
            text_cell(record["source_topic"]),
            _fixed(
                8, event_ms, 12, self._digits, minor, 8, minor, 4, record["source_partition"],
                8, record["source_offset"], 8, record["received_at"], 4, record.get("schema_version", 1),
            ),
        ))  # fmt: skip


class RefundRow(NamedTuple):
    """What `verify` reads of a row, moments as epoch milliseconds."""

    card_id: str
    event_time: int
    transaction_id: str
    amount_minor: int
    terminal_id: str | None
    source_topic: str
    source_partition: int
    source_offset: int
