"""Sums up: each source record in exactly one place, and that the one where it belongs."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.ops.verification.alerts import MissingAlertExcuses
from app.ops.verification.alerts import conclude as conclude_alerts
from app.ops.verification.ledger import PREDICTED, ExpectedOutcome, FoundIn, RecordFault, SourcePage
from app.ops.verification.refunds import RefundRows
from app.ops.verification.stored_predictions import RowReader
from app.ops.verification.topic_log import Reached
from app.ops.verification.verify_run import VerifyRun

#: The keys of `--json` that scripts rely on, in order.
COUNTS = (
    "read", "scored", "late", "conflicting", "duplicate", "refund", "dead", "moved",
    "pending", "unverifiable", "missing", "differing", "lost",
)  # fmt: skip
#: The counts that add up to `read`.
PLACES = COUNTS[1 : COUNTS.index("pending")]
_PLACES = {
    ExpectedOutcome.DEAD: FoundIn.DEAD,
    ExpectedOutcome.MOVED: FoundIn.FORWARDED,
    ExpectedOutcome.DUPLICATE: FoundIn.DUPLICATE,
    ExpectedOutcome.REFUND: FoundIn.REFUND,
}


#: Role of the topic on which a place is.
_ROLES = {
    FoundIn.PREDICTED: "predictions",
    FoundIn.DEAD: "dead-letters",
    FoundIn.FORWARDED: "transactions",
    FoundIn.DUPLICATE: "duplicates",
    FoundIn.REFUND: "refunds",
}


@dataclass
class Report:
    """What `fraudstream verify` found.

    Attributes:
        counts: the numbers of `COUNTS`, each of source records; `lost` of offsets, of all topics that are read.
        details: everything else that is worth knowing, JSON-ready.
        examples: the first differences, JSON-ready.
    """

    counts: dict[str, int]
    details: dict[str, Any] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def identity(self) -> bool:
        """Whether every record that was read, and was not deleted since, is in exactly one place."""
        return self.counts["read"] == sum(self.counts[name] for name in PLACES)

    @property
    def consistent(self) -> bool:
        """Whether something was compared, nothing is pending, missing or differing, and the identity holds."""
        bad = ("pending", "missing", "differing")
        compared = self.counts["read"] > 0
        return compared and self.identity and not any(self.counts[name] for name in bad)

    @property
    def passed(self) -> bool:
        """Whether it is consistent, and nothing was deleted before it was read."""
        return self.consistent and not self.counts["lost"]

    def as_json(self) -> dict[str, Any]:
        """One object: the counts first."""
        return {
            **self.counts,
            "identity": self.identity,
            **self.details,
            "examples": self.examples,
        }


def conclude(
    case: VerifyRun,
    rows: RowReader,
    refunds: RefundRows,
    reached: Reached,
    kept: dict[str, int],
    now_ms: int,
) -> Report:
    """Judge every source record, once everything has been read.

    Args:
        case: the run.
        rows: what was read from Cassandra.
        refunds: the same of refunds.
        reached: how far the workers were.
        kept: by role of a topic, the broker time after which retention has deleted nothing; -1 if it
            never deleted anything.
        now_ms: the time, for rows that have expired.
    """
    counts = dict.fromkeys(COUNTS, 0)
    judges = [
        _Judge(case, page, reached.done["transactions"][page.number], kept)
        for page in case.ledger.pages
    ]
    ttl_ms = case.settings.ttl_seconds * 1000
    lacks = MissingAlertExcuses(
        lambda page, row: judges[page.number].is_to_come(row),
        kept["alerts"],
        now_ms - ttl_ms if ttl_ms else -1,
    )
    alerts = conclude_alerts(
        case.alerts, case.ledger, case.findings, case.topics.alerts.name, lacks
    )
    for judge, page in zip(judges, case.ledger.pages, strict=True):
        judge.copies()
        judge.places()
        judge.late_copies()
        judge.rows(rows.lacking(page), now_ms)
        judge.refunds(refunds.lacking(page), now_ms)
        judge.count(counts)
    counts["unverifiable"] += case.ledger.expired_rows
    counts["differing"] += case.findings.strays
    counts["lost"] = case.lost.count()
    counts["missing"] += _not_forwarded(case, reached.done["transactions"], kept["enriched"])
    return Report(counts, {"alerts": alerts}, case.findings.as_json())


def _not_forwarded(case: VerifyRun, done: list[int], kept_ms: int) -> int:
    """Erase records that have been processed and are not on every partition of `enriched`; what was deleted apart."""
    lacking = 0
    for (partition, offset), erasure in case.erasures.items():
        if offset < done[partition] and erasure.received_at > kept_ms:
            lacking += erasure.partitions - len(erasure.forwarded)
    return lacking


class _Judge:
    """Looks at one page.

    Args:
        case, page: the page of the run.
        done: offset after the last source record whose effects are durable.
        kept: see `conclude`.
    """

    def __init__(self, case: VerifyRun, page: SourcePage, done: int, kept: dict[str, int]) -> None:
        self._findings = case.findings
        self._settings = case.settings
        self._topics = case.topics
        self._page = page
        self._kept = kept
        self._late_to_come = np.arange(page.begin, page.end) >= done
        self._late_to_come |= (page.seen & FoundIn.WAITING) != 0

    def is_to_come(self, row: int) -> bool:
        """Whether the effects of a source record may not be durable yet."""
        return bool(self._late_to_come[row])

    def copies(self) -> None:
        """Forwarded copies are what was moved, unchanged."""
        page = self._page
        # a copy of a record that is at home is none: its header came with it
        page.seen[page.fate != ExpectedOutcome.MOVED] &= 0xFFFF ^ FoundIn.FORWARDED
        for row in _each(self._seen(FoundIn.FORWARDED) & (page.copy != page.content)):
            self._findings.differs(
                page, row, self._topics.transactions.name, "forwarded copy", "changed", "as it came"
            )

    def places(self) -> None:
        """Each source record is in exactly one place."""
        page = self._page
        # its prediction was deleted by retention, but the row is there
        only_row = self._seen(FoundIn.ROW) & ~self._seen(FoundIn.PREDICTED)
        page.seen[only_row & self._deleted("predictions")] |= FoundIn.PREDICTED
        # the same where the row was erased
        gone = page.erased & np.isin(page.fate, PREDICTED) & self._deleted("predictions")
        gone &= (page.seen & (FoundIn.PREDICTED | FoundIn.DUPLICATE)) == 0
        page.seen[gone] |= FoundIn.PREDICTED
        self._mark(gone, RecordFault.UNVERIFIABLE)
        bits = {
            FoundIn.PREDICTED: self._topics.predictions.name,
            FoundIn.DEAD: self._topics.dead_letters.name,
            FoundIn.DUPLICATE: self._topics.duplicates.name,
            FoundIn.REFUND: self._topics.refunds.name,
            FoundIn.FORWARDED: f"{self._topics.transactions.name} (moved)",
        }
        places = np.zeros(len(page), np.uint8)
        for bit in bits:
            places += self._seen(bit)
        for row in _each(places > 1):
            found = [name for bit, name in bits.items() if page.seen[row] & bit]
            self._findings.differs(page, row, " and ".join(found), "places", found, "one of them")
        nowhere = (page.fate != ExpectedOutcome.HOLE) & (places == 0)
        for fate in ExpectedOutcome:
            bit = _PLACES.get(fate, FoundIn.PREDICTED)
            role = _ROLES[bit]
            lacking = nowhere & (page.fate == fate)
            self._lacking(lacking, role, bits[bit], "output", fate.name.lower())
        predicted = self._seen(FoundIn.PREDICTED) & np.isin(page.fate, PREDICTED)
        self._mark(predicted & (page.fate == ExpectedOutcome.UNKNOWN), RecordFault.UNVERIFIABLE)
        on_enriched = self._seen(FoundIn.ITEM)
        self._mark(predicted & on_enriched & ~page.terminal_known, RecordFault.UNVERIFIABLE)
        self._lacking(predicted & ~on_enriched, "enriched", self._topics.enriched.name, "item")

    def late_copies(self) -> None:
        """Each late record was copied."""
        page = self._page
        lacking = (page.fate == ExpectedOutcome.LATE) & self._seen(FoundIn.PREDICTED)
        lacking &= ~self._seen(FoundIn.LATE_COPY)
        self._lacking(lacking, "late-transactions", self._topics.late_transactions.name, "copy")

    def rows(self, lacking: np.ndarray, now_ms: int) -> None:
        """Each scored record has a row, unless its time to live is over."""
        page = self._page
        self._erased()
        lacking = (
            lacking & self._seen(FoundIn.PREDICTED) & np.isin(page.fate, PREDICTED) & ~page.erased
        )
        if self._settings.ttl_seconds:
            over = page.scored_at + self._settings.ttl_seconds * 1000 <= now_ms
            self._mark(lacking & over, RecordFault.UNVERIFIABLE)
            lacking &= ~over
        self._lacking(lacking, None, "cassandra", "row")
        lost = lacking & ~self._late_to_come
        if lost.any():
            self._findings.rows_lost(int(lost.sum()), int(page.scored_at[lost].min()))

    def _erased(self) -> None:
        """No row is left of what precedes the erasure of its card."""
        page = self._page
        for row in _each(page.erased & self._seen(FoundIn.ROW)):
            self._findings.differs(page, row, "cassandra", "row", "there", "erased with its card")

    def refunds(self, lacking: np.ndarray, now_ms: int) -> None:
        """Each refund has a row, unless its time to live is over."""
        page = self._page
        lacking = lacking & self._seen(FoundIn.REFUND) & ~page.erased
        if self._settings.ttl_seconds:
            over = page.received_at + self._settings.ttl_seconds * 1000 <= now_ms
            self._mark(lacking & over, RecordFault.UNVERIFIABLE)
            lacking &= ~over
        self._lacking(lacking, None, "cassandra", "refund")
        lost = lacking & ~self._late_to_come
        if lost.any():
            self._findings.rows_lost(int(lost.sum()), int(page.received_at[lost].min()))

    def count(self, counts: dict[str, int]) -> None:
        """Add this page to the totals."""
        page = self._page
        unknown = page.fate == ExpectedOutcome.UNKNOWN
        late = np.where(unknown, page.late, page.fate == ExpectedOutcome.LATE)
        conflicting = np.where(unknown, page.conflicting, page.fate == ExpectedOutcome.CONFLICTING)
        predicted = self._seen(FoundIn.PREDICTED)
        masks = {
            "read": page.fate != ExpectedOutcome.HOLE,
            "scored": predicted & ~late & ~conflicting,
            "late": predicted & late,
            "conflicting": predicted & conflicting,
            "duplicate": self._seen(FoundIn.DUPLICATE),
            "refund": self._seen(FoundIn.REFUND),
            "dead": self._seen(FoundIn.DEAD),
            "moved": self._seen(FoundIn.FORWARDED),
            "pending": page.faults & RecordFault.PENDING,
            "missing": page.faults & RecordFault.MISSING,
            "differing": page.faults & RecordFault.DIFFERING,
            "unverifiable": page.faults & RecordFault.UNVERIFIABLE,
        }
        for name, mask in masks.items():
            counts[name] += int(np.count_nonzero(mask))

    def _seen(self, bit: int) -> np.ndarray:
        seen: np.ndarray = (self._page.seen & bit) != 0
        return seen

    def _mark(self, rows: np.ndarray, fault: int) -> None:
        self._page.faults[rows] |= fault

    def _deleted(self, role: str) -> np.ndarray:
        """Records whose output on a topic may have been deleted: it cannot be older than they are."""
        deleted: np.ndarray = self._page.received_at <= self._kept[role]
        return deleted

    def _lacking(
        self, lacking: np.ndarray, role: str | None, where: str, what: str, recomputed: Any = None
    ) -> None:
        """What is lacking is still to come, or was deleted, or is missing."""
        self._mark(lacking & self._late_to_come, RecordFault.PENDING)
        lacking = lacking & ~self._late_to_come
        if role is not None:
            self._mark(lacking & self._deleted(role), RecordFault.UNVERIFIABLE)
            lacking &= ~self._deleted(role)
        for row in _each(lacking):
            self._findings.lacks(self._page, row, where, what, recomputed)


def _each(rows: np.ndarray) -> list[int]:
    numbers: list[int] = np.flatnonzero(rows).tolist()
    return numbers


def clock_ms() -> int:
    """The present moment, epoch milliseconds."""
    return time.time_ns() // 1_000_000
