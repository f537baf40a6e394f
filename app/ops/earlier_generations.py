"""What a deployment was before its number of partitions changed, for commands that read the log."""

from app.ops.changelog_rows import read_rows
from app.ops.verification.topic_log import Log
from app.settings import Settings
from app.stages.earlier_partitions import EARLIER_KEY, Earlier, read_earlier
from app.topics import Topics, TopicSpec


async def earlier_of(settings: Settings, log: Log) -> list[Earlier]:
    """Its earlier generations, the first one first.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    if settings.generation == 1:
        return []
    topic = Topics(settings).labels_changelog
    begins, ends = await log.begins(topic), await log.ends(topic)
    rows = await read_rows(log, topic, 0, begins[0], ends[0])
    return read_earlier(rows.get(EARLIER_KEY))


def topics_of(settings: Settings, generation: int, partitions: int) -> Topics:
    """The topics of one generation."""
    return Topics(settings.model_copy(update={"generation": generation, "partitions": partitions}))


def own_topics(topics: Topics) -> list[TopicSpec]:
    """The topics that belong to one generation alone."""
    return [spec for spec in topics.all if spec.use == "internal"]


def earlier_names(settings: Settings) -> tuple[list[str], list[str]]:
    """Names of `enriched`, and of the changelogs, of all earlier generations; they may be deleted by now."""
    every = [topics_of(settings, number, 1) for number in range(1, settings.generation)]
    changelogs = [
        spec.name
        for topics in every
        for spec in own_topics(topics)
        if spec.name != topics.enriched.name
    ]
    return [topics.enriched.name for topics in every], changelogs
