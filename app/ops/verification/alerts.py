"""`alerts` and Cassandra's table of the same name, against what predictions require.

What is an alert follows from the prediction, from the rules in force, which the log has, and from the settings of
alerts, which it has not. So each alert names the policy that it was made by, and is compared under that one. Whether
one is lacking is decided by the present settings, for predictions that were made since they are in force.
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from app.domain.alert_policy import AlertPolicy
from app.domain.rules import RuleSet
from app.ops.reference_alerts import REPEATED, AlertPolicyAt, alert_id, flagged
from app.ops.verification.findings import Findings
from app.ops.verification.ledger import FoundIn, Ledger, SourcePage
from app.ops.verification.stored_alerts import CELLS, as_row, different, hashes, key_of
from app.scoring_deployment import is_anothers

if TYPE_CHECKING:
    from app.ops.verification.verify_run import VerifyRun

#: Keys of the report's `alerts`, in order. `before`: predictions that would be alerts under the present settings, and
#: were made when others were in force, or none.
COUNTS = ("required", "found", "repeated", "other_settings", "before", "rows")
#: What an alert says, whatever the policy.
_SAID = ("currency", "rules", "reasons", *REPEATED)
_NEEDED = frozenset({"key", "alert_id", "opened_at", "severity", "causes", *_SAID})


class ExpectedAlert(NamedTuple):
    """A prediction that is an alert under some policy.

    Attributes:
        said: hashes of `_SAID`; None where the rules that it names are not known.
        causes: every one that there is.
        score, minor, card_id, event_time_ms, received_at: of the prediction.
        written_ms: when its record was appended; -1: by a release that had no alerts.
    """

    said: "array[int] | None"
    causes: tuple[str, ...]
    score: float
    minor: int
    card_id: str
    event_time_ms: int
    received_at: int
    written_ms: int


class AlertRecord(NamedTuple):
    """An alert's record, as its row must repeat it.

    Attributes:
        cells: hashes of `CELLS`.
        page, row: its source record.
        received_at: of that.
        stored: whether the row must be there: its record's effects are durable.
    """

    cells: "array[int]"
    page: SourcePage
    row: int
    received_at: int
    stored: bool


@dataclass
class AlertLedger:
    """All alerts of one run.

    Attributes:
        policy: that of the settings; None: nothing is an alert.
        currency: the settings'.
        expected: by partition and offset of the source record.
        counts: see `COUNTS`.
        found: digests of the records on the topic, by source and key.
        rows: what must be in Cassandra, by what names a row.
        stored: which of these are there.
        others: hashes of what names the rows of other deployments, and of sources that retention has deleted.
        from_ms: when the first prediction was appended that the present settings decided; see `decided`.
    """

    policy: AlertPolicyAt | None
    currency: str
    expected: dict[tuple[int, int], ExpectedAlert] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    found: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    rows: dict[tuple[Any, ...], AlertRecord] = field(default_factory=dict)
    stored: set[tuple[Any, ...]] = field(default_factory=set)
    others: set[int] = field(default_factory=set)
    from_ms: int = 0
    _others_ms: int = -1
    _mine_ms: int | None = None

    @classmethod
    def of(cls, policy: AlertPolicy | None, currency: str) -> "AlertLedger":
        """Of a deployment's policy."""
        mine = None
        if policy is not None:
            losses = tuple(policy.losses_minor)
            mine = AlertPolicyAt(tuple(policy.causes), policy.window_ms, losses)
        return cls(mine, currency)

    def predicted(
        self, source: tuple[int, int], record: Any, fields: Mapping[str, Any], rules: RuleSet | None
    ) -> None:
        """A prediction of ours, the first of its source record; `rules`: None where the log does not say which."""
        fired = fields.get("rules")
        if not (fields["is_fraud"] or fired or "anomaly" in fields["flags"]):
            return
        said: array[int] | None = None
        causes: tuple[str, ...] = ()
        try:
            if rules is None and fired:
                raise KeyError(fired[0])
            one = flagged(fields, rules or RuleSet())
            if one is None:
                return
            causes = one.causes
            told = {**fields, "rules": one.rules, "reasons": one.reasons, "currency": self.currency}
            said = hashes(_SAID, told)
        except KeyError:  # that it differs is found where rules are compared
            pass
        self.expected[source] = ExpectedAlert(
            said, causes, fields["score"], fields["amount_minor"], fields["card_id"],
            fields["event_time_ms"], fields["received_at"], record.timestamp if "action" in fields else -1,
        )  # fmt: skip

    def is_present(self, policy: AlertPolicyAt | None) -> bool:
        """Whether an alert under this policy was made under the present settings."""
        return policy is None or policy == self.policy

    def decided(self, policy: AlertPolicyAt | None, written_ms: int) -> None:
        """An alert was made under a policy, and appended at a moment.

        From the first alert of the present settings on, and behind the last of others, the present ones decided.
        """
        if self.is_present(policy):
            self._mine_ms = min(written_ms, self._mine_ms or written_ms)
        else:
            self._others_ms = max(self._others_ms, written_ms)

    def _since_ms(self) -> float:
        if self._others_ms < 0:
            return self.from_ms
        mine = math.inf if self._mine_ms is None else self._mine_ms
        return max(self.from_ms, self._others_ms + 1, mine)

    def lacking(self) -> Iterable[tuple[tuple[int, int], str]]:
        """Source and id of alerts that the present settings require, and that are not on the topic."""
        policy = self.policy
        if policy is None:
            return
        since_ms = self._since_ms()
        for source, one in self.expected.items():
            if one.said is None or not policy.kept(one.causes):
                continue
            if one.written_ms < since_ms:
                self.counts["before"] += source not in self.found
                continue
            self.counts["required"] += 1
            if source not in self.found:
                yield (
                    source,
                    alert_id(one.card_id, policy.opened_at(one.card_id, one.event_time_ms)),
                )


