"""`fraudstream erase`: a card is forgotten everywhere, as far as that can be done at once; the rest gets a date.

```text
lists ─► labels (parked ones) ─► transactions ─► cards, enriched, terminals ─► wait ─► Cassandra ─► audit record, dates
```

The erase records go first and the rows of Cassandra last: what the workers still had of the card on its way is stored
by then. The order among the records matters as well: once the labels before the erase record are on `enriched`, the
record of `transactions` follows them there.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from cassandra.cluster import Session

from app.cassandra.command_lock import command_lock
from app.cassandra.erase_rows import (
    KEPT,
    Before,
    Erasure,
    delete_card,
    hash_of,
    read_erasures,
    record_erasure,
    replays_beside,
)
from app.cassandra.session import connect, disconnect
from app.change_author import author
from app.errors import FraudstreamError, UnavailableError, UsageError
from app.kafka.clients import answered, client_kwargs, started
from app.kafka.partitioner import partition_of
from app.kafka.topic_admin import partition_counts, topic_configs
from app.ops.deletion_dates import gone_by
from app.ops.earlier_generations import earlier_names
from app.ops.erase_from_changes import clean_lists, would_clean
from app.ops.verification.topic_log import Log, Progress, open_log, wait_for_workers
from app.settings import Settings
from app.topics import Topics, TopicSpec
from app.wire.erase_records import NOBODY, erase_record, erased_card

_POLL_SECONDS = 0.25


@dataclass
class Report:
    """What was erased, or would be.

    Attributes:
        erasure: as it is recorded; its `deleted` has the rows of Cassandra.
        changes: changes that named the card, and are deleted.
        undated: topics whose configuration sets no date.
        replays: names of replays, which may have copies.
    """

    erasure: Erasure
    changes: int = 0
    undated: list[str] = field(default_factory=list)
    replays: list[str] = field(default_factory=list)


async def erase(
    settings: Settings, card_id: str, *, reason: str, timeout_seconds: float, progress: Progress
) -> Report:
    """Erase one card.

    Args:
        settings: the deployment's.
        card_id: the card, as topics have it.
        reason: why, for the audit record.
        timeout_seconds: how long workers may take to process what precedes the erase record, and the record.
        progress: told what is waited for.

    Raises:
        UsageError: a rule names the card, or there are results of replays.
        BusyError: another erasure runs.
        UnavailableError: a server does not answer; or workers did not process the records in time: the text says how
            to go on.
        SchemaError: topics or tables are missing.
    """
    erasure_id, salt = uuid4().hex, uuid4().hex
    async with _servers(settings) as (log, session), _alone(session, settings):
        refuse_replays(await asyncio.to_thread(replays_beside, session, settings))
        await refuse_old_changelogs(settings)
        cleaned = await clean_lists(settings, log, card_id)
        before = await _send_records(settings, log, card_id, erasure_id, timeout_seconds, progress)
        assert before.offset is not None
        place = before.partition, before.offset
        known_by = hash_of(card_id, salt), salt
        # first without counts: whatever happens now, `--again` finds it
        erasure = Erasure(
            erasure_id,
            _now_ms(),
            author(),
            reason,
            place,
            before.labels,
            {KEPT: cleaned.kept},
            {},
            *known_by,
        )
        await asyncio.to_thread(record_erasure, session, settings, erasure)
        await _wait(log, timeout_seconds, progress)
        deleted = await asyncio.to_thread(
            delete_card, session, settings, card_id, before, card_hash=erasure.card_hash
        )
        dates, undated = await dates_of(settings, _now_ms())  # nothing of the card is sent any more
        erasure = replace(erasure, deleted=erasure.deleted | deleted, gone_by=dates)
        await asyncio.to_thread(record_erasure, session, settings, erasure)
    return Report(erasure, cleaned.deleted, undated)


def refuse_replays(names: Sequence[str]) -> None:
    """Refuse to erase while there are results of replays: they are copies, and this command does not look into them.

    Raises:
        UsageError: there are some.
    """
    if names:
        commands = ", ".join(f"`fraudstream replay --remove {name}`" for name in names)
        msg = f"results of replays may have copies of the card: remove them first with {commands}; nothing has changed"
        raise UsageError(msg)


async def refuse_old_changelogs(settings: Settings) -> None:
    """Refuse to erase while there are changelogs of before `fraudstream repartition`: nothing deletes the card there.

    Raises:
        UsageError: there are some.
        UnavailableError: Kafka does not answer.
    """
    _, changelogs = earlier_names(settings)
    if there := await partition_counts(settings, changelogs):
        msg = (
            f"the changelogs of an earlier generation may contain the card: {', '.join(there)}; delete them first with "
            "`fraudstream repartition --finish`; nothing has changed"
        )
        raise UsageError(msg)


async def preview(settings: Settings, card_id: str) -> Report:
    """What `erase` would delete; nothing changes.

    Raises:
        UnavailableError, SchemaError: see `erase`.
    """
    async with _servers(settings) as (log, session):
        cleaned = await would_clean(log, card_id)
        replays = await asyncio.to_thread(replays_beside, session, settings)
        rows = await asyncio.to_thread(
            delete_card, session, settings, card_id, Before(), card_hash="", dry_run=True
        )
    dates, undated = await dates_of(settings, _now_ms())
    place = partition_of(settings.partitions)(card_id.encode()), -1
    would = Erasure(
        "", _now_ms(), "", "", place, deleted={KEPT: cleaned.kept} | rows, gone_by=dates
    )
    return Report(would, cleaned.deleted, undated, replays)


class Again(NamedTuple):
    """What `again` did for one erasure.

    Attributes:
        erasure: as it is recorded now.
        rows: by table, those that were deleted now; None: the erase record is gone from `transactions`, so the card is
            not known any more.
    """

    erasure: Erasure
    rows: dict[str, int] | None

    def lacks(self, now_ms: int) -> str | None:
        """Why rows of the card may still come back, or be there, without `again` finding them; None: they cannot."""
        if self.rows is not None:
            return None
        if not self.erasure.rows:
            return "not finished, and its erase record is gone: erase the card again with --card"
        if now_ms < max(self.erasure.gone_by.values(), default=now_ms + 1):
            return (
                "its erase record is gone, but other topics may still have records of the card: after "
                "`rewrite` or a new FRAUDSTREAM_APP_ID, erase the card again with --card"
            )
        return None


async def again(settings: Settings, *, timeout_seconds: float, progress: Progress) -> list[Again]:
    """Finish erasures that were interrupted, and delete rows of erased cards that came back.

    A rebuild, or `fraudstream rewrite`, writes what topics still have.

    Args:
        settings: the deployment's.
        timeout_seconds: how long workers may take to process what topics have now.
        progress: told what is waited for.

    Raises:
        UnavailableError, SchemaError: see `erase`.
    """
    done: list[Again] = []
    async with _servers(settings) as (log, session), _alone(session, settings):
        found = await asyncio.to_thread(read_erasures, session, settings)
        if found:
            await _wait(log, timeout_seconds, progress)
        for erasure in found:
            record = await _record_at(log, log.topics.transactions, *erasure.place)
            card_id = record and erased_card(record)
            if card_id is None or not erasure.is_of(card_id):
                done.append(Again(erasure, None))
                continue
            before = Before(
                *erasure.place,
                erasure.labels,
                erasure.at_ms,
                _received_ms(record),
                await _labels_received_ms(log, erasure, card_id),
            )
            # audit records do not come back by a rebuild
            its = None if erasure.rows else erasure.card_hash
            rows = await asyncio.to_thread(
                delete_card, session, settings, card_id, before, card_hash=its
            )
            dates, _ = await dates_of(settings, _now_ms())
            counted = counted_again(erasure, rows, dates)
            if counted != erasure:
                await asyncio.to_thread(record_erasure, session, settings, counted)
            done.append(Again(counted, rows))
        if done:
            await _close_segments(settings, log)
    return done


def counted_again(erasure: Erasure, rows: dict[str, int], dates: dict[str, int]) -> Erasure:
    """An erasure with the rows that were deleted now; whatever wrote them wrote records, too, so the dates are new."""
    if erasure.rows and not any(rows.values()):
        return erasure
    total = {name: erasure.deleted.get(name, 0) + number for name, number in rows.items()}
    return replace(erasure, deleted=erasure.deleted | total, gone_by=dates)


async def erasures(settings: Settings, cards: Sequence[str] = ()) -> list[Erasure]:
    """The audit records, the newest first; of some cards alone, where they are given.

    Raises:
        UnavailableError, SchemaError: see `erase`.
    """
    session = await asyncio.to_thread(connect, settings)
    try:
        found = await asyncio.to_thread(read_erasures, session, settings)
    finally:
        await asyncio.to_thread(disconnect, session)
    return [one for one in found if not cards or any(one.is_of(card) for card in cards)]


async def dates_of(settings: Settings, now_ms: int) -> tuple[dict[str, int], list[str]]:
    """By topic, when what it has now is gone at the latest; and the topics that have no such date.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    names = [topic.name for topic in Topics(settings).all]
    enriched, _ = earlier_names(settings)
    names += await partition_counts(settings, enriched)
    configs = await topic_configs(settings, names)
    dates = {name: gone_by(configs.get(name, {}), now_ms) for name in names}
    known = {name: at_ms for name, at_ms in dates.items() if at_ms is not None}
    return known, [name for name in names if name not in known]


