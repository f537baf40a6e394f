"""What `fraudstream rules` and `lists` do: rules and list entries from the log of changes, and changes of them."""

from app.domain.changes import InForce, ListChange, RuleChange
from app.domain.features import Catalogue
from app.domain.rules import RuleError, RuleSet
from app.domain.rules.language import check
from app.domain.rules.policy import types_of
from app.domain.rules.ruleset import MAX_LISTED, check_rule, entries
from app.errors import NotFoundError, UsageError
from app.ops.control import History, Made, need_decides, read_history, send_changes
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.topics import Topics


def rules_of(history: History, at_ms: float | None = None) -> RuleSet:
    """The rules and list entries in force.

    Args:
        history: all changes.
        at_ms: epoch milliseconds; None: now.
    """
    found = InForce()
    for one in history.changes:
        if at_ms is None or one.at_ms <= at_ms:
            found = found.after(one.change, one.partition, one.offset)
    return found.rules


def rule_changes(history: History) -> list[Made]:
    """The changes of rules and lists, in their order."""
    return [one for one in history.changes if isinstance(one.change, RuleChange | ListChange)]


def check_here(settings: Settings, expression: str) -> tuple[Catalogue, set[str]]:
    """The features of the deployment, and the names that an expression uses.

    Raises:
        UsageError: it is no rule here; the text says what is wrong.
    """
    catalogue = catalogue_of(settings)
    try:
        return catalogue, check(expression, types_of(catalogue.names, catalogue.own))
    except RuleError as error:
        msg = f"{expression[:200]!r}: {error}"
        raise UsageError(msg) from None


async def _begun(settings: Settings) -> History:
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
    check_here(settings, change.expression)
    try:
        check_rule(change.name, change.expression, change.reason)
    except RuleError as error:
        raise UsageError(str(error)) from None
    rules = rules_of(await _begun(settings))
    full = rules.room_for_rule(change.name, change.expression)
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
    rules = rules_of(await _begun(settings))
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
    rules = rules_of(await _begun(settings))
    there = {
        one for name, subject, one, _ in entries(rules.listed)
        if (name, subject) == (change.name, change.subject)
    }  # fmt: skip
    missing = [one for one in change.ids if one not in there]
    if change.remove and missing:
        msg = f"{change.subject} {missing[0]!r} is not on the {change.name} list"
        raise NotFoundError(msg)
    count = len(rules.listed) + (-len(set(change.ids)) if change.remove else len(set(missing)))
    if count > MAX_LISTED:
        msg = (
            f"the lists have {len(rules.listed):,} entries, and {MAX_LISTED:,} are the most: remove some first "
            "(`fraudstream lists list --ended` shows those that have ended)"
        )
        raise UsageError(msg)
    await send_changes(settings, change)
    return count
