"""`fraudstream repartition`: another number of partitions for a deployment, with its state; nothing is scored again.

```text
refuse members, unread records ─► new enriched, changelogs ─► rows, each in its key's partition ─► read back, compared
                                                               └► row `earlier` ─► partitions added to all other topics
```

Nothing of the old generation is changed. Old workers are refused once a topic has more partitions, and new ones until
all have: so the last step is the only one that counts, and before it everything can be done again.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

from aiokafka import AIOKafkaProducer

from app.blocks.core.row_groups import Row, RowGroup, chunk_groups
from app.blocks.faust.changelog_append import append_rows
from app.errors import SchemaError, StateError, UnavailableError, UsageError
from app.kafka.clients import answered, client_kwargs, group_members, started
from app.kafka.partitioner import partition_of
from app.kafka.topic_admin import delete_topics, ensure_topics, partition_counts, topic_ids
from app.kafka.topic_checks import recreated
from app.ops.changelog_rows import read_rows
from app.ops.earlier_generations import earlier_names, earlier_of, own_topics
from app.ops.repartition_rows import CardsMove, LabelsMove, Move, Rows, TerminalsMove
from app.ops.verification.topic_log import Log, Offsets, Progress, open_log
from app.settings import Settings
from app.stages.earlier_partitions import Earlier, earlier_row
from app.stages.known_topics import TOPICS_KEY, KnownTopics
from app.stages.reserved_rows import POSITION_KEY, StatePosition
from app.topics import Topics, TopicSpec, batch_bytes

_MOST_PARTITIONS = 1024
_DIGEST_BITS = 64


@dataclass
class Repartitioned:
    """What was done.

    Attributes:
        partitions, generation: what workers are to be started with.
        cards, terminals, parked_labels: rows that were moved.
        resumed: an earlier run had moved them.
        seconds: how long it took.
    """

    partitions: int
    generation: int
    cards: int = 0
    terminals: int = 0
    parked_labels: int = 0
    resumed: bool = False
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def repartition(settings: Settings, to: int, *, progress: Progress) -> Repartitioned:
    """Move a deployment's state to another number of partitions.

    Args:
        settings: as the workers had them.
        to: the new number.
        progress: told what is done, how far it has come, and where it ends.

    Raises:
        UsageError: the number is not larger than the present one; workers run; or records are not processed yet.
        SettingsError: the state was built with other settings.
        SchemaError: topics are missing, were created again, or differ in partitions.
        StateError: the changelogs are not the state of what is processed.
        UnavailableError: Kafka does not answer, or refuses.
    """
    began = time.monotonic()
    if not settings.partitions < to <= _MOST_PARTITIONS:
        msg = (
            f"--to {to}: the topics have {settings.partitions} partitions, and Kafka can only add some: choose a "
            f"number from {settings.partitions + 1} to {_MOST_PARTITIONS}"
        )
        raise UsageError(msg)
    after = settings.model_copy(update={"partitions": to, "generation": settings.generation + 1})
    done = Repartitioned(to, after.generation)
    await refuse_members(settings)
    if grown := await _grown(settings, to):
        if not await _is_whole(after):
            msg = (
                f"topic {grown[0]} has {to} partitions already, but no state was moved: see docs/operations.md, "
                '"If somebody added partitions"'
            )
            raise SchemaError(msg)
        done.resumed = True
    else:
        async with open_log(settings) as log:
            await _Move(settings, after, log, done, progress).run()
    await ensure_topics(after, Topics(after).all, add_partitions=True)
    done.seconds = time.monotonic() - began
    return done


async def finish(settings: Settings) -> list[str]:
    """Delete the changelogs of earlier generations; returns their names.

    Raises:
        UsageError: there is no earlier generation, or the present one is not whole.
        UnavailableError: Kafka does not answer, or refuses.
    """
    if settings.generation == 1 or not await _is_whole(settings):
        msg = (
            f"FRAUDSTREAM_GENERATION={settings.generation} is not the result of a `fraudstream repartition`: nothing "
            "is deleted"
        )
        raise UsageError(msg)
    _, changelogs = earlier_names(settings)
    return await delete_topics(settings, changelogs)


async def refuse_members(settings: Settings) -> None:
    """Refuse while workers run.

    Raises:
        UsageError: some do.
        UnavailableError: Kafka does not answer.
    """
    if members := await group_members(settings):
        msg = (
            f"the consumer group {settings.deployment} has {members} members: stop all workers; a killed worker "
            "remains a member until FRAUDSTREAM_SESSION_TIMEOUT has passed"
        )
        raise UsageError(msg)


async def _grown(settings: Settings, to: int) -> list[str]:
    """Names of the topics that have the new number of partitions already.

    Raises:
        SchemaError: one is missing, or has neither number.
    """
    shared = [spec.name for spec in Topics(settings).all if spec.use != "internal"]
    counts = await partition_counts(settings, shared)
    if missing := [name for name in shared if name not in counts]:
        msg = f"Kafka lacks the topics {', '.join(missing)}: run `fraudstream topics`"
        raise SchemaError(msg)
    for name, count in counts.items():
        if count not in (settings.partitions, to):
            msg = (
                f"topic {name} has {count} partitions, but FRAUDSTREAM_PARTITIONS={settings.partitions} and --to {to}: "
                "give the present number in FRAUDSTREAM_PARTITIONS"
            )
            raise SchemaError(msg)
    return [name for name, count in counts.items() if count == to]


async def _is_whole(after: Settings) -> bool:
    """Whether the state of a generation has been written completely."""
    own = own_topics(Topics(after))
    counts = await partition_counts(after, [spec.name for spec in own])
    if any(counts.get(spec.name) != spec.partitions for spec in own):
        return False
    async with open_log(after, check=False) as log:
        return bool(await earlier_of(after, log))


class _Move:
    """One run."""

    def __init__(
        self, before: Settings, after: Settings, log: Log, done: Repartitioned, progress: Progress
    ) -> None:
        self._before, self._after = before, after
        self._old, self._new = Topics(before), Topics(after)
        self._log = log
        self._done = done
        self._progress = progress
        self._places = partition_of(before.partitions), partition_of(after.partitions)
        self._known: dict[str, str] = {}

    async def run(self) -> None:
        ended = await self._ended()
        chain = [*await earlier_of(self._before, self._log), ended]
        await self._make_topics()
        self._known = await topic_ids(self._after, [spec.name for spec in self._new.known])
        producer = AIOKafkaProducer(
            **client_kwargs(self._after), acks="all", enable_idempotence=True,
            max_batch_size=batch_bytes(self._after), max_request_size=2 * batch_bytes(self._after),
        )  # fmt: skip
        async with started(producer, self._after):
            await self._move_all(ended, producer)
            # workers may have been started meanwhile: then these rows are not their state any more
            await refuse_members(self._before)
            if (await self._ended()).ends != ended.ends:
                msg = "a worker ran while the state was being moved: stop all workers, and run the command again"
                raise UsageError(msg)
            topic = self._new.labels_changelog.name
            await _append(producer, topic, 0, [earlier_row(chain)])

    async def _ended(self) -> Earlier:
        """Where the present number of partitions ends: everything up to there is processed.

        Raises:
            UsageError: something is not.
        """
        topics = self._old
        inputs = (topics.transactions, topics.labels, topics.control, topics.enriched)
        found: list[Offsets] = []
        for topic in inputs:
            ends, done = await self._log.ends(topic), await self._log.done(topic)
            behind = sum(max(0, end - one) for end, one in zip(ends, done, strict=True))
            if behind:
                msg = (
                    f"{behind:,} offsets of {topic.name} are not processed: pause producers, run the workers until "
                    "their lag is 0, and stop them with SIGTERM"
                )
                raise UsageError(msg)
            found.append(ends)
        now_ms = time.time_ns() // 1_000_000
        return Earlier(self._before.generation, self._before.partitions, now_ms, *found)

    async def _make_topics(self) -> None:
        """Empty topics of the new generation: what an interrupted run has left goes."""
        own = own_topics(self._new)
        await delete_topics(self._after, [spec.name for spec in own])
        await ensure_topics(self._after, own)

    async def _move_all(self, ended: Earlier, producer: Any) -> None:
        old, new, count = self._old, self._new, self._after.partitions
        args = (self._before, count, self._places, ended)
        cards, terminals = CardsMove(*args), TerminalsMove(*args, old.labels.name)
        labels = LabelsMove()
        await self._move_table(
            "cards", cards, old.cards_changelog, new.cards_changelog, producer,
            (old.transactions, ended.transactions),
        )  # fmt: skip
        await self._move_table(
            "terminals", terminals, old.terminals_changelog, new.terminals_changelog, producer,
            (old.enriched, ended.enriched),
        )  # fmt: skip
        await self._move_table(
            "parked labels", labels, old.labels_changelog, new.labels_changelog, producer
        )
        self._done.cards, self._done.terminals = cards.moved, terminals.moved
        self._done.parked_labels = labels.moved

    async def _move_table(
        self,
        what: str,
        move: Move,
        changelog: TopicSpec,
        to: TopicSpec,
        producer: Any,
        source: tuple[TopicSpec, Offsets] | None = None,
    ) -> None:
        """Move one table; `source` is its input, and up to where that is processed."""
        written = _Written(producer, to, batch_bytes(self._after))
        async for number, rows in self._changelog(what, changelog):
            if source is not None:
                await self._check_position(source[0], number, rows, source[1][number])
            await written.add(move.take(number, rows))
        await written.add(move.reserved())
        await written.add((number, [self._topics()]) for number in range(to.partitions))
        await self._compare(what, written)

    def _topics(self) -> Row:
        return KnownTopics(self._known).encode()

    async def _changelog(self, what: str, topic: TopicSpec) -> Any:
        """The rows of each old partition in turn."""
        present = await topic_ids(self._before, [spec.name for spec in self._old.known])
        begins, ends = await self._log.begins(topic), await self._log.ends(topic)
        before, total = 0, sum(ends) - sum(begins)
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            told = partial(self._tell, f"reading {what}", before - begin, total)
            rows = await read_rows(self._log, topic, number, begin, end, told)
            before += end - begin
            if names := KnownTopics.read(rows.get(TOPICS_KEY)).differing(present):
                raise recreated(names, self._before)
            yield number, rows

    def _tell(self, text: str, before: int, total: int, offset: int) -> None:
        self._progress(text, before + offset, total)

    async def _check_position(self, source: TopicSpec, number: int, rows: Rows, end: int) -> None:
        """Refuse a changelog that is not the state of what is processed: it was deleted, or is another one's.

        Raises:
            StateError: it is not.
        """
        raw = rows.get(POSITION_KEY)
        last = -1 if raw is None else StatePosition.decode(raw, "").last_offset
        (begin,) = (await self._log.begins(source))[number : number + 1]
        behind = last >= end
        async for _ in self._log.read(source, number, max(begin, last + 1), end):
            behind = True  # the last offsets may hold no record
            break
        if behind:
            msg = (
                f"{source.name}/{number} is processed up to {end}, but its changelog contains {last}: it is not the "
                "state of this topic; `fraudstream rebuild` compares it with the workers' stores"
            )
            raise StateError(msg)

    async def _compare(self, what: str, written: "_Written") -> None:
        """Read what was written, as recovery will.

        Raises:
            StateError: it is something else.
        """
        topic = written.topic
        async with open_log(self._after, check=False) as log:
            begins, ends = await log.begins(topic), await log.ends(topic)
            for number in range(topic.partitions):
                rows = await read_rows(log, topic, number, begins[number], ends[number])
                found = _Digest()
                found.add(rows.items())
                if found != written.digests[number]:
                    msg = (
                        f"{topic.name}/{number} has other rows than were written ({found.rows:,} and "
                        f"{written.digests[number].rows:,}): was the command run twice at the same time? Run it again"
                    )
                    raise UnavailableError(msg)
                self._progress(f"comparing {what}", number + 1, topic.partitions)


@dataclass
class _Digest:
    """Of rows in any order.

    Attributes:
        rows: how many.
        sum: of their hashes.
    """

    rows: int = 0
    sum: int = 0

    def add(self, rows: Iterable[Row]) -> None:
        for key, raw in rows:
            assert raw is not None
            hashed = blake2b(len(key).to_bytes(4, "big") + key + raw, digest_size=_DIGEST_BITS // 8)
            self.rows += 1
            self.sum = (self.sum + int.from_bytes(hashed.digest(), "big")) % (1 << _DIGEST_BITS)


@dataclass
class _Written:
    """Rows on their way to one changelog, by partition."""

    producer: Any
    topic: TopicSpec
    limit_bytes: int
    digests: list[_Digest] = field(init=False)

    def __post_init__(self) -> None:
        self.digests = [_Digest() for _ in range(self.topic.partitions)]

    async def add(self, groups: Iterable[tuple[int, RowGroup]]) -> None:
        """Append groups, each to its partition; returns when all are acknowledged."""
        by_partition: dict[int, list[RowGroup]] = {}
        for number, group in groups:
            by_partition.setdefault(number, []).append(group)
            self.digests[number].add(group)
        for number, its in by_partition.items():
            for chunk in chunk_groups(its, self.limit_bytes):
                await _append(self.producer, self.topic.name, number, chunk)


async def _append(producer: Any, topic: str, partition: int, rows: list[Row]) -> None:
    sending = append_rows(producer, topic, partition, rows)
    await answered(sending, f"Kafka did not accept rows on {topic}")
