"""Changes of what decides: sent to `control`, read back from there, and what they add up to at a time."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from app.change_author import author
from app.domain.changes import AnyChange, LoadChange, ModelChange, ThresholdChange
from app.domain.changes_in_force import EarlierModel, InForce
from app.domain.transaction import DeadRecordError
from app.errors import UnavailableError, UsageError
from app.kafka.clients import answered, client_kwargs, consumer, started
from app.kafka.topic_admin import check_topics
from app.settings import Settings
from app.topics import Topics
from app.wire.control_records import encode_change, parse_change

#: Until workers have loaded a model, in most cases: none of their partitions waits for it then.
LEAD_SECONDS = 1.0
_POLL_MS = 500
#: All changes go there: so they have one order.
_PARTITION = 0


class LoggedChange(NamedTuple):
    """A change on `control`.

    Attributes:
        partition: where it is.
        offset: where it is.
        at_ms: when the broker appended it, epoch milliseconds.
        change: the change.
    """

    partition: int
    offset: int
    at_ms: int
    change: AnyChange


class DecidingModel(NamedTuple):
    """What decides after some changes.

    Attributes:
        model: name and version.
        hash: its whole hash.
        threshold: replaces the model's own; None: the model's own.
        since: the change that made it so.
    """

    model: str
    hash: str
    threshold: float | None
    since: LoggedChange


@dataclass
class ChangeHistory:
    """All changes in their order: that of their offsets, as every worker applies them.

    Attributes:
        changes: those that were not dead-lettered.
    """

    changes: list[LoggedChange]

    def until(self, at_ms: float | None = None) -> list[LoggedChange]:
        """The changes up to the last one that was written by a time, and all before that.

        A broker's clock may go backwards: a change that precedes another one has taken effect before it, whatever its
        time.

        Args:
            at_ms: epoch milliseconds; None: now.
        """
        if at_ms is None:
            return self.changes
        last = max((n for n, one in enumerate(self.changes, 1) if one.at_ms <= at_ms), default=0)
        return self.changes[:last]

    def decides(self, at_ms: float | None = None) -> DecidingModel | None:
        """What decides at a time (see `until`); None before the first worker has started."""
        stack = _models(self.until(at_ms))
        return stack[-1] if stack else None

    def in_force(self, at_ms: float | None = None) -> InForce:
        """What every partition ends up with after the changes up to a time (see `until`), challengers included."""
        in_force = InForce()
        for one in self.until(at_ms):
            in_force = in_force.after(one.change, one.partition, one.offset, one.at_ms)
        return in_force

    def leads_to(self) -> tuple[InForce, list[DecidingModel]]:
        """What the changes add up to: what decides, and what each rollback would lead back to; not which were seen."""
        return msgspec.structs.replace(self.in_force(), seen={}), _models(self.changes)

    def ignored(self) -> set[tuple[int, int]]:
        """Partition and offset of changes without effect (`InForce.ignores`)."""
        in_force, found = InForce(), set()
        for one in self.changes:
            if in_force.ignores(one.change, one.partition):
                found.add((one.partition, one.offset))
            in_force = in_force.after(one.change, one.partition, one.offset, one.at_ms)
        return found

    def before(self) -> DecidingModel | None:
        """What `rollback` goes back to; None: there is nothing before."""
        stack = _models(self.changes)
        return stack[-2] if len(stack) > 1 else None

    def reverted_by_guard(self) -> bool:
        """Whether the guard has restored the current model, and nobody has changed model or threshold since."""
        decides = self.decides()
        change = None if decides is None else decides.since.change
        return isinstance(change, ModelChange) and bool(change.cause)

    def rollback_to(self, before: DecidingModel, note: str = "") -> ModelChange:
        """The change that restores an earlier model, and names what it undoes, where that is known.

        So it is without effect if the guard, or somebody else, is first.
        """
        in_force, earlier = self.in_force(), EarlierModel(before.hash, before.threshold)
        back = ModelChange(
            model=before.model, hash=before.hash, threshold=before.threshold, how="rollback", note=note
        )  # fmt: skip
        for since in in_force.watched:
            undoes = msgspec.structs.replace(back, reverts=since.offset)
            if since.before == earlier and in_force.undone(undoes, _PARTITION):
                return undoes
        return back


def _models(made: Iterable[LoggedChange]) -> list[DecidingModel]:
    """What decides, on top of what each rollback would lead back to."""
    stack: list[DecidingModel] = []
    in_force = InForce()
    for one in made:
        change = one.change
        ignored = in_force.ignores(change, one.partition)
        in_force = in_force.after(change, one.partition, one.offset, one.at_ms)
        if ignored:
            continue
        if isinstance(change, ModelChange):
            if change.how == "rollback" and len(stack) > 1:
                stack.pop()
                there = [number for number, one in enumerate(stack) if one.hash == change.hash]
                # the guard passes over models that workers refuse
                del stack[there[-1] if there else -1 :]
            stack.append(DecidingModel(change.model, change.hash, change.threshold, one))
        elif isinstance(change, ThresholdChange) and stack:
            stack[-1] = stack[-1]._replace(threshold=change.threshold, since=one)
    return stack


async def read_history(settings: Settings) -> ChangeHistory:
    """Every change.

    Raises:
        UnavailableError: no broker answers.
        SchemaError: the topic is missing.
    """
    topic = Topics(settings).control
    await check_topics(settings, [topic])
    found: list[LoggedChange] = []
    tps = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    async with consumer(settings, auto_offset_reset="earliest") as reader:
        reader.assign(tps)
        ends = await answered(
            reader.end_offsets(tps), "Kafka did not return the end of the changes"
        )
        for tp in tps:
            reader.seek(tp, 0)
        left = {tp for tp in tps if ends[tp]}
        while left:
            fetched = await reader.getmany(*left, timeout_ms=_POLL_MS)
            found += [made for records in fetched.values() for made in map(_made, records) if made]
            for tp in list(left):
                if (
                    await answered(reader.position(tp), "Kafka did not return the position")
                    >= ends[tp]
                ):
                    left.discard(tp)
    # by offset, as workers apply them: whatever the clock of a broker said
    return ChangeHistory(sorted(found, key=lambda one: (one.partition, one.offset)))


def _made(record: object) -> LoggedChange | None:
    try:
        change = parse_change(record.value)  # type: ignore[attr-defined]
    except DeadRecordError:  # dead-lettered: it has changed nothing
        return None
    return LoggedChange(record.partition, record.offset, record.timestamp, change)  # type: ignore[attr-defined]


async def send_changes(settings: Settings, *changes: AnyChange) -> int:
    """Write changes down, in this order; a pause follows each `LoadChange`.

    Returns:
        The offset of the last one on `control`.

    Raises:
        UsageError: one of them would be dead-lettered; none is written.
        UnavailableError: Kafka does not take them.
        SchemaError: the topic is missing.
    """
    values = [_encoded(change) for change in changes]
    topic = Topics(settings).control
    await check_topics(settings, [topic])
    kwargs = client_kwargs(settings)
    producer = AIOKafkaProducer(**kwargs, acks="all", enable_idempotence=True)
    offset = -1
    async with started(producer, settings):
        for number, (change, value) in enumerate(zip(changes, values, strict=True)):
            # a key of its own: compaction keeps each change
            key = f"{change.__struct_config__.tag}/{uuid4()}".encode()
            try:
                sending = producer.send_and_wait(topic.name, value, key=key, partition=_PARTITION)
                offset = (await answered(sending, "Kafka did not accept the change")).offset
            except KafkaError as error:
                done = (
                    f"{number} of {len(changes)} changes are written"
                    if number
                    else "nothing has changed"
                )
                msg = f"Kafka does not accept changes on {topic.name}: {error!r}; {done}, try again"
                raise UnavailableError(msg) from error
            if isinstance(change, LoadChange):
                await asyncio.sleep(LEAD_SECONDS)
    return offset


async def send_in_time(settings: Settings, *changes: AnyChange) -> None:
    """As `send_changes`; the last one must have an effect.

    Raises:
        UsageError: it has none, because another change was made first.
        UnavailableError, SchemaError: see `send_changes`.
    """
    offset = await send_changes(settings, *changes)
    history = await read_history(settings)
    if (_PARTITION, offset) in history.ignored():
        decides = need_decides(history, Topics(settings).control.name)
        msg = (
            f"without effect: another change was made first, and {decides.model} is the current model now; "
            "see `fraudstream models history`"
        )
        raise UsageError(msg)


def _encoded(change: AnyChange) -> bytes:
    """A change as it is written, once workers are known to accept it."""
    value = encode_change(msgspec.structs.replace(change, by=change.by or author()))
    try:
        parse_change(value)
    except DeadRecordError as error:
        msg = f"workers would refuse this change: {error.message}; nothing has changed: shorten or correct it"
        raise UsageError(msg) from None
    return value


def need_decides(history: ChangeHistory, topic: str) -> DecidingModel:
    """What decides now.

    Raises:
        UsageError: no worker has ever started.
    """
    decides = history.decides()
    if decides is None:
        msg = f"no worker has ever started ({topic} is empty): start one; its first change is FRAUDSTREAM_MODEL"
        raise UsageError(msg)
    return decides
