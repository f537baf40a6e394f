"""What a worker checks before it joins the group: its folder and stores, Kafka, topics, and Cassandra's schema."""

import logging
from pathlib import Path
from typing import Any

from app.blocks.faust.fatal_errors import halt
from app.file_writing import explained, write_whole
from app.folder_locks import claim_folder
from app.kafka.clients import check_group, cluster_id
from app.kafka.lost_changelogs import refuse_lost_changelogs
from app.kafka.topic_admin import check_topics, log_ends
from app.machine_requirements import require_open_files
from app.settings import Settings
from app.stages.block_rows import terminal_rules
from app.topics import Topics

#: A name of its own, because the logs of Faust's services are silenced.
logger = logging.getLogger("fraudstream")

#: Open files of a worker without partitions (measured: 60), and of one partition's stores.
_FILES, _PARTITION_FILES = 128, 16
#: A worker of a large deployment shares its partitions with others.
_MOST_PARTITIONS_EACH = 16
#: Says in a state folder whose it is.
_OWNER = "owner"
#: How often to try whether Cassandra answers, where it did not when the worker started.
_LOOK_AGAIN_SECONDS = 10.0


def claim_state(settings: Settings) -> None:
    """Make the state folder this worker's own: two workers on one folder would break both.

    Raises:
        UnavailableError: a running worker has it, it cannot be written, or too few files may be open.
    """
    require_open_files(needed_files(settings))
    claim_folder(
        settings.state_dir,
        "FRAUDSTREAM_DATADIR or --datadir",
        "give each worker its own FRAUDSTREAM_DATADIR or --datadir",
    )


def needed_files(settings: Settings) -> int:
    """How many files a worker must be able to open."""
    return _FILES + _PARTITION_FILES * min(settings.partitions, _MOST_PARTITIONS_EACH)


async def check_start(settings: Settings, topics: Topics) -> bool:
    """Refuse to start on what cannot work; warn of what may surprise. Returns whether Cassandra was looked at, too.

    Raises:
        FraudstreamError: one line that names what is missing and the command that mends it.
    """
    from app.cassandra.schema_check import check_schema_at_start

    await check_group(settings)
    warnings = await check_topics(settings, topics.all)
    await refuse_lost_changelogs(settings, topics)
    for topic, warning in warnings.items():
        logger.warning("topic %s: %s", topic, warning)
    horizon = terminal_rules(settings).horizon_ms
    if 0 <= settings.retention_ms < horizon:
        logger.warning(
            "retention %s is shorter than the longest window and the allowed lateness: a state that is "
            "rebuilt from the topics would lack entries", settings.retention,
        )  # fmt: skip
    return check_schema_at_start(settings)


async def check_schema_later(app: Any) -> None:
    """Look at the tables once Cassandra answers, where it did not at the start: else only a row would show it."""
    from app.cassandra.schema_check import check_schema_when_it_answers

    async def pause() -> bool:
        await app.sleep(_LOOK_AGAIN_SECONDS)
        return not app.should_stop

    if not app.schema_checked:
        try:
            await check_schema_when_it_answers(app.settings, pause)
        except Exception as error:  # Faust would end this task and go on without it
            halt("its tables", error)


async def discard_stale_stores(app: Any) -> None:
    """Delete the stores in the state folder of a `FraudApp` that cannot be continued: they are rebuilt.

    A folder is gone on with where it was left, by the same app on the same cluster's changelogs only.

    Raises:
        SchemaError: the changelogs were deleted and created again. Nothing is deleted then: the stores are all that is
            left of the state.
    """
    settings, file = app.settings, app.settings.state_dir / _OWNER
    owner = f"{app.conf.id} on cluster {await cluster_id(settings)}"
    if settings.generation > 1:  # its changelogs have other names, so their ids tell nothing
        owner += f", generation {settings.generation}"
    before, *changelogs = (_read(file) or owner).splitlines()
    was = dict(line.split(" ", 1) for line in changelogs)
    ids = app.topic_ids
    lost = [name for name, one in was.items() if one and ids.get(name, one) != one]
    if lost and before == owner:
        raise app.recreated(lost)
    now = {}
    for table in app.tables.values():
        name = table.changelog_topic.get_topic_name()
        now[name] = ids.get(name, "")
        ends = await log_ends(settings, name)
        for partition in table.discard_stale(ends, foreign=before != owner):
            logger.warning(
                "the store of %s/%s was %s: it was deleted and is being rebuilt", table.name, partition,
                f"that of {before}" if before != owner else f"ahead of its changelog {name}",
            )  # fmt: skip
    with explained(file.parent, "FRAUDSTREAM_DATADIR"):
        write_whole(file, "\n".join([owner, *(f"{name} {now[name]}" for name in now)]))


def _read(file: Path) -> str | None:
    return file.read_text() if file.exists() else None