async def _close_segments(settings: Settings, log: Log) -> None:
    """Records that mean nothing, on compacted topics that may get none for months: Kafka compacts closed segments only.

    On `control` it is the deletion of a change that there is none of; erase records of no card make workers write
    to all changelogs.
    """
    nobody, value, headers = erase_record(NOBODY, uuid4().hex)
    topics = log.topics
    producer = AIOKafkaProducer(**client_kwargs(settings), acks="all", enable_idempotence=True)
    async with started(producer, settings):
        for number in range(settings.partitions):
            for topic in (topics.control, topics.labels, topics.transactions):
                its = [] if topic is topics.control else headers
                sending = producer.send_and_wait(
                    topic.name, value, key=nobody, partition=number, headers=its
                )
                await answered(sending, f"Kafka did not accept a record on {topic.name}")


async def _send_records(
    settings: Settings,
    log: Log,
    card_id: str,
    erasure_id: str,
    timeout_seconds: float,
    progress: Progress,
) -> Before:
    """Order the workers to forget the card; returns where the records are."""
    topics = log.topics
    key, value, headers = erase_record(card_id, erasure_id)
    producer = AIOKafkaProducer(**client_kwargs(settings), acks="all", enable_idempotence=True)
    async with started(producer, settings):

        async def send(topic: TopicSpec, partition: int) -> Any:
            sending = producer.send_and_wait(
                topic.name, value, key=key, partition=partition, headers=headers
            )
            return await answered(sending, f"Kafka did not accept the erase record on {topic.name}")

        labels = [await send(topics.labels, number) for number in range(settings.partitions)]
        await settled(log, timeout_seconds, progress)
        home = partition_of(settings.partitions)(key)
        # its own partition last: whoever is interrupted before has erased nothing but what nobody needs
        for number in range(settings.partitions):
            if number != home:
                await send(topics.transactions, number)
        sent = await send(topics.transactions, home)
        return Before(
            home,
            int(sent.offset),
            {number: int(one.offset) for number, one in enumerate(labels)},
            received_ms=_received_ms(sent),
            labels_received_ms=_received_ms(labels[0]),
        )


