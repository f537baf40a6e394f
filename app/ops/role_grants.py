"""What each role needs of Kafka and Cassandra, once: `fraudstream grants` prints it, a test runs everything with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from app.settings import Settings
from app.topics import Topics, TopicSpec

Role = Literal[
    "setup", "worker", "notifier", "producer", "analyst", "modeller", "auditor", "eraser", "keeper"
]
#: Who they are.
ROLES: dict[Role, str] = {
    "setup": "creates and checks topics and tables: `fraudstream topics`, `fraudstream migrate`",
    "worker": "`fraudstream worker`",
    "notifier": "sends notifications about alerts: `fraudstream notify`",
    "producer": "sends transactions and labels: your systems, `fraudstream produce`",
    "analyst": "lists, acknowledges and snoozes alerts: `fraudstream alerts`",
    "modeller": "registers and promotes models: `fraudstream models`",
    "auditor": "read-only: `fraudstream verify`, `card`, `transaction`, `deadletters list`",
    "eraser": "deletes what is stored about a card: `fraudstream erase`",
    "keeper": "saves and restores what is only in Cassandra: `fraudstream backup`, `fraudstream restore`",
}
_TABLES = ("predictions", "conflicting_predictions", "labels", "refunds", "alerts")
_MODELS = ("models", "model_artifacts")
_COMPARED = ("predictions", "labels")
_JUDGED = ("alert_acks", "alert_snoozes", "alert_reviews")
_ERASURES = "erasures"


@dataclass(frozen=True)
class Grant:
    """What is allowed on one resource of Kafka.

    Attributes:
        kind: topic or group.
        name: its name.
        operations: as Kafka spells them.
        prefixed: whether it is for all whose name begins so.
    """

    kind: Literal["topic", "group"]
    name: str
    operations: tuple[str, ...]
    prefixed: bool = False


@dataclass(frozen=True)
class TableGrant:
    """What is allowed on one resource of Cassandra.

    Attributes:
        resource: as CQL writes it, such as `TABLE fraud_detection.predictions`.
        permissions: as CQL spells them.
    """

    resource: str
    permissions: tuple[str, ...]


def grants_of(role: Role, settings: Settings) -> list[Grant]:  # noqa: PLR0911
    """The smallest grants at Kafka with which a role does its work."""
    topics = Topics(settings)
    if role == "setup":
        return _of(topics.all, "CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER")
    if role == "producer":
        return _of((topics.transactions, topics.labels), "WRITE", "DESCRIBE")
    if role in ("analyst", "keeper"):
        return []
    if role == "modeller":
        return [
            *_of((topics.control,), "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"),
            *_of((topics.enriched,), "READ", "DESCRIBE", "DESCRIBE_CONFIGS"),
        ]
    if role == "notifier":
        return [
            *_of((topics.alerts,), "READ", "DESCRIBE", "DESCRIBE_CONFIGS"),
            *_of((topics.notifications,), "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"),
            Grant("group", f"{settings.deployment}-notify-", ("READ",), prefixed=True),
        ]
    if role == "auditor":
        group = Grant("group", settings.deployment, ("DESCRIBE",))
        before = [
            Topics(settings.model_copy(update={"generation": number})).enriched
            for number in range(1, settings.generation)
        ]
        return [*_of((*topics.all, *before), "READ", "DESCRIBE", "DESCRIBE_CONFIGS"), group]
    if role == "eraser":
        group = Grant("group", settings.deployment, ("DESCRIBE",))
        ordered = (topics.transactions, topics.labels, topics.control)
        others = [topic for topic in topics.all if topic not in ordered]
        return [
            *_of(ordered, "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"),
            *_of(others, "DESCRIBE", "DESCRIBE_CONFIGS"),
            group,
        ]
    only_written = (topics.duplicates, topics.late_transactions)
    only_seen = (topics.notifications,)
    read = [topic for topic in topics.all if topic not in (*only_written, *only_seen)]
    return [
        *_of(read, "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"),
        *_of(only_written, "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"),
        *_of(only_seen, "DESCRIBE", "DESCRIBE_CONFIGS"),
        Grant("group", settings.deployment, ("READ",)),
    ]


def table_grants_of(role: Role, settings: Settings) -> list[TableGrant]:  # noqa: PLR0911
    """The smallest grants at Cassandra with which a role does its work."""

    def on(tables: Iterable[str], *permissions: str) -> list[TableGrant]:
        return [TableGrant(f"TABLE {settings.keyspace}.{name}", permissions) for name in tables]

    if role == "setup":
        # whoever creates something is granted everything on it by Cassandra itself
        return [TableGrant("ALL KEYSPACES", ("CREATE",))]
    if role == "producer":
        return []
    if role == "notifier":
        return on(("alert_acks", "alert_snoozes", "alert_reviews"), "SELECT")
    if role == "analyst":
        acted = ("alert_acks", "alert_snoozes")
        return [*on(("alerts",), "SELECT"), *on(acted, "SELECT", "MODIFY")]
    if role == "modeller":
        read = (*_COMPARED, "schema_migrations")
        return [
            *on((*_MODELS, "model_gates", "schema_lock"), "SELECT", "MODIFY"),
            *on(read, "SELECT"),
        ]
    if role == "auditor":
        return on((*_TABLES, *_JUDGED, *_MODELS, _ERASURES, "schema_migrations"), "SELECT")
    if role == "eraser":
        return on((*_TABLES, *_JUDGED, _ERASURES, "schema_lock"), "SELECT", "MODIFY")
    if role == "keeper":
        return [
            *on((*_MODELS, "model_gates", *_JUDGED, _ERASURES, *_TABLES), "SELECT", "MODIFY"),
            *on(("schema_migrations",), "SELECT"),
        ]
    written = (*_TABLES, *_JUDGED, *_MODELS)
    return [*on(written, "SELECT", "MODIFY"), *on(("schema_migrations",), "SELECT")]


def _of(topics: Iterable[TopicSpec], *operations: str) -> list[Grant]:
    return [Grant("topic", topic.name, operations) for topic in topics]
