"""The topic `control` is kept for ever, and changes can name cards: what is left of a card there is taken out.

The card is taken off its lists first, and what changes that name it say of other entries is written once more. Then
each change that names it is deleted under its key, but only if the rest of the history leads to the same without it:
the same model, threshold, challengers, rules and lists, and the same ways back. Any other change is kept: its place in
the log decides something.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from app.domain.changes import AnyChange, ListChange, RuleChange
from app.domain.rules import RuleError
from app.domain.rules.language import texts_in
from app.domain.rules.ruleset import entry_key
from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.kafka.change_history import ChangeHistory, LoggedChange, send_changes
from app.kafka.clients import answered, client_kwargs, started
from app.ops.rule_changes import list_parts
from app.ops.verification.topic_log import Log
from app.settings import Settings
from app.wire.control_records import parse_change

#: Partition of `control` and key of a record: what a deletion names.
Key = tuple[int, bytes]


class Keyed(NamedTuple):
    """A change, and the key that deletes it."""

    key: Key
    made: LoggedChange


class Cleaned(NamedTuple):
    """How many of the changes that name a card are deleted, and how many are kept."""

    deleted: int = 0
    kept: int = 0


async def read_changes(log: Log) -> list[Keyed]:
    """Every change that is not deleted, in the order in which workers apply them.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    topic, found = log.topics.control, list[Keyed]()
    deleted: dict[Key, bool] = {}
    begins, ends = await log.begins(topic), await log.ends(topic)
    for partition, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        async for records in log.read(topic, partition, begin, end):
            for record in records:
                key = partition, record.key or b""
                deleted[key] = record.value is None
                try:
                    change = parse_change(record.value)
                except DeadRecordError:
                    continue
                found.append(
                    Keyed(key, LoggedChange(partition, record.offset, record.timestamp, change))
                )
    return [one for one in found if not deleted[one.key]]


async def clean_lists(settings: Settings, log: Log, card_id: str) -> Cleaned:
    """Take a card off all lists, and delete the changes that name it, as far as that changes nothing else.

    Raises:
        UsageError: a rule that is in force names the card; nothing has changed.
        UnavailableError: Kafka does not answer, or does not accept a change.
    """
    changes = await read_changes(log)
    refuse_named_rules(changes, card_id)
    restated = restating(changes, card_id)
    if restated:
        await send_changes(settings, *restated)
        changes = await read_changes(log)
    keys = keys_naming(changes, card_id)
    gone = deletable(changes, keys)
    await _delete(settings, log, gone)
    return Cleaned(len(gone), len(keys) - len(gone))


async def would_clean(log: Log, card_id: str) -> Cleaned:
    """What `clean_lists` would do; nothing changes.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    changes = await read_changes(log)
    keys = keys_naming(changes, card_id)
    for number, change in enumerate(restating(changes, card_id)):
        made = LoggedChange(0, changes[-1].made.offset + 1, 0, change)
        changes.append(Keyed((0, b"restated/%d" % number), made))
    gone = set(deletable(changes, keys_naming(changes, card_id)))
    return Cleaned(len(gone.intersection(keys)), len(set(keys) - gone))


def refuse_named_rules(changes: Iterable[Keyed], card_id: str) -> None:
    """Refuse to erase a card that the expression of a rule names: without the rule, others would be decided otherwise.

    Raises:
        UsageError: a rule that is in force names it.
    """
    for rule in _history(changes).in_force().rules.rules:
        if _in_expression(rule.expression, card_id):
            msg = (
                f"rule {rule.name} names the card: change it, or remove it with `fraudstream rules remove "
                f"{rule.name}`"
            )
            raise UsageError(msg)


def keys_naming(changes: Iterable[Keyed], card_id: str) -> list[Key]:
    """Keys of the changes that name a card, as an entry of a list, in a rule, or in a note; the oldest first."""
    found = (one.key for one in changes if _names(one.made.change, card_id))
    return list(dict.fromkeys(found))


def restating(changes: Sequence[Keyed], card_id: str) -> list[ListChange]:
    """Changes that take a card off its lists, and say once more what only changes that name it say of other entries.

    They say what is in force, so they change nothing but the card's own entries.
    """
    listed = _history(changes).in_force().rules.listed
    last: dict[tuple[str, str, str], ListChange] = {}  # by entry: the change that decides it
    for one in changes:
        change = one.made.change
        if isinstance(change, ListChange):
            last |= dict.fromkeys(
                ((change.name, change.subject, each) for each in change.ids), change
            )
    grouped: dict[tuple[str, str, bool, int | None], list[str]] = defaultdict(list)
    for (name, subject, each), change in last.items():
        key = entry_key(name, subject, each)  # type: ignore[arg-type]
        if (subject, each) == ("card", card_id):
            if key in listed:
                grouped[name, subject, True, None].append(each)
        elif _names(change, card_id):
            grouped[name, subject, key not in listed, listed.get(key)].append(each)
    return [
        part
        for (name, subject, remove, until_ms), ids in grouped.items()
        for own in (True, False)  # what names the card says nothing else
        if (chosen := tuple(one for one in ids if (subject == "card" and one == card_id) is own))
        for part in list_parts(
            ListChange(name=name, subject=subject, ids=chosen, until_ms=until_ms, remove=remove)  # type: ignore[arg-type]
        )
    ]


def deletable(changes: Sequence[Keyed], keys: Iterable[Key]) -> list[Key]:
    """Which keys can be deleted one after the other, so that the history leads to the same after each of them.

    Compaction deletes in the order of the log, so at any time some of the first keys may be gone and the others not.

    Args:
        changes: the whole history.
        keys: what would be deleted, the oldest first.
    """
    wanted, gone = _history(changes).leads_to(), list[Key]()
    for key in keys:
        if _history(changes, {*gone, key}).leads_to() == wanted:
            gone.append(key)
    return gone


async def _delete(settings: Settings, log: Log, keys: Sequence[Key]) -> None:
    if not keys:
        return
    producer = AIOKafkaProducer(**client_kwargs(settings), acks="all", enable_idempotence=True)
    async with started(producer, settings):
        for partition, key in keys:
            sending = producer.send_and_wait(
                log.topics.control.name, None, key=key, partition=partition
            )
            await answered(sending, "Kafka did not accept the deletion of a change")


def _history(changes: Iterable[Keyed], without: Collection[Key] = ()) -> ChangeHistory:
    return ChangeHistory([one.made for one in changes if one.key not in without])


def _names(change: AnyChange, card_id: str) -> bool:
    if isinstance(change, ListChange) and change.subject == "card" and card_id in change.ids:
        return True
    texts = [change.note, change.by]
    if isinstance(change, RuleChange):
        if _in_expression(change.expression, card_id):
            return True
        texts.append(change.reason)
    return any(_word(card_id).search(text) for text in texts)


def _in_expression(expression: str, card_id: str) -> bool:
    """Whether a text in it names the card; a number never does: `amount > 100` is not about card 100."""
    try:
        texts = texts_in(expression) if expression else []
    except RuleError:  # it was accepted under other rules
        return True
    return any(_word(card_id).search(text) for text in texts)


def _word(card_id: str) -> re.Pattern[str]:
    """The id as a word: `C1` is not in `C12`."""
    return re.compile(rf"(?<![\w-]){re.escape(card_id)}(?![\w-])")