def _received_ms(record: Any) -> int | None:
    """When the broker appended a record; None where a record has the time of its producer."""
    return int(record.timestamp) if record.timestamp_type else None


async def settled(log: Log, timeout_seconds: float, progress: Progress) -> None:
    """Until workers have processed what is in `labels` and `transactions` now.

    Of `transactions` twice: the first stage sends records that came to a wrong partition to their own, and there they
    must precede the erase record as well.

    Raises:
        UnavailableError: they have not in time.
    """
    topics = log.topics
    deadline = time.monotonic() + timeout_seconds
    for topic in (topics.labels, topics.transactions, topics.transactions):
        if not await _processed(log, topic, await log.ends(topic), deadline, progress):
            msg = (
                f"workers have not processed {topic.name} within {timeout_seconds:g} s; the card was taken off the "
                "lists, but nothing else was erased: start them, and run the command again"
            )
            raise UnavailableError(msg)


async def _processed(
    log: Log, topic: TopicSpec, ends: Sequence[int], deadline: float, progress: Progress
) -> bool:
    """Whether workers have processed a topic up to some offsets by a moment of the monotonic clock."""
    while not _reached(await log.done(topic), ends):
        if time.monotonic() >= deadline:
            return False
        progress(f"waiting for {topic.name}", 0, 1)
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def _wait(log: Log, timeout_seconds: float, progress: Progress) -> None:
    """Until the workers have stored all that precedes the erase record, and forgotten the card."""
    reached = await wait_for_workers(log, timeout_seconds, progress)
    alerts = await log.ends(log.topics.alerts)
    behind = [role for role, ends in reached.ends.items() if not _reached(reached.done[role], ends)]
    deadline = time.monotonic() + timeout_seconds
    if not behind and not await _processed(log, log.topics.alerts, alerts, deadline, progress):
        behind = ["alerts"]
    if behind:
        msg = (
            f"workers have not processed {', '.join(behind)} within {timeout_seconds:g} s: the erase record is "
            "written, but no row is deleted from Cassandra yet; once they have caught up, run `fraudstream erase "
            "--again`"
        )
        raise UnavailableError(msg)


