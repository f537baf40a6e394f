"""What is to be replayed, how, and under which name."""

from dataclasses import dataclass

from cassandra.cluster import Session

from app.cassandra import replay_targets
from app.cassandra.replay_targets import ReplayTargets
from app.errors import UsageError
from app.ops.replaying.look_back_bounds import ReplayRange
from app.ops.verification.topic_log import Log
from app.settings import Settings

#: Settings that a replay may have of its own: what shapes features and decisions. Which records there are, and
#: which of them are valid, was decided live.
OWN_SETTINGS = frozenset({
    "model", "features", "threshold", "windows", "reasons_from", "label_delay", "label_wait",
    "allowed_lateness", "max_entries_per_key", "timezone", "max_event_skew",
})  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is to be replayed, and how.

    Attributes:
        live: the deployment's settings.
        own: the replay's: `live` but for `OWN_SETTINGS`.
        name: of the group.
        asked: which transactions.
        by: settings that the replay has of its own; a model or threshold that is not among them is as it was live.
        short_windows: go on where retention has deleted a part of what windows look back to.
    """

    live: Settings
    own: Settings
    name: str
    asked: ReplayRange
    short_windows: bool = False
    by: frozenset[str] = frozenset({"model", "threshold"})

    @property
    def shadow(self) -> ReplayTargets:
        """Where results go."""
        return shadow_of(self.own, self.name)


def shadow_of(settings: Settings, name: str) -> ReplayTargets:
    """The shadow of a name: topics `NAME.predictions`, keyspace `KEYSPACE_NAME`.

    Raises:
        UsageError: the name does not fit.
    """
    keyspace = f"{settings.keyspace}_{name}"
    if not name.isascii() or not name.replace("_", "a").isalnum() or not name[:1].isalpha():
        msg = f"--group {name!r}: write lower-case letters, digits and underscores, such as model_2"
        raise UsageError(msg)
    if name != name.lower():
        msg = f"--group {name!r}: write it in lower case, as Cassandra requires: {name.lower()}"
        raise UsageError(msg)
    if len(keyspace) > 48:  # noqa: PLR2004 -- Cassandra's limit of a keyspace's name
        msg = (
            f"--group {name!r}: keyspace {keyspace} has {len(keyspace)} characters, 48 is the limit"
        )
        raise UsageError(msg)
    prefix = f"{settings.topic_prefix}{name}."
    own = settings.model_copy(update={"topic_prefix": prefix, "keyspace": keyspace})
    return ReplayTargets(name, own)


async def check_name(plan: Plan, log: Log, session: Session) -> None:
    """Refuse a name that something else has, or that has been used.

    Raises:
        UsageError: it is taken.
    """
    live, name, shadow = plan.live, plan.name, plan.shadow
    names = {live.app_id, live.topic_prefix + live.app_id, *await log.groups()}
    if name in names or live.topic_prefix + name in names:
        msg = f"--group {name} is a live consumer group: choose another name"
        raise UsageError(msg)
    told = replay_targets.told_of(session, shadow)
    if told is not None:
        state = "finished" if told.get("finished") else "did not finish"
        msg = (
            f"replay {name} exists (from {told.get('from')} to {told.get('to')} by {told.get('model')}; it "
            f"{state}): `fraudstream replay --remove {name}` first, or choose another --group"
        )
        raise UsageError(msg)
    topics = await replay_targets.existing_topics(shadow)
    if topics:
        msg = f"topic {topics[0]} exists and was not created by a replay: choose another --group"
        raise UsageError(msg)
