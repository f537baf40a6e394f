"""What `fraudstream rules` and `lists` do: rules and list entries from the log of changes, and changes of them."""

from collections.abc import Iterator

import msgspec

from app.domain.changes import ListChange, RuleChange
from app.domain.changes_in_force import rules_after
from app.domain.features import Catalogue
from app.domain.rules import RuleError
from app.domain.rules.language import check
from app.domain.rules.policy import rule_fields, types_of
from app.domain.rules.ruleset import check_rule, entries
from app.errors import NotFoundError, UsageError
from app.kafka.change_history import (
    ChangeHistory,
    LoggedChange,
    need_decides,
    read_history,
    send_changes,
)
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.topics import Topics
from app.wire.control_records import MAX_CHANGE_BYTES, encode_change

#: Of a change of lists, beside its ids: 200 bytes of reason and 300 characters of author, each up to six in JSON.
_AROUND_IDS = 4_096


def rule_changes(history: ChangeHistory) -> list[LoggedChange]:
    """The changes of rules and lists, in their order."""
    return [one for one in history.changes if isinstance(one.change, RuleChange | ListChange)]


def check_here(settings: Settings, expression: str) -> tuple[Catalogue, set[str]]:
    """The features of the deployment, and the names that an expression uses.

    Raises:
        UsageError: it is no rule here; the text says what is wrong.
    """
    catalogue = catalogue_of(settings)
    try:
        return catalogue, check(expression, types_of(catalogue.names, catalogue.own.fields))
    except RuleError as error:
        msg = f"{expression[:200]!r}: {error}"
        raise UsageError(msg) from None


async def _begun(settings: Settings) -> ChangeHistory:
    """All changes, once a worker has written the first of them: the model and rules that the deployment starts with.

    Raises:
        UsageError: no worker has ever started.
        UnavailableError, SchemaError: Kafka does not answer, or the topic is missing.
    """
    history = await read_history(settings)
    need_decides(history, Topics(settings).control.name)
    return history


async def add_rule(settings: Settings, change: RuleChange) -> str:
    """Put a rule in force; returns its name and version.

    Raises:
        UsageError: it is no rule here, there is no room for it, or no worker has ever started.
        UnavailableError, SchemaError: Kafka does not answer, or the topic is missing.
    """
    catalogue, used = check_here(settings, change.expression)
    change = msgspec.structs.replace(change, fields=rule_fields(used, catalogue.own))
    try:
        check_rule(change.name, change.expression, change.reason, change.fields)
    except RuleError as error:
        raise UsageError(str(error)) from None
    rules = (await _begun(settings)).in_force().rules
    _, full = rules.adding_rule(
        change.name, change.expression, change.action, change.reason, change.fields
    )
    if full is not None:
        raise UsageError(full)
    await send_changes(settings, change)
    return f"{change.name}@{rules.versions.get(change.name, 0) + 1}"


async def remove_rule(settings: Settings, name: str, note: str) -> None:
    """Take a rule out of force.

    Raises:
        NotFoundError: there is none of that name.
        UnavailableError, SchemaError: Kafka does not answer, or the topic is missing.
    """
    rules = (await _begun(settings)).in_force().rules
    if name not in {rule.name for rule in rules.rules}:
        named = ", ".join(rule.name for rule in rules.rules) or "there is none"
        msg = f"no rule {name!r} is in force; those in force: {named}"
        raise NotFoundError(msg)
    await send_changes(settings, RuleChange(name=name, note=note))


async def change_list(settings: Settings, change: ListChange) -> int:
    """Put ids on a list or take them off; returns how many entries both lists have then.

    Raises:
        UsageError: there is no room for them, or no worker has ever started.
        NotFoundError: one that is taken off is not on the list.
        UnavailableError, SchemaError: Kafka does not answer, or the topic is missing.
    """
    rules = (await _begun(settings)).in_force().rules
    there = {
        one for name, subject, one, _ in entries(rules.listed)
        if (name, subject) == (change.name, change.subject)
    }  # fmt: skip
    missing = [one for one in change.ids if one not in there]
    if change.remove and missing:
        msg = f"{change.subject} {missing[0]!r} is not on the {change.name} list"
        raise NotFoundError(msg)
    parts = list(list_parts(change))
    for part in parts:  # they are applied one by one
        if not part.remove:
            _, full = rules.adding_listed(part.name, part.subject, part.ids, part.until_ms)
            if full is not None:
                raise UsageError(full)
        rules = rules_after(rules, part)
    await send_changes(settings, *parts)
    return len(rules.listed)


def list_parts(change: ListChange) -> Iterator[ListChange]:
    """A change of lists as changes that fit one record each, without ids that are named twice."""
    ids: list[str] = []
    filled = 0
    for one in dict.fromkeys(change.ids):
        size = len(encode_change(one)) + 1
        if ids and filled + size > MAX_CHANGE_BYTES - _AROUND_IDS:
            yield msgspec.structs.replace(change, ids=tuple(ids))
            ids, filled = [], 0
        ids.append(one)
        filled += size
    yield msgspec.structs.replace(change, ids=tuple(ids))
