"""Rows in Cassandra, column by column, against the prediction and what is expected of its source record."""

from array import array
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from app.cassandra.prediction_columns import month_of
from app.cassandra.raw_rows import DoubleMaps, decimal, doubles, texts
from app.domain.json_text import raw_fields
from app.ops.verification.ledger import (
    CERTAIN,
    PREDICTED,
    ExpectedOutcome,
    FeatureList,
    FoundIn,
    SourcePage,
)
from app.ops.verification.output_fields import hash_extra, shadows_hash
from app.ops.verification.verify_run import VerifyRun

_DAY_MS = 86_400_000
_CHUNK_ROWS = 5_000


class Row(NamedTuple):
    """A row as `app/cassandra/raw_rows` gives it; the names are the table's."""

    card_id: str
    month: str
    event_time: int
    transaction_id: str
    terminal_id: str | None
    amount: bytes | None
    amount_minor: int | None
    currency: str
    features: bytes | None
    score: float | None
    is_fraud: bool | None
    threshold: float | None
    model_version: str
    model_hash: str
    feature_schema: str
    reasons: bytes | None
    anomaly_score: float | None
    flags: bytes | None
    rules: bytes | None
    action: str | None
    source_topic: str
    source_partition: int
    source_offset: int
    received_at: int | None
    scored_at: int | None
    schema_version: int
    extra: str | None
    shadow_scores: bytes | None = None
    shadow_flagged: bytes | None = None
    own: tuple[Any, ...] = ()

    @classmethod
    def of(cls, cells: tuple[Any, ...]) -> "Row":
        """A row as it is scanned: the columns of `COLUMNS`, then those of the deployment's own fields."""
        return cls._make((*cells[: len(COLUMNS)], cells[len(COLUMNS) :]))


#: Columns that every deployment has.
COLUMNS = Row._fields[:-1]


