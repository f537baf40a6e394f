"""Refunds: records with a negative amount, on `refunds` and in Cassandra, against what is expected of their sources."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from app.cassandra.refund_rows import RefundRow
from app.ops.verification.ledger import ExpectedOutcome, FoundIn, SourcePage
from app.ops.verification.output_fields import SOURCE_FIELDS, fields_of, source_in
from app.ops.verification.refused import digest, first_of_its_kind
from app.ops.verification.verify_run import VerifyRun

_FIELDS = SOURCE_FIELDS | {
    "card_id",
    "event_time_ms",
    "transaction_id",
    "amount_minor",
    "received_at",
}


def refund_identity(card_id: str, t_ms: int, transaction_id: str, minor: int) -> int:
    """Hash of the key under which a refund is stored."""
    return hash((card_id, t_ms, transaction_id, minor))


class EarlierRefunds:
    """Reads one partition of `refunds` before all else: what was stored stays so, whatever the setting is now."""

    def __init__(self, case: VerifyRun) -> None:
        self._case = case

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        for record in records:
            fields = fields_of(record, SOURCE_FIELDS)
            if fields:
                self._case.refunded.add((fields["source_partition"], fields["source_offset"]))


class RefundReader:
    """Reads one partition of `refunds`.

    Args:
        case: the run.
        done: offset after the last record that is stored.
    """

    def __init__(self, case: VerifyRun, done: int) -> None:
        self._case = case
        self._done = done
        self._where = case.topics.refunds.name

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        for record in records:
            fields = fields_of(record, _FIELDS)
            found = source_in(self._case, self._where, record, fields)
            if found is None:
                continue
            page, row = found
            if record.offset >= self._done:
                page.seen[row] |= FoundIn.WAITING
            if first_of_its_kind(
                self._case, page, row, FoundIn.REFUND, self._where, digest(record)
            ):
                self._check(page, row, record, fields)

    def _check(self, page: SourcePage, row: int, record: Any, fields: dict[str, Any]) -> None:
        fate = ExpectedOutcome(page.fate[row])
        if fate != ExpectedOutcome.REFUND:
            self._differs(page, row, "fate", "refund", fate.name.lower())
            return
        minor = fields["amount_minor"]
        named = fields["card_id"], fields["event_time_ms"], fields["transaction_id"]
        detail = hash((fields.get("terminal_id"), minor))
        if page.identity[row] != refund_identity(*named, minor) or page.detail[row] != detail:
            self._differs(page, row, "refund", [*named, minor], "another one")
        if hash(record.value[: page.length[row]]) != page.content[row]:
            self._differs(page, row, "input fields", "changed", "as they came")
        if fields["received_at"] != page.received_at[row]:
            self._differs(
                page, row, "received_at", fields["received_at"], int(page.received_at[row])
            )
        if record.key != fields["card_id"].encode():
            self._differs(page, row, "key", repr(record.key), fields["card_id"])

    def _differs(self, page: SourcePage, row: int, what: str, stored: Any, recomputed: Any) -> None:
        self._case.findings.differs(page, row, self._where, what, stored, recomputed)


class RefundRows:
    """Compares stored refunds, in whatever order they come, once all topics have been read.

    Attributes:
        rows: how many were read.
    """

    def __init__(self, case: VerifyRun) -> None:
        self.rows = 0
        self._case = case
        self._keys: set[int] = set()

    def read(self, rows: Iterable[RefundRow]) -> None:
        """Compare all rows of a scan."""
        ledger, findings = self._case.ledger, self._case.findings
        for row in rows:
            self.rows += 1
            key = refund_identity(row.card_id, row.event_time, row.transaction_id, row.amount_minor)
            self._keys.add(key)
            source = row.source_topic, row.source_partition, row.source_offset
            found = ledger.find(*source)
            if found is None:
                if ledger.is_foreign(*source):
                    findings.stray("cassandra", "source", "/".join(map(str, source)))
                elif row.source_offset < ledger.pages[row.source_partition].begin:
                    ledger.expired_rows += 1
                continue
            page, at = found
            if page.erased[at]:
                findings.differs(page, at, "cassandra", "refund", "there", "erased with its card")
                continue
            fate, detail = ExpectedOutcome(page.fate[at]), hash((row.terminal_id, row.amount_minor))
            if fate != ExpectedOutcome.REFUND:
                findings.differs(page, at, "cassandra", "fate", "refund", fate.name.lower())
            elif page.identity[at] != key or page.detail[at] != detail:
                findings.differs(page, at, "cassandra", "refund", list(row[:5]), "another one")

    def lacking(self, page: SourcePage) -> np.ndarray:
        """Which refunds of a page have no row under their key."""
        lacking = page.fate == ExpectedOutcome.REFUND
        for row in np.flatnonzero(lacking):
            lacking[row] = int(page.identity[row]) not in self._keys
        return lacking
