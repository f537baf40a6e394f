"""Checks and initial rows when a partition is assigned, before its records are read."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from faust.types import TP

from app.domain.changes_in_force import InForce
from app.stages.known_topics import TOPICS_KEY, KnownTopics
from app.stages.parked_labels import PREFIX, erased_rows, erasures_of
from app.stages.reserved_rows import (
    IN_FORCE_KEY,
    PINS_KEY,
    POSITION_KEY,
    StatePosition,
    in_force_row,
    is_of_later_than_0_1_0,
    read_in_force,
)


class LogOffsets(Protocol):
    """Begin and end offsets of logs (Faust's consumer implements this)."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Offset after the last record."""

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Offset of the first record."""


async def check_state(
    offsets: LogOffsets, table: Any, tp: TP, start: int, settings: str, model: str = "default"
) -> int:
    """Refuse a state that does not fit the source topic, the committed offset or the settings.

    Args:
        offsets: begin and end offsets of logs.
        table: the stage's table.
        tp: the source partition.
        start: offset at which it will be read.
        settings: `state_settings` of this start.
        model: the setting, for the error.

    Returns:
        The end of the source partition.

    Raises:
        SchemaError, SettingsError, StateError: it does not fit.
    """
    ends = await offsets.highwaters(tp)
    first = await offsets.earliest_offsets(tp)
    where = f"{tp.topic}/{tp.partition}"
    position = StatePosition.read(table.reader(tp.partition), settings)
    position.check(where, settings, log_end=ends[tp], log_start=first[tp], start=start, model=model)
    return ends[tp]


async def check_topics_known(
    table: Any,
    partition: int,
    present: Mapping[str, str],
    refusal: Callable[[list[str]], Exception],
    *,
    changelog: str,
) -> None:
    """Refuse a state that was built from topics which have been deleted and created again since.

    A state without the ids of some topics adopts the present ones. It has the row before its first block. So a state
    with blocks and without the row is what a worker wrote into a changelog that was created again while it ran; only
    release 0.1.0 wrote no such row.

    Args:
        table: the stage's table.
        partition: its partition.
        present: Kafka's ids of the topics, by name.
        refusal: makes the error from the names of the topics that differ.
        changelog: name of the table's changelog.

    Raises:
        Exception: `refusal`.
        ForeignWriterError: another worker wrote the changelog.
    """
    reader = table.reader(partition)
    raw = reader.get(TOPICS_KEY)
    if raw is None and is_of_later_than_0_1_0(reader.get(POSITION_KEY)):
        raise refusal([changelog])
    known = KnownTopics.read(raw)
    if names := known.differing(present):
        raise refusal(names)
    if known.adopt(present) or raw is None:
        await table.write(partition, [known.encode()])


async def check_labels(offsets: LogOffsets, table: Any, tp: TP) -> None:
    """Refuse parked labels of another topic of the same name; delete those that a frozen worker brought back.

    Blocks without parked labels write no row: that the state is behind the committed offset means nothing.

    Raises:
        StateError: the state contains offsets that the topic does not have.
        ForeignWriterError: another worker wrote the changelog.
    """
    ends = await offsets.highwaters(tp)
    reader = table.reader(tp.partition)
    position = StatePosition.read(reader, "")
    where = f"{tp.topic}/{tp.partition}"
    position.check(where, "", log_end=ends[tp], log_start=0, start=0)
    erasures = erasures_of(reader)
    erased = erased_rows(reader.scan(PREFIX), erasures) if erasures else []
    if erased:
        await table.write(tp.partition, erased)


async def bind_model(
    table: Any,
    partition: int,
    log_end: int,
    begins_with: Callable[[], Awaitable[str]],
    threshold: float | None,
) -> InForce:
    """The changes in force on a partition. In a new deployment, store what it starts with.

    It is stored before anything is scored. Afterwards only records change it (`app/domain/changes.py`).

    Args:
        table: the terminal stage's table.
        partition: partition of the source and of the table.
        log_end: end of the source partition.
        begins_with: returns the hash of the model that a new deployment starts with. Called only for a new partition:
            an existing one can start while Cassandra is unavailable.
        threshold: the threshold that it starts with; None: the model's own.

    Raises:
        ForeignWriterError: another worker wrote the changelog.
    """
    reader = table.reader(partition)
    in_force = read_in_force(reader.get(IN_FORCE_KEY))
    if in_force is None:
        # records before this end are bound to models by rows of release 0.1.0
        first = log_end if reader.get(PINS_KEY) else 0
        in_force = InForce(first, await begins_with(), threshold)
        await table.write(partition, [in_force_row(in_force, -1)])
    return in_force