class AlertReader:
    """Reads one partition of `alerts`, once all predictions are known.

    Args:
        case: the run.
        done: offset after the last record that is stored.
    """

    def __init__(self, case: "VerifyRun", done: int) -> None:
        self._case = case
        self._ledger = case.alerts
        self._done = done
        self._where = case.topics.alerts.name
        self._digits = case.settings.minor_unit_digits

    def take(self, records: list[Any]) -> None:
        """Records in offset order."""
        findings, pages = self._case.findings, self._case.ledger
        for record in records:
            alert = _alert_in(record)
            try:
                cells = hashes(CELLS, as_row(alert, self._digits))
            except (KeyError, ValueError, TypeError):  # a field is lacking, or of another type
                findings.stray(
                    self._where, "record", f"{self._where}/{record.partition}/{record.offset}"
                )
                continue
            source = alert["source_topic"], alert["source_partition"], alert["source_offset"]
            found = pages.find(*source)
            if is_anothers(alert, self._case.settings.deployment) or found is None:
                self._case.of_others += found is not None
                self._ledger.others.add(hash(key_of(alert)))
                if found is None and pages.is_foreign(*source):
                    findings.stray(self._where, "source", "/".join(map(str, source)))
                continue
            self._compare(*found, record, alert, cells)

    def _compare(
        self, page: SourcePage, row: int, record: Any, alert: dict[str, Any], cells: "array[int]"
    ) -> None:
        ledger, source = self._ledger, (page.number, page.begin + row)
        said = AlertPolicyAt.read(alert.get("policy"))
        policy = said or ledger.policy
        ledger.decided(said, record.timestamp)
        before = ledger.found.setdefault(source, {})
        digest = hash((record.key, record.value, tuple(record.headers)))
        if alert["key"] in before:
            ledger.counts["repeated"] += 1
            if before[alert["key"]] != digest:
                self._differs(page, row, "repeated output", "another one", "the first")
            return
        before[alert["key"]] = digest
        ledger.counts["found"] += 1
        ledger.counts["other_settings"] += not ledger.is_present(said)
        stored = record.offset < self._done
        ledger.rows[key_of(alert)] = AlertRecord(cells, page, row, alert["received_at"], stored)
        one = ledger.expected.get(source)
        if one is None or policy is None or (one.said is not None and not policy.kept(one.causes)):
            if page.seen[row] & FoundIn.PREDICTED:  # else the prediction is missing, or was deleted
                self._differs(page, row, "alert", alert["alert_id"], "none")
        elif one.said is not None:
            self._explain(page, row, record, alert, one, policy)

    def _explain(
        self,
        page: SourcePage,
        row: int,
        record: Any,
        alert: dict[str, Any],
        one: ExpectedAlert,
        policy: AlertPolicyAt,
    ) -> None:
        causes = policy.kept(one.causes)
        opened_at = policy.opened_at(one.card_id, one.event_time_ms)
        name = alert_id(one.card_id, opened_at)
        key = f"{name}-{page.number}-{page.begin + row}"
        wanted: dict[str, tuple[Any, Any]] = {
            "alert_id": (alert["alert_id"], name),
            "opened_at": (alert["opened_at"], opened_at),
            "key": (alert["key"], key),
            "causes": (tuple(alert["causes"]), causes),
            "severity": (alert["severity"], policy.severity(one.score, one.minor, causes)),
            "record key": (record.key, one.card_id.encode()),
            "headers": (dict(record.headers), {"idempotency-key": alert["key"].encode()}),
        }
        for what, (stored, recomputed) in wanted.items():
            if stored != recomputed:
                self._differs(page, row, what, _shown(stored), _shown(recomputed))
        for what in different(_SAID, hashes(_SAID, alert), one.said):
            self._differs(page, row, what, alert[what], "the prediction's")

    def _differs(self, page: SourcePage, row: int, what: str, stored: Any, recomputed: Any) -> None:
        self._case.findings.differs(page, row, self._where, what, stored, recomputed)


