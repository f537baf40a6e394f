"""The topic `control` is kept for ever, and changes of lists name cards: what is left of a card there is taken out.

A card on a list is taken off it first. Then every change that names it is deleted under its key, which compaction makes
final. Entries of other cards in such a change are written once more, as they are in force: that changes nothing.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer

from app.domain.changes import AnyChange, ListChange, RuleChange
from app.domain.rules.ruleset import entry_key
from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.kafka.change_history import read_history, send_changes
from app.kafka.clients import answered, client_kwargs, started
from app.ops.verification.log import Log
from app.settings import Settings
from app.wire.control_records import parse_change


@dataclass
class Named:
    """What names a card on `control`.

    Attributes:
        keys: partition and key of each change that names it.
        changes: those changes.
    """

    keys: list[tuple[int, bytes]] = field(default_factory=list)
    changes: list[AnyChange] = field(default_factory=list)


async def find_named(log: Log, card_id: str) -> Named:
    """The changes that name a card: as an entry of a list, in a rule, or in a note.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    topic, found = log.topics.control, Named()
    begins, ends = await log.begins(topic), await log.ends(topic)
    latest: dict[tuple[int, bytes], bytes | None] = {}
    for partition, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        async for records in log.read(topic, partition, begin, end):
            for record in records:
                latest[partition, record.key or b""] = record.value
    for place, value in latest.items():
        try:
            change = parse_change(value)
        except DeadRecordError:
            continue
        if _names(change, card_id):
            found.keys.append(place)
            found.changes.append(change)
    return found


async def clean_lists(settings: Settings, log: Log, card_id: str) -> int:
    """Take a card off all lists, and delete the changes that name it; gives the number of those.

    Raises:
        UsageError: a rule that is in force names the card; nothing has changed.
        UnavailableError: Kafka does not answer, or does not accept a change.
    """
    named = await find_named(log, card_id)
    if not named.keys:
        return 0
    rules = (await read_history(settings)).in_force().rules
    for rule in rules.rules:
        if _word(card_id).search(f"{rule.expression} {rule.reason}"):
            msg = (
                f"rule {rule.name} names the card: change it, or remove it with `fraudstream rules remove "
                f"{rule.name}`"
            )
            raise UsageError(msg)
    changes: list[ListChange] = []
    others: dict[tuple[str, int | None], set[str]] = defaultdict(set)
    for name in ("block", "allow"):
        if entry_key(name, "card", card_id) in rules.listed:
            changes.append(ListChange(name=name, subject="card", ids=(card_id,), remove=True))
    for change in named.changes:
        if isinstance(change, ListChange) and not change.remove:
            for other in change.ids:
                key = entry_key(change.name, change.subject, other)
                if other != card_id and key in rules.listed:
                    others[f"{change.name}/{change.subject}", rules.listed[key]].add(other)
    for (where, until_ms), ids in others.items():
        name, _, subject = where.partition("/")
        changes.append(
            ListChange(name=name, subject=subject, ids=tuple(sorted(ids)), until_ms=until_ms)  # type: ignore[arg-type]
        )
    if changes:
        await send_changes(settings, *changes)
        named = await find_named(log, card_id)  # taking it off names it, too
    await _delete(settings, log, named)
    return len(named.keys)


async def _delete(settings: Settings, log: Log, named: Named) -> None:
    producer = AIOKafkaProducer(**client_kwargs(settings), acks="all", enable_idempotence=True)
    async with started(producer, settings):
        for partition, key in named.keys:
            sending = producer.send_and_wait(
                log.topics.control.name, None, key=key, partition=partition
            )
            await answered(sending, "Kafka did not take the deletion of a change")


def _names(change: AnyChange, card_id: str) -> bool:
    if isinstance(change, ListChange) and change.subject == "card" and card_id in change.ids:
        return True
    texts = [change.note, change.by]
    if isinstance(change, RuleChange):
        texts += [change.expression, change.reason]
    return any(_word(card_id).search(text) for text in texts)


def _word(card_id: str) -> re.Pattern[str]:
    """The id as a word: `C1` is not in `C12`."""
    return re.compile(rf"(?<![\w-]){re.escape(card_id)}(?![\w-])")
