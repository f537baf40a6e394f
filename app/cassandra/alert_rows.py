"""Alerts as packed Cassandra rows."""

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from app.cassandra.packed_rows import UNSET, PackedTable, text_cell, texts_cell, unstorable
from app.domain.alert_policy import day_of, shard_of
from app.scoring_deployment import is_anothers

_TEXTS = ("transaction_id", "card_id", "severity", "model_version", "currency", "source_topic")
_OPTIONAL = ("terminal_id", "action")
_LISTS = ("causes", "rules", "reasons", "flags")
_COLUMNS = (
    "day", "shard", "opened_at", "alert_id", *_TEXTS, *_OPTIONAL, *_LISTS, "anomaly_score",
    "event_time", "amount", "amount_minor", "score", "threshold", "source_partition", "source_offset",
    "received_at",
)  # fmt: skip
#: shard and opened_at; the columns from event_time on. The length of each before it; a decimal is its scale and an
#: integer.
_place = struct.Struct(">iiiq").pack
_fixed = struct.Struct(">iqiiqiqididiiiqiq").pack
_double = struct.Struct(">id").pack


def _routing_key(row: bytes) -> bytes:
    """The partition key of a packed row: day (text of ten characters) and shard."""
    return b"".join((b"\0\x0a", row[4:14], b"\0\0\4", row[18:22], b"\0"))


#: cql/007_alerts.cql
ALERTS = PackedTable("alerts", _COLUMNS, "alert", _routing_key, expires=True)


class AlertPacker:
    """Packs the alerts of one deployment.

    Args:
        minor_unit_digits: digits after the decimal point of its currency.
        deployment: whose alerts are packed; None: everybody's.
    """

    def __init__(self, minor_unit_digits: int, deployment: str | None = None) -> None:
        self._digits = minor_unit_digits
        self._deployment = deployment

    def pack_many(self, alerts: Iterable[bytes]) -> list[bytes]:
        """Rows of the records on `alerts`, but for those of another deployment.

        Raises:
            StateError: one is no alert; the text says which.
        """
        return [row for row in map(self._checked, alerts) if row is not None]

    def _checked(self, value: bytes) -> bytes | None:
        try:
            alert = orjson.loads(value)
            return None if is_anothers(alert, self._deployment) else self._pack(alert)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise unstorable("alert", error) from None

    def _pack(self, alert: dict[str, Any]) -> bytes:
        opened_at, minor, odd = alert["opened_at"], alert["amount_minor"], alert["anomaly_score"]
        return b"".join((
            text_cell(day_of(opened_at)),
            _place(4, shard_of(alert["alert_id"]), 8, opened_at),
            text_cell(alert["alert_id"]),
            *(text_cell(alert[name]) for name in _TEXTS),
            *(UNSET if alert[name] is None else text_cell(alert[name]) for name in _OPTIONAL),
            *(texts_cell(alert[name]) for name in _LISTS),
            UNSET if odd is None else _double(8, odd),
            _fixed(
                8, alert["event_time_ms"], 12, self._digits, minor, 8, minor, 8, alert["score"],
                8, alert["threshold"], 4, alert["source_partition"], 8, alert["source_offset"],
                8, alert["received_at"],
            ),
        ))  # fmt: skip


class AlertRow(NamedTuple):
    """What `verify` reads of a row: lists and decimals as bytes, moments as epoch milliseconds."""

    day: str
    shard: int
    opened_at: int
    alert_id: str
    event_time: int
    transaction_id: str
    source_partition: int
    source_offset: int
    card_id: str | None
    terminal_id: str | None
    severity: str | None
    causes: bytes | None
    rules: bytes | None
    reasons: bytes | None
    flags: bytes | None
    action: str | None
    amount: bytes | None
    amount_minor: int | None
    currency: str | None
    score: float | None
    threshold: float | None
    anomaly_score: float | None
    model_version: str | None
    source_topic: str | None
    received_at: int | None