async def _labels_received_ms(log: Log, erasure: Erasure, card_id: str) -> int | None:
    """When the first erase record on `labels` was appended; None where that is not known any more."""
    if 0 not in erasure.labels:
        return None
    record = await _record_at(log, log.topics.labels, 0, erasure.labels[0])
    return _received_ms(record) if record and erased_card(record) == card_id else None


async def _record_at(log: Log, topic: TopicSpec, partition: int, offset: int) -> Any:
    """A record; None: retention has deleted it."""
    if not 0 <= partition < topic.partitions or offset < (await log.begins(topic))[partition]:
        return None
    async for records in log.read(topic, partition, offset, offset + 1):
        for record in records:
            if record.offset == offset:
                return record
    return None


@asynccontextmanager
async def _alone(session: Session, settings: Settings) -> AsyncIterator[None]:
    """While this runs, no other erasure does: two that change lists and rules would undo each other's changes.

    Raises:
        BusyError: another one runs.
        NotAnsweringError, UnavailableError: Cassandra does not answer.
    """
    lock = command_lock(session, settings, "erase")
    await asyncio.to_thread(lock.__enter__)
    try:
        yield
    finally:
        with suppress(FraudstreamError):  # it expires; what went wrong before matters more
            await asyncio.to_thread(lock.__exit__, None, None, None)


@asynccontextmanager
async def _servers(settings: Settings) -> AsyncIterator[tuple[Log, Session]]:
    session = await asyncio.to_thread(connect, settings)
    try:
        async with open_log(settings) as log:
            yield log, session
    finally:
        await asyncio.to_thread(disconnect, session)


def _reached(done: Sequence[int], ends: Sequence[int]) -> bool:
    return all(one >= end for one, end in zip(done, ends, strict=True))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