class MissingAlertExcuses(NamedTuple):
    """What may excuse an alert or a row that is not there.

    Attributes:
        to_come: whether the effects of a page's row may not be durable yet.
        kept_from_ms: see `read_rows`.
        expired_before_ms: rows of records that were received until then are gone.
    """

    to_come: Callable[[SourcePage, int], bool]
    kept_from_ms: int
    expired_before_ms: int


def conclude(
    ledger: AlertLedger, pages: Ledger, findings: Findings, topic: str, by: MissingAlertExcuses
) -> dict[str, int]:
    """Mark what is not there; the counts of `COUNTS`."""
    for (number, offset), name in ledger.lacking():
        page = pages.pages[number]
        row = offset - page.begin
        deleted = int(page.received_at[row]) <= by.kept_from_ms
        if by.to_come(page, row):
            findings.pending(page, row)
        elif deleted:
            findings.unverifiable(page, row)
        else:
            findings.lacks(page, row, topic, "alert", name)
    for key, one in ledger.rows.items():
        erased = bool(one.page.erased[one.row])
        if key in ledger.stored and erased:
            gone = "there", "erased with its card"
            findings.differs(one.page, one.row, "cassandra (alerts)", "row", *gone)
        if key in ledger.stored or erased:
            continue
        if one.received_at <= by.expired_before_ms:
            findings.unverifiable(one.page, one.row)
        elif not one.stored:
            findings.pending(one.page, one.row)
        else:
            findings.lacks(one.page, one.row, "cassandra (alerts)", "row", key[0])
            findings.rows_lost(1, one.received_at)
    return {name: ledger.counts[name] for name in COUNTS}


def _alert_in(record: Any) -> dict[str, Any]:
    try:
        fields = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) and fields.keys() >= _NEEDED else {}


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value)
