"""What topics must be like for a deployment to work, as far as Kafka's metadata and configuration tell."""

import re
from collections.abc import Mapping, Sequence

from app.errors import SchemaError
from app.kafka.topic_metadata import SeenTopic
from app.settings import Settings
from app.topics import Topics, TopicSpec

#: Configuration that must be as declared, for rebuilds to find all: compared at every start.
_BINDING = ("message.timestamp.type", "cleanup.policy", "retention.ms")
#: Configuration of source topics that changes results: (key, whether a value is fine, what allows another, why not).
_SOURCE_RULES = (
    (
        "cleanup.policy",
        lambda value: "compact" not in value.split(","),
        "compact",
        "cleanup.policy=delete",
        "compaction deletes all but the newest record of a key, and so the history that features need",
    ),
    (
        "message.timestamp.type",
        lambda value: value == "LogAppendTime",
        "create-time",
        "message.timestamp.type=LogAppendTime",
        "otherwise producers' clocks decide which events are in the future and how long a label waits",
    ),
)  # fmt: skip


def next_app_id(app_id: str) -> str:
    """A name for a deployment that starts afresh beside this one: `fraudstream-2` after `fraudstream`."""
    found = re.fullmatch(r"(.*)-(\d+)", app_id)
    return f"{found[1]}-{int(found[2]) + 1}" if found else f"{app_id}-2"


def recreated(names: Sequence[str], settings: Settings, *, gone: bool = False) -> SchemaError:
    """The refusal of a state whose topics were deleted, and created again unless they are gone."""
    anew = f"FRAUDSTREAM_APP_ID={next_app_id(settings.app_id)}"
    what = f"topic {names[0]} was" if len(names) == 1 else f"topics {', '.join(names)} were"
    again = "" if gone else " and created again"
    why = "its offsets start again at 0, and new records would be skipped as already seen"
    if all(name.endswith("-changelog") for name in names):
        why = "the state cannot be rebuilt from it"
    return SchemaError(
        f"{what} deleted{again} since the state of {settings.app_id} was built: {why}; "
        f"run `{anew} fraudstream topics`, then "
        f"start the workers with {anew}, "
        "which builds the state from the topics as they are now"
    )


def changed(
    seen: Mapping[str, SeenTopic], ids: Mapping[str, str], topics: Topics, settings: Settings
) -> SchemaError | None:
    """What has become of topics while a worker reads them, if that must stop it.

    Args:
        seen: the topics as Kafka has them now.
        ids: their ids at the worker's start.
        topics: the deployment's.
        settings: its settings.
    """
    if gone := [spec.name for spec in topics.known if spec.name not in seen]:
        return recreated(gone, settings, gone=True)
    if others := [name for name, one in ids.items() if seen[name].id not in (None, one)]:
        return recreated(others, settings)
    try:
        check_counts({name: one.partitions for name, one in seen.items()}, topics.all, settings)
    except SchemaError as error:
        return error
    return None


def check_counts(counts: Mapping[str, int], specs: Sequence[TopicSpec], settings: Settings) -> None:
    """Refuse topics whose numbers of partitions differ from each other or from the settings.

    Args:
        counts: partitions by topic, of those that exist.
        specs: the deployment's topics.
        settings: its settings.

    Raises:
        SchemaError: they differ; the text has the one way out that works.
    """
    have = {spec.name: counts[spec.name] for spec in specs if spec.name in counts}
    wrong = {name: count for name, count in have.items() if count != settings.partitions}
    if not wrong:
        return
    told = ", ".join(f"{name} has {count}" for name, count in wrong.items())
    if len(set(have.values())) == 1 and len(have) == len(specs):
        (count,) = set(have.values())
        msg = (
            f"all topics have {count} partitions, but the settings require {settings.partitions}: set "
            f"FRAUDSTREAM_PARTITIONS={count}"
        )
        raise SchemaError(msg)
    # counts cannot shrink
    goal = max(settings.partitions, *have.values())
    state = [s for s in specs if s.use == "internal" and have.get(s.name, goal) != goal]
    words = [f"FRAUDSTREAM_APP_ID={next_app_id(settings.app_id)}"] if state else []
    words += [f"FRAUDSTREAM_PARTITIONS={goal}"] if state or goal != settings.partitions else []
    command = " ".join([*words, "fraudstream topics --add-partitions"])
    then = f", then start the workers with {' and '.join(words)}" if words else ""
    why = ", and the state of a deployment cannot follow a changed number" if state else ""
    msg = (
        f"topic {told} partitions, but the settings require {settings.partitions}: all topics of a deployment need "
        f"the same number{why}; run `{command}`{then}"
    )
    if state:
        msg += "; after `fraudstream repartition`: set what it printed"
    raise SchemaError(msg)


def check_config(
    actual: Mapping[str, Mapping[str, str]], specs: Sequence[TopicSpec], settings: Settings
) -> dict[str, str]:
    """Refuse source topics whose configuration makes results wrong; returns warnings of the rest, by topic.

    Args:
        actual: configuration by topic.
        specs: the deployment's topics.
        settings: its settings.

    Raises:
        SchemaError: one is configured so; the text says how to change it and what allows it.
    """
    warnings: dict[str, list[str]] = {}
    for spec in specs:
        have = actual.get(spec.name, {})
        if spec.use == "source":
            for key, fine, name, change, why in _SOURCE_RULES:
                value = have.get(key)
                if value is None or fine(value) or name in settings.allow_topic_config:
                    continue
                msg = (
                    f"topic {spec.name} has {key}={value}: {why}; run `kafka-configs.sh --bootstrap-server "
                    f"{settings.broker or 'BROKER'} --alter --entity-type topics --entity-name {spec.name} "
                    f"--add-config {change}`, or allow it with FRAUDSTREAM_ALLOW_TOPIC_CONFIG={name}"
                )
                raise SchemaError(msg)
        for key in _BINDING:
            want, is_now = spec.config.get(key), have.get(key)
            if want is not None and is_now is not None and is_now != want:
                text = f"{key} is {is_now}, but the settings require {want}"
                warnings.setdefault(spec.name, []).append(text)
    return {name: "; ".join(texts) for name, texts in warnings.items()}
