"""What is checked and written down when a partition is assigned, before anything of it is read."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from faust.types import TP

from app.domain.changes import InForce
from app.stages.known_topics import TOPICS_KEY, KnownTopics
from app.stages.parked_labels import PREFIX, erased_rows, erasures_of
from app.stages.state import IN_FORCE_KEY, PINS_KEY, Position, in_force_row, read_in_force


class Offsets(Protocol):
    """Where logs begin and end (Faust's consumer fits)."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Offset after the last record."""

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Offset of the first record."""


async def check_state(
    offsets: Offsets, table: Any, tp: TP, start: int, settings: str, model: str = "default"
) -> int:
    """Refuse a state that does not fit the source topic, the committed offset or the settings.

    Args:
        offsets: where logs begin and end.
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
    position = Position.read(table.reader(tp.partition), settings)
    position.check(where, settings, log_end=ends[tp], log_start=first[tp], start=start, model=model)
    return ends[tp]


async def check_topics_known(
    table: Any,
    partition: int,
    present: Mapping[str, str],
    refusal: Callable[[list[str]], Exception],
) -> None:
    """Refuse a state that was built from other topics than those of the same names now.

    A state that knows no topics, or not all, adopts the present ones.

    Args:
        table: the stage's table.
        partition: its partition.
        present: Kafka's ids by name, of the topics that it gives ids for.
        refusal: makes the error from the names of topics that are others.

    Raises:
        Exception: `refusal`.
        ForeignWriterError: another worker wrote the changelog.
    """
    known = KnownTopics.read(table.reader(partition).get(TOPICS_KEY))
    if names := known.differing(present):
        raise refusal(names)
    if known.adopt(present):
        await table.write(partition, [known.encode()])


async def check_labels(offsets: Offsets, table: Any, tp: TP) -> None:
    """Refuse parked labels of another topic of the same name; delete those that a frozen worker brought back.

    Blocks without parked labels write no row: that the state is behind the committed offset means nothing.

    Raises:
        StateError: the state has seen offsets that the topic does not have.
        ForeignWriterError: another worker wrote the changelog.
    """
    ends = await offsets.highwaters(tp)
    reader = table.reader(tp.partition)
    position = Position.read(reader, "")
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
    """What decides on a partition. Where nothing says so yet, write down what this deployment starts with.

    It is written before anything is scored. Afterwards only records change it (`app/domain/changes.py`).

    Args:
        table: the terminal stage's table.
        partition: partition of the source and of the table.
        log_end: end of the source partition.
        begins_with: gives the hash of the model that a new deployment starts with. Asked only where nothing decides
            yet: an existing partition starts while Cassandra is away.
        threshold: the threshold that it starts with; None: the model's own.

    Raises:
        ForeignWriterError: another worker wrote the changelog.
    """
    reader = table.reader(partition)
    in_force = read_in_force(reader.get(IN_FORCE_KEY))
    if in_force is None:
        # release 0.1.0 bound what stands before this end to models of its own
        first = log_end if reader.get(PINS_KEY) else 0
        in_force = InForce(first, await begins_with(), threshold)
        await table.write(partition, [in_force_row(in_force, -1)])
    return in_force
