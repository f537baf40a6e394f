"""Rows of alerts in Cassandra, column by column, against the records on their topic."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from app.cassandra.alert_rows import AlertRow
from app.cassandra.raw_rows import decimal, texts
from app.domain.alert_policy import day_of, shard_of

if TYPE_CHECKING:
    from app.ops.verification.verify_run import VerifyRun

#: Columns that an alert's record says, but for those of the row's key.
CELLS = (
    "day", "shard", "opened_at", "severity", "causes", "rules", "reasons", "flags", "card_id", "terminal_id",
    "action", "amount", "amount_minor", "currency", "score", "threshold", "anomaly_score", "model_version",
    "source_topic", "received_at",
)  # fmt: skip
_LISTS = frozenset({"causes", "rules", "reasons", "flags"})
_WHERE = "cassandra (alerts)"


def read_rows(case: "VerifyRun", rows: Iterable[AlertRow], kept_from_ms: int) -> None:
    """Compare stored alerts, in whatever order they come, once the topic has been read.

    Args:
        case: the run.
        rows: all of the table.
        kept_from_ms: broker time after which retention has deleted nothing from `alerts`; -1: it never did.
    """
    ledger, findings = case.alerts, case.findings
    for row in rows:
        ledger.counts["rows"] += 1
        cells, key = _as_cells(row), key_of(row._asdict())
        known = ledger.rows.get(key)
        if known is not None:
            ledger.stored.add(key)
            for what in different(CELLS, hashes(CELLS, cells), known.cells):
                findings.differs(known.page, known.row, _WHERE, what, cells[what], "the alert's")
            continue
        if hash(key) in ledger.others:
            continue
        source = row.source_topic, row.source_partition, row.source_offset
        found = case.ledger.find(*source)
        if found is not None and (row.received_at or 0) > kept_from_ms:
            findings.differs(*found, _WHERE, "row", row.alert_id, "none")
        elif found is None and case.ledger.is_foreign(*source):
            findings.stray(_WHERE, "source", "/".join(map(str, source)))


def key_of(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names a row beside its day and shard, which follow from the id."""
    event_time = fields["event_time_ms"] if "event_time_ms" in fields else fields["event_time"]
    place = fields["source_partition"], fields["source_offset"]
    return fields["alert_id"], event_time, fields["transaction_id"], *place


def as_row(alert: Mapping[str, Any], digits: int) -> dict[str, Any]:
    """An alert as its row must have it."""
    amount = str(Decimal(alert["amount_minor"]).scaleb(-digits))
    place = {"day": day_of(alert["opened_at"]), "shard": shard_of(alert["alert_id"])}
    return {**alert, **place, "amount": amount}


def hashes(names: Sequence[str], fields: Mapping[str, Any]) -> "array[int]":
    """Hashes of some fields; lists and tuples of the same are equal."""
    values = (fields.get(name) for name in names)
    return array("q", [hash(tuple(v) if isinstance(v, list) else v) for v in values])


def different(
    names: Sequence[str], some: "array[int]", others: "array[int] | None"
) -> Iterable[str]:
    """The names whose hashes differ."""
    if some == others or others is None:
        return ()
    return [name for name, one, other in zip(names, some, others, strict=True) if one != other]


def _as_cells(row: AlertRow) -> dict[str, Any]:
    cells = {
        name: texts(value) if name in _LISTS else value for name, value in row._asdict().items()
    }
    cells["amount"] = None if row.amount is None else str(decimal(row.amount))
    return cells
