"""Every topic, once: its name, key, value, partitions and configuration.

| topic               | key             | value                                   | read by          |
|---------------------|-----------------|-----------------------------------------|------------------|
| transactions        | card_id         | one transaction, JSON; or an erase record | agents/cards   |
| labels              | transaction_id  | one label, JSON; or an erase record      | agents/labels   |
| control             | change          | one change of models, JSON               | agents/control   |
| enriched            | none            | many transactions or labels, or a change (internal) | agents/scoring |
| predictions         | card_id         | one prediction, JSON                    | agents/sink      |
| dead-letters        | source position | the original bytes, reasons in headers  | people           |
| duplicates          | card_id         | where the repeated record stands, JSON  | people, verify   |
| refunds             | card_id         | one refund, JSON                        | agents/refunds   |
| late-transactions   | card_id         | a copy of the prediction, JSON          | people           |
| alerts              | card_id         | one alert, JSON                         | agents/alerts, notify |
| notifications       | route/alert     | who was told of an alert, JSON          | `fraudstream notify` |
| cards-changelog     | row key         | a row of tables/cards                   | recovery         |
| terminals-changelog | row key         | a row of tables/terminals               | recovery         |
| labels-changelog    | row key         | a row of tables/labels                  | recovery         |
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from app.durations import DAY_MS
from app.settings import Settings

#: Room for what we add around a source record: features, reasons, headers, batch framing.
MESSAGE_OVERHEAD_BYTES = 64 * 1024

#: Deleted rows are gone from changelogs after so many times the least age for compaction.
MAX_LAG = 7
#: How long it is remembered who was told of an alert.
NOTIFIED_MS = 2 * DAY_MS


def batch_bytes(settings: Settings) -> int:
    """Largest record batch that our producer sends, bytes."""
    return settings.max_message_bytes + MESSAGE_OVERHEAD_BYTES // 2


@dataclass(frozen=True)
class TopicSpec:
    """One topic as it is created and checked.

    Attributes:
        name: full name in Kafka.
        partitions: number of partitions.
        config: topic configuration, as Kafka spells it.
        use: `source`: others write it; `internal`: of one app id; `output`: others read it.
    """

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)
    use: Literal["source", "internal", "output"] = "output"


class Topics:
    """The topics of one deployment, by role.

    Attributes:
        all: every topic, in the order in which they are created.
        changelogs: those of all tables, each with the topic from which its table is built.
        known: those that a state is built from, or proves to be written: it fits no others of their names.
    """

    def __init__(self, settings: Settings) -> None:
        def source(role: str, **config: str) -> TopicSpec:
            return replace(public(role, **config), use="source")

        def public(role: str, **config: str) -> TopicSpec:
            return TopicSpec(
                settings.topic_prefix + role, settings.partitions, {**streaming, **config}
            )

        def changelog(table: str) -> TopicSpec:
            name = f"{internal}-{table}-changelog"
            return TopicSpec(name, settings.partitions, compacted, "internal")

        # a new number of partitions gets new topics, beside those of before: `fraudstream repartition`
        internal = settings.deployment
        if settings.generation > 1:
            internal += f"-g{settings.generation}"
        largest = settings.max_message_bytes
        common = {
            "min.insync.replicas": str(settings.min_insync),
            "max.message.bytes": str(largest + MESSAGE_OVERHEAD_BYTES),
        }
        streaming = {
            **common,
            "cleanup.policy": "delete",
            "retention.ms": str(settings.retention_ms),
        }
        compacted = {
            **common,
            "cleanup.policy": "compact",
            "min.compaction.lag.ms": str(settings.compaction_lag),
            # without it a deleted row may stay for ever: compaction waits for half of the topic to be outdated
            "max.compaction.lag.ms": str(MAX_LAG * settings.compaction_lag),
        }
        self.transactions = source(
            "transactions",
            **{
                "max.message.bytes": str(largest),
                # with CreateTime a backfill's old timestamps are deleted by retention, and
                # whether a record lies in the future would change from replay to replay
                "message.timestamp.type": "LogAppendTime",
            },
        )
        # when a label came decides how long it waits: that must not change from replay to replay
        self.labels = source("labels", **{"message.timestamp.type": "LogAppendTime"})
        # Each change has a key of its own, so compaction keeps all of them, for ever: they are the history of what
        # decided. All are sent to partition 0; the topic has as many partitions as the others because all have.
        self.control = TopicSpec(
            settings.topic_prefix + "control",
            settings.partitions,
            {**compacted, "message.timestamp.type": "LogAppendTime"},
        )
        self.enriched = TopicSpec(
            f"{internal}-enriched",
            settings.partitions,
            streaming,
            "internal",
        )
        self.predictions = public("predictions")
        self.dead_letters = public("dead-letters")
        self.duplicates = public("duplicates")
        self.refunds = public("refunds")
        self.late_transactions = public("late-transactions")
        self.alerts = public("alerts")
        # the newest record of a key is what counts; and alerts do not come back after days
        self.notifications = public(
            "notifications",
            **{"cleanup.policy": "compact,delete", "retention.ms": str(NOTIFIED_MS)},
        )
        self.cards_changelog = changelog("cards")
        self.terminals_changelog = changelog("terminals")
        self.labels_changelog = changelog("labels")
        self.changelogs = (
            (self.cards_changelog, self.transactions),
            (self.terminals_changelog, self.enriched),
            (self.labels_changelog, self.labels),
        )
        self.all = (
            self.transactions,
            self.labels,
            self.control,
            self.enriched,
            self.predictions,
            self.dead_letters,
            self.duplicates,
            self.refunds,
            self.late_transactions,
            self.alerts,
            self.notifications,
            *(changelog for changelog, _ in self.changelogs),
        )
        self.known = (
            self.transactions,
            self.labels,
            self.control,
            self.enriched,
            self.predictions,
            *(changelog for changelog, _ in self.changelogs),
        )