class RowReader:
    """Compares rows, in whatever order they come.

    Args:
        case: the run, once all topics have been read.

    Attributes:
        rows: how many were read.
    """

    def __init__(self, case: VerifyRun) -> None:
        self.rows = 0
        self._case = case
        self._ledger = case.ledger
        self._identities = array("q")
        self._maps = {each.schema: DoubleMaps(list(each.names)) for each in case.ledger.lists}
        self._masks: dict[bytes | None, int] = {}
        self._reasons: dict[bytes | None, int] = {}
        self._months: dict[int, str] = {}

    def read(self, rows: Iterable[tuple[Any, ...]]) -> Iterable[int]:
        """Compare all rows of a scan; yields now and then how many were read."""
        scan = map(Row.of, rows)
        while chunk := list(islice(scan, _CHUNK_ROWS)):
            self._take(chunk)
            self.rows += len(chunk)
            yield self.rows

    def lacking(self, page: SourcePage) -> np.ndarray:
        """Which source records of a page have no row under their key: card, event time, transaction.

        The key of a conflicting one has its source position, too.
        """
        found = np.sort(np.array(self._identities, np.int64))
        lacking = np.full(len(page), True)
        if len(found):
            at = np.searchsorted(found, page.identity).clip(max=len(found) - 1)
            lacking = found[at] != page.identity
        conflicting = (page.fate == ExpectedOutcome.CONFLICTING) | page.conflicting
        lacking[conflicting] = (page.seen[conflicting] & FoundIn.ROW) == 0
        return lacking

    def _take(self, chunk: list[Row]) -> None:
        by_page = defaultdict[int, list[tuple[int, Row, int]]](list)
        findings = self._case.findings
        for row in chunk:
            source = row.source_topic, row.source_partition, row.source_offset
            identity = hash((row.card_id, row.event_time, row.transaction_id))
            if b"conflicting" not in (row.flags or b""):
                self._identities.append(identity)
            found = self._ledger.find(*source)
            if found is not None:
                by_page[row.source_partition].append((found[1], row, identity))
            elif self._ledger.is_foreign(*source):
                findings.stray("cassandra", "source", "/".join(map(str, source)))
            elif row.source_offset < self._ledger.pages[row.source_partition].begin:
                self._ledger.expired_rows += 1
        for partition, members in by_page.items():
            page = self._ledger.pages[partition]
            for listed, at in self._ledger.by_list([row for row, _, _ in members], page):
                self._compare(page, listed, [members[index] for index in at])

    def _compare(
        self, page: SourcePage, listed: FeatureList, members: list[tuple[int, Row, int]]
    ) -> None:
        """First all at once; then those that are not right one by one."""
        at = [row for row, _, _ in members]
        rows = [row for _, row, _ in members]
        model, digits = self._ledger.model_index, self._case.settings.minor_unit_digits
        fits, features = self._maps[listed.schema].read([row.features for row in rows])
        anomalies = np.array([_number(row.anomaly_score) for row in rows])
        right = fits & np.isin(page.fate[at], CERTAIN) & page.terminal_known[at]
        right &= (page.features[np.ix_(np.array(at), listed.columns)] == features).all(axis=1)
        right &= (page.flags[at] & listed.flags) == [self._mask(row.flags) for row in rows]
        right &= _equal(page.anomaly[at], anomalies)
        right &= (page.seen[at] & FoundIn.PREDICTED) != 0
        columns = {
            "identity": [identity for _, _, identity in members],
            "detail": [hash((row.terminal_id, row.amount_minor)) for row in rows],
            "score": [_number(row.score) for row in rows],
            "threshold": [_number(row.threshold) for row in rows],
            "is_fraud": [row.is_fraud for row in rows],
            "model": [
                model((row.model_version, row.model_hash, row.feature_schema)) for row in rows
            ],
            "reasons": [self._hash(row.reasons) for row in rows],
            "outcome": [hash((texts(row.rules), row.action)) for row in rows],
            "shadows": [_shadows(row) for row in rows],
            "extra": [self._extra(row) for row in rows],
            "received_at": [row.received_at for row in rows],
        }
        for name, stored in columns.items():
            right &= getattr(page, name)[at] == stored
        right &= [
            row.currency == self._case.settings.currency
            and row.month == self._month(row.event_time)
            and row.scored_at is not None
            and _is_minor(row.amount, row.amount_minor, digits)
            for row in rows
        ]
        page.seen[at] |= FoundIn.ROW
        for index in np.flatnonzero(~right):
            self._explain(page, at[index], rows[index])

    def _extra(self, row: Row) -> int:
        raw = raw_fields(row.extra.encode()) if row.extra else {}
        own = {f.name: v for f, v in zip(self._case.rules.own.fields, row.own, strict=True)}
        return hash_extra(row.schema_version, raw, own)

    def _mask(self, raw: bytes | None) -> int:
        mask = self._masks.get(raw)
        if mask is None:
            try:
                mask = self._ledger.mask(texts(raw))
            except KeyError:
                mask = -1  # an unknown flag
            self._masks[raw] = mask
        return mask

    def _hash(self, raw: bytes | None) -> int:
        found = self._reasons.get(raw)
        if found is None:
            found = self._reasons[raw] = hash(texts(raw))
        return found

    def _month(self, t_ms: int) -> str:
        day = t_ms // _DAY_MS
        month = self._months.get(day)
        if month is None:
            month = self._months[day] = month_of(t_ms)
        return month

    def _explain(self, page: SourcePage, at: int, row: Row) -> None:
        fate = ExpectedOutcome(page.fate[at])
        if fate not in PREDICTED:
            self._differs(page, at, "fate", "stored", fate.name.lower())
            return
        key = [row.card_id, row.event_time, row.transaction_id]
        if page.identity[at] != hash(tuple(key)):
            self._differs(page, at, "key", key, "another one")
            return
        if page.detail[at] != hash((row.terminal_id, row.amount_minor)):
            stored = [row.terminal_id, row.amount_minor]
            self._differs(page, at, "terminal_id and amount_minor", stored, "others")
        unit = Decimal(10) ** -self._case.settings.minor_unit_digits
        expected: dict[str, tuple[Any, Any]] = {
            "amount": (_text(row.amount), str((row.amount_minor or 0) * unit)),
            "currency": (row.currency, self._case.settings.currency),
            "month": (row.month, month_of(row.event_time)),
            "received_at": (row.received_at, int(page.received_at[at])),
            "scored_at": (row.scored_at is None, False),
        }
        for column, (stored, recomputed) in expected.items():
            if stored != recomputed:
                self._differs(page, at, column, stored, recomputed)
        self._explain_features(page, at, row, fate)
        if page.seen[at] & FoundIn.PREDICTED:
            self._explain_prediction(page, at, row)
        else:
            page.late[at] = "late" in texts(row.flags)
            page.conflicting[at] = "conflicting" in texts(row.flags)

    def _explain_features(self, page: SourcePage, at: int, row: Row, fate: ExpectedOutcome) -> None:
        listed = self._ledger.lists[page.listed[at]]
        names = list(listed.names)
        stored = doubles(row.features)
        if sorted(stored) != sorted(names):
            self._differs(page, at, "feature names", sorted(stored), sorted(names))
            return
        known = [fate != ExpectedOutcome.UNKNOWN] * listed.card
        known += [bool(page.terminal_known[at])] * (len(names) - listed.card)
        expected = page.features[at, listed.columns].tolist()
        for name, certain, recomputed in zip(names, known, expected, strict=True):
            if certain and stored[name] != recomputed:
                self._differs(page, at, name, stored[name], recomputed)
        flags = sorted(self._ledger.names(int(page.flags[at] & listed.flags)))
        if all(known) and sorted(texts(row.flags)) != flags:
            self._differs(page, at, "flags", sorted(texts(row.flags)), flags)

    def _explain_prediction(self, page: SourcePage, at: int, row: Row) -> None:
        """The columns that only the prediction record determines."""
        for column in ("score", "threshold", "is_fraud"):
            stored, recorded = getattr(row, column), getattr(page, column)[at].item()
            if stored != recorded:
                self._differs(page, at, column, stored, recorded)
        model = (row.model_version, row.model_hash, row.feature_schema)
        named = self._ledger.models[page.model[at]]
        if model != named:
            self._differs(page, at, "model", list(model), list(named))
        anomaly = np.array([_number(row.anomaly_score)])
        if not _equal(page.anomaly[[at]], anomaly)[0]:
            self._differs(page, at, "anomaly_score", row.anomaly_score, page.anomaly[at].item())
        if page.reasons[at] != self._hash(row.reasons):
            self._differs(page, at, "reasons", list(texts(row.reasons)), "the prediction's")
        if page.outcome[at] != hash((texts(row.rules), row.action)):
            stored = [list(texts(row.rules)), row.action]
            self._differs(page, at, "rules and action", stored, "the prediction's")
        if page.shadows[at] != _shadows(row):
            stored = [doubles(row.shadow_scores), texts(row.shadow_flagged)]
            self._differs(page, at, "shadow_scores", stored, "the prediction's")
        if page.extra[at] != self._extra(row):
            stored = [row.schema_version, row.extra, *row.own]
            self._differs(page, at, "schema_version and extra", stored, "the prediction's")

    def _differs(self, page: SourcePage, at: int, what: str, stored: Any, recomputed: Any) -> None:
        self._case.findings.differs(page, at, "cassandra", what, stored, recomputed)


def _shadows(row: Row) -> int:
    if row.shadow_scores is None and row.shadow_flagged is None:
        return 0
    return shadows_hash(doubles(row.shadow_scores), texts(row.shadow_flagged))


def _text(amount: bytes | None) -> str | None:
    return None if amount is None else str(decimal(amount))


def _is_minor(amount: bytes | None, minor: int | None, digits: int) -> bool:
    """Whether a decimal's bytes are this number of minor units."""
    if amount is None or int.from_bytes(amount[:4], "big") != digits:
        return False
    return int.from_bytes(amount[4:], "big", signed=True) == minor


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _equal(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Element by element, NaN being equal to NaN: both say that there is no value."""
    equal: np.ndarray = (some == others) | (np.isnan(some) & np.isnan(others))
    return equal
