"""What one run of `verify` works on: the deployment's rules, the ledger, the findings."""

from dataclasses import dataclass, field, replace

from app.domain.changes import AnyChange
from app.domain.changes_in_force import InForce
from app.kafka.schema_registry import fetched_schemas
from app.ops.reference import ReferenceRules, murmur2_partition
from app.ops.verification.alerts import AlertLedger
from app.ops.verification.findings import Findings
from app.ops.verification.labels import LabelLedger
from app.ops.verification.ledger import Ledger
from app.ops.verification.lost_offsets import LostOffsets
from app.settings import Settings
from app.stages.deployed_alert_policy import alert_policy
from app.topics import Topics
from app.windows.waiting_labels import MAX_WAITING_LABELS
from app.wire.decoding.record_rules import record_rules
from app.wire.input_records import RecordRules
from app.wire.own_features_file import own_of

#: Before every moment: nothing has been deleted.
_ALWAYS = -(1 << 62)


@dataclass
class Erasure:
    """An erase record on `transactions`.

    Attributes:
        card_id: the card.
        received_at: when the broker appended it, epoch milliseconds.
        partitions: how many partitions `enriched` had then.
        forwarded: the partitions of `enriched` that have it.
    """

    card_id: str
    received_at: int
    partitions: int
    forwarded: set[int] = field(default_factory=set)


@dataclass
class VerifyRun:
    """One run.

    Attributes:
        settings: the deployment's.
        ledger: what is expected and seen.
        findings: what is wrong.
        topics: where to look.
        rules: what decides a feature.
        record_rules: what decides whether an input is valid.
        labels: what is expected and seen of labels.
        alerts: the same of alerts.
        refused: reason by partition and offset of what was refused for a reason that rules decide.
        of_others: predictions of other deployments on the same topic, which are left out.
        by_earlier_rules: how many of them the present rules would take.
        refunded: partition and offset of what was stored as a refund.
        erasures: by partition and offset of an erase record on `transactions`.
        changes: all that were made, in their order: partition of `control`, offset, change.
        partitions: their number where what is read now was processed.
    """

    settings: Settings
    ledger: Ledger
    findings: Findings
    topics: Topics = field(init=False)
    rules: ReferenceRules = field(init=False)
    record_rules: RecordRules = field(init=False)
    labels: LabelLedger = field(init=False)
    alerts: AlertLedger = field(init=False)
    refused: dict[tuple[int, int], str] = field(default_factory=dict)
    by_earlier_rules: int = 0
    of_others: int = 0
    refunded: set[tuple[int, int]] = field(default_factory=set)
    erasures: dict[tuple[int, int], Erasure] = field(default_factory=dict)
    changes: list[tuple[int, int, AnyChange]] = field(default_factory=list)
    partitions: int = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.topics = Topics(settings)
        self.rules = ReferenceRules(
            settings.windows,
            settings.allowed_lateness,
            settings.max_entries_per_key,
            settings.minor_unit_digits,
            settings.timezone,
            settings.label_delay,
            settings.label_wait,
            MAX_WAITING_LABELS,
            self.ledger.catalogue.names,
            own_of(settings),
        )
        # what becomes of refunds is decided behind these rules: the setting may have been another one
        self.record_rules = replace(record_rules(settings, fetched_schemas(settings)), refunds=True)
        self.lost = LostOffsets()
        self.labels = LabelLedger(
            self.topics.labels.name,
            settings.max_future_skew,
            settings.event_time_unit,
            self.record_rules.privacy,
        )
        self.alerts = AlertLedger.of(alert_policy(settings), settings.currency)
        self.partitions = settings.partitions
        self._homes: dict[str, int] = {}

    def enter(self, partitions: int) -> None:
        """From here on, what is read was processed with this number of partitions."""
        if partitions != self.partitions:
            self.partitions = partitions
            self._homes.clear()

    def home(self, key: str) -> int:
        """The partition of a card or terminal; each is worked out once."""
        home = self._homes.get(key)
        if home is None:
            home = murmur2_partition(key.encode(), self.partitions)
            self._homes[key] = home
        return home

    def in_force_before(self, until: tuple[int, int] | None) -> InForce:
        """What decides before a change (partition and offset on `control`); None: after all changes."""
        found = InForce()
        for partition, offset, change in self.changes:
            if until is not None and partition == until[0] and offset >= until[1]:
                break
            found = found.after(change, partition, offset)
        return found

    def known_from(self, first_kept_ms: int) -> int:
        """Event time from which on everything that decides a feature is still in the log.

        What was deleted lies no later than the oldest that is left, but for the skew that is let
        through; and a horizon later no trace of it is left in any window.

        Args:
            first_kept_ms: broker time of the first record that is left, -1 if none was deleted.
        """
        if first_kept_ms < 0:
            return _ALWAYS
        return first_kept_ms + self.settings.max_future_skew + self.rules.terminal_horizon_ms
