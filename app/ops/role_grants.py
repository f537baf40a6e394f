"""What each role needs of Kafka and Cassandra, once: `fraudstream grants` prints it, a test runs everything with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from app.ops.earlier_generations import earlier_names, own_topics
from app.settings import Settings
from app.topics import Topics, TopicSpec

Role = Literal[
    "setup", "worker", "notifier", "producer", "analyst", "modeller", "auditor", "repairer", "replayer",
    "repartitioner", "eraser", "keeper",
]  # fmt: skip
ROLES: tuple[Role, ...] = get_args(Role)
#: Commands that need no grants: they use files, or only the local servers of `fraudstream up`. `bench` creates and
#: deletes topics and tables of its own: it is for servers on which one may do everything.
WITHOUT_ROLE = frozenset({
    "demo", "up", "down", "status", "wipe", "grants", "pseudonym", "users", "config", "monitoring", "features",
    "simulate", "handbook", "bench",
})  # fmt: skip
#: What the names of replays must begin with, for a user who may not create any topic.
REPLAYS = "replay"

_SEE = ("DESCRIBE", "DESCRIBE_CONFIGS")
_READ = ("READ", *_SEE)
_CHANGE = ("READ", "WRITE", *_SEE)
_TABLES = ("predictions", "conflicting_predictions", "labels", "refunds", "alerts")
_MODELS = ("models", "model_artifacts")
_COMPARED = ("predictions", "labels")
#: Together all that was scored.
_SCORED = ("predictions", "conflicting_predictions")
_JUDGED = ("alert_acks", "alert_snoozes", "alert_reviews")
_ERASURES, _AUDIT = "erasures", "audit_records"


@dataclass(frozen=True)
class Duty:
    """What a role is for.

    Attributes:
        what: in words.
        commands: those that it runs; a group of commands stands for all of its commands that no other role names.
    """

    what: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what}: {', '.join(f'`fraudstream {one}`' for one in self.commands)}"


DUTIES: dict[Role, Duty] = {
    "setup": Duty("creates and checks topics and tables", ("topics", "migrate")),
    "worker": Duty("scores transactions", ("worker",)),
    "notifier": Duty("sends notifications about alerts", ("notify",)),
    "producer": Duty("sends transactions and labels, as your systems do", ("produce",)),
    "analyst": Duty("handles alerts and labels transactions", ("alerts", "label")),
    "modeller": Duty(
        "trains and promotes models, changes rules and lists",
        ("models", "rules", "lists", "train", "retrain"),
    ),
    "auditor": Duty(
        "reads everything, changes nothing",
        ("verify", "audit", "rebuild", "quality", "drift", "card", "terminal", "transaction", "deadletters"),
    ),
    "repairer": Duty(
        "writes lost rows again, and sends dead-letter records again or skips them",
        ("rewrite", "deadletters redrive", "deadletters skip"),
    ),
    "replayer": Duty(
        f"scores past transactions again, in replays whose names begin with `{REPLAYS}`", ("replay",)
    ),
    "repartitioner": Duty("changes the number of partitions", ("repartition",)),
    "eraser": Duty("deletes what is stored about a card", ("erase",)),
    "keeper": Duty("saves and restores what is only in Cassandra", ("backup", "restore")),
}  # fmt: skip


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


def grants_of(role: Role, settings: Settings) -> list[Grant]:
    """The smallest grants at Kafka with which a role does its work."""
    return _kafka_grants(settings)[role]


def table_grants_of(role: Role, settings: Settings) -> list[TableGrant]:
    """The smallest grants at Cassandra with which a role does its work."""
    return _cassandra_grants(settings)[role]


def _kafka_grants(settings: Settings) -> dict[Role, list[Grant]]:
    topics = Topics(settings)

    def on(names: Iterable[TopicSpec], *operations: str) -> list[Grant]:
        return [Grant("topic", topic.name, operations) for topic in names]

    def rest(*named: TopicSpec) -> list[Grant]:
        """Commands check all topics before they read some."""
        return on([topic for topic in topics.all if topic not in named], *_SEE)

    name = settings.deployment
    group, seen_group = Grant("group", name, ("READ",)), Grant("group", name, ("DESCRIBE",))
    sources = (topics.transactions, topics.labels)
    earlier = [
        Topics(settings.model_copy(update={"generation": number})).enriched
        for number in range(1, settings.generation)
    ]
    # where one number of partitions ends and the next one begins is in the changelog of parked labels
    history = (topics.labels_changelog,) if earlier else ()
    outputs = (topics.duplicates, topics.late_transactions)
    learned = (topics.enriched, topics.predictions, topics.labels)
    repaired = (topics.transactions, topics.dead_letters)
    rewritten = (
        topics.labels, topics.predictions, topics.refunds, topics.alerts, topics.enriched, *earlier, *history,
    )  # fmt: skip
    replayed = (topics.transactions, topics.enriched, topics.control, topics.dead_letters, *history)
    return {
        "setup": on(topics.all, "CREATE", *_SEE, "ALTER"),
        "worker": [
            *on([one for one in topics.all if one not in (*outputs, topics.notifications)], *_CHANGE),
            *on(outputs, "WRITE", *_SEE),
            *on((topics.notifications,), *_SEE),
            group,
        ],
        "notifier": [
            *on((topics.alerts,), *_READ),
            *on((topics.notifications,), *_CHANGE),
            Grant("group", f"{name}-notify-", ("READ",), prefixed=True),
        ],
        "producer": on(sources, "WRITE", "DESCRIBE"),
        "analyst": on((topics.labels,), "WRITE", "DESCRIBE"),
        "modeller": [
            *on((topics.control,), *_CHANGE),
            *on(learned, *_READ),
            *rest(topics.control, *learned),
            seen_group,
        ],
        "auditor": [*on((*topics.all, *earlier), *_READ), seen_group],
        "repairer": [
            *on(repaired, *_CHANGE),
            *on(rewritten, *_READ),
            *rest(*repaired, *rewritten),
            seen_group,
        ],
        "replayer": [
            *on(replayed, *_READ),
            *rest(*replayed),
            Grant(
                "topic", settings.topic_prefix + REPLAYS, ("CREATE", "DELETE", "WRITE", *_SEE), prefixed=True
            ),
            seen_group,
        ],
        "repartitioner": [*_of_repartitioner(settings, topics), seen_group],
        "eraser": [
            *on((*sources, topics.control), *_CHANGE),
            *rest(*sources, topics.control),
            seen_group,
        ],
        "keeper": [],
    }  # fmt: skip


def _of_repartitioner(settings: Settings, topics: Topics) -> list[Grant]:
    """On topics of the present generation and of the next one, and on what `--finish` deletes."""
    after = Topics(settings.model_copy(update={"generation": settings.generation + 1}))
    _, outdated = earlier_names(settings)
    operations = {
        **{topic.name: ("ALTER", *_SEE) for topic in topics.all},
        **{
            topic.name: ("READ", "ALTER", *_SEE)
            for topic in (topics.transactions, topics.dead_letters)
        },
        **{topic.name: ("READ", "DELETE", *_SEE) for topic in own_topics(topics)},
        topics.enriched.name: _READ,
        **{topic.name: (*_CHANGE, "CREATE", "DELETE") for topic in own_topics(after)},
        **dict.fromkeys(outdated, ("DELETE", "DESCRIBE")),
    }
    return [Grant("topic", name, allowed) for name, allowed in operations.items()]


def _cassandra_grants(settings: Settings) -> dict[Role, list[TableGrant]]:
    def on(tables: Iterable[str], *permissions: str) -> list[TableGrant]:
        return [TableGrant(f"TABLE {settings.keyspace}.{name}", permissions) for name in tables]

    # whoever creates something is granted everything on it by Cassandra itself
    create = TableGrant("ALL KEYSPACES", ("CREATE",))
    schema = on(("schema_migrations",), "SELECT")
    both = ("SELECT", "MODIFY")
    acted = ("alert_acks", "alert_snoozes")
    return {
        "setup": [create],
        "worker": [
            *on((*_TABLES, *_JUDGED, *_MODELS), *both),
            *on(("model_gates",), "SELECT"),  # for the page /models/
            *on((_AUDIT,), "MODIFY"),
            *schema,
        ],
        "notifier": on(_JUDGED, "SELECT"),
        "producer": [],
        "analyst": [
            *on(("alerts", "alert_reviews", "predictions"), "SELECT"),
            *on(acted, *both),
            *on((_AUDIT,), "MODIFY"),
        ],
        "modeller": [
            *on((*_MODELS, "model_gates", "schema_lock"), *both),
            *on(_COMPARED, "SELECT"),
            *schema,
        ],
        "auditor": [*on((*_TABLES, *_JUDGED, *_MODELS, _ERASURES, _AUDIT), "SELECT"), *schema],
        "repairer": [*on(_TABLES, "MODIFY"), *schema],
        "replayer": [create, *on((*_SCORED, "labels", *_MODELS), "SELECT")],
        "repartitioner": [],
        "eraser": on((*_TABLES, *_JUDGED, _ERASURES, _AUDIT, "schema_lock"), *both),
        "keeper": [
            *on((*_MODELS, "model_gates", *_JUDGED, _ERASURES, _AUDIT, *_TABLES), *both),
            *schema,
        ],
    }
