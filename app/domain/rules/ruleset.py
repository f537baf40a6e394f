"""The rules and list entries that are in force: a value, of which every change makes the next one.

All of it is in the row that says what decides on a partition (`app.domain.changes_in_force.InForce`): its size is
bounded.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from app.domain.features.own_features import Kind, OwnField
from app.domain.rules.language import MAX_CHARACTERS, RuleError, check

Action = Literal["decline", "review", "allow", "tag"]
ListName = Literal["block", "allow"]
Subject = Literal["card", "terminal"]

#: Rules in force at once; entries of both lists; bytes of an id on a list, and of a rule's reason.
MAX_RULES, MAX_LISTED, MAX_ID_BYTES, MAX_REASON_BYTES = 200, 5_000, 100, 200
#: Characters of all expressions: each is compiled.
MAX_RULE_CHARACTERS = 100_000
#: All of it as msgpack, bytes: with the rest of its row it fits one batch of the changelog under the smallest
#: `max_message_bytes`. No setting: it would have to be the same on all workers, and in every replay.
MAX_RULES_BYTES = 500_000
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class RuleField(msgspec.Struct, frozen=True, array_like=True):
    """An own field that a rule names, as the deployment declared it when the rule was added.

    It travels with the rule: what a rule does must not depend on the file of the worker that evaluates it.

    Attributes:
        name: in the record.
        kind: type of its values.
        default: where a record lacks it, or has a value of another type.
    """

    name: str
    kind: Kind
    default: str | bool | int | float

    @property
    def field(self) -> OwnField:
        """As the features of a deployment have it."""
        return OwnField(self.name, self.kind, self.default)


class Rule(msgspec.Struct, frozen=True, array_like=True):
    """One rule.

    Attributes:
        name: in alerts and predictions.
        version: 1 for the first rule of that name, one more for each that replaced it.
        expression: see `language`.
        action: what follows when it fires.
        reason: in alerts, for people.
        fields: own fields that the expression names.
    """

    name: str
    version: int
    expression: str
    action: Action
    reason: str = ""
    fields: tuple[RuleField, ...] = ()

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"


class RuleSet(msgspec.Struct, frozen=True, array_like=True):
    """What is in force beside the model.

    Attributes:
        rules: by name, rising.
        versions: the newest version by name, of removed rules, too.
        listed: event time (epoch milliseconds) at which an entry ends, None: never; by list, subject and id,
            joined by `/`.
    """

    rules: tuple[Rule, ...] = ()
    versions: dict[str, int] = {}
    listed: dict[str, int | None] = {}

    def __bool__(self) -> bool:
        """Whether anything is in force."""
        return bool(self.rules or self.listed)

    def with_rule(
        self,
        name: str,
        expression: str,
        action: Action,
        reason: str,
        fields: tuple[RuleField, ...] = (),
    ) -> "RuleSet":
        """A rule is added, or takes the place of that of its name. One too many changes nothing."""
        return self.adding_rule(name, expression, action, reason, fields)[0]

    def adding_rule(
        self,
        name: str,
        expression: str,
        action: Action,
        reason: str,
        fields: tuple[RuleField, ...] = (),
    ) -> tuple["RuleSet", str | None]:
        """As `with_rule`, and why there is no room for the rule; None: there is."""
        full = self._too_many_rules(name, expression)
        if full is not None:
            return self, full
        version = self.versions.get(name, 0) + 1
        rule = Rule(name, version, expression, action, reason, fields)
        others = [one for one in self.rules if one.name != name]
        rules = tuple(sorted((*others, rule), key=lambda one: one.name))
        versions = {**self.versions, name: version}
        return self._or_why(msgspec.structs.replace(self, rules=rules, versions=versions))

    def without_rule(self, name: str) -> "RuleSet":
        """A rule is removed, if it is there."""
        rules = tuple(one for one in self.rules if one.name != name)
        return self if len(rules) == len(self.rules) else msgspec.structs.replace(self, rules=rules)

    def with_listed(
        self, name: ListName, subject: Subject, ids: Iterable[str], until_ms: int | None
    ) -> "RuleSet":
        """Ids are put on a list, or stay there until another time. What would be too many changes nothing."""
        return self.adding_listed(name, subject, ids, until_ms)[0]

    def adding_listed(
        self, name: ListName, subject: Subject, ids: Iterable[str], until_ms: int | None
    ) -> tuple["RuleSet", str | None]:
        """As `with_listed`, and why there is no room for the ids; None: there is."""
        new = dict.fromkeys((entry_key(name, subject, one) for one in ids), until_ms)
        return self._or_why(msgspec.structs.replace(self, listed={**self.listed, **new}))

    def _or_why(self, new: "RuleSet") -> tuple["RuleSet", str | None]:
        full = _too_many_listed(new) or _too_large(new)
        return (new, None) if full is None else (self, full)

    def without_listed(self, name: ListName, subject: Subject, ids: Iterable[str]) -> "RuleSet":
        """Ids are taken off a list."""
        gone = {entry_key(name, subject, one) for one in ids}
        listed = {key: until for key, until in self.listed.items() if key not in gone}
        return msgspec.structs.replace(self, listed=listed)

    def _too_many_rules(self, name: str, expression: str) -> str | None:
        others = [one for one in self.rules if one.name != name]
        if len(others) >= MAX_RULES:
            return f"{MAX_RULES} rules are in force, which is the limit: remove one first"
        characters = sum(len(one.expression) for one in others) + len(expression)
        if characters > MAX_RULE_CHARACTERS:
            return f"all rules together would have {characters:,} characters; the limit is {MAX_RULE_CHARACTERS:,}"
        if name not in self.versions and len(self.versions) >= 10 * MAX_RULES:
            return f"{len(self.versions):,} rule names have been used, which is the limit: use one of them again"
        return None


_encode = msgspec.msgpack.Encoder().encode
_ROOM = (
    "remove rules or entries first (`fraudstream lists list --ended` shows those that have ended)"
)


def _too_many_listed(rules: RuleSet) -> str | None:
    count = len(rules.listed)
    if count <= MAX_LISTED:
        return None
    return f"the lists would have {count:,} entries; the limit is {MAX_LISTED:,}: {_ROOM}"


def _too_large(rules: RuleSet) -> str | None:
    size = len(_encode(rules))
    if size <= MAX_RULES_BYTES:
        return None
    return f"rules and lists would take {size:,} bytes; the limit is {MAX_RULES_BYTES:,}: {_ROOM}"


#: Nothing is in force beside the model.
NO_RULES = RuleSet()


def entry_key(name: ListName, subject: Subject, listed_id: str) -> str:
    """How an entry is named in `RuleSet.listed`."""
    return f"{name}/{subject}/{listed_id}"


def entries(listed: Mapping[str, int | None]) -> list[tuple[str, str, str, int | None]]:
    """List, subject, id and end of every entry."""
    return [(*_parts(key), until) for key, until in listed.items()]


def _parts(key: str) -> tuple[str, str, str]:
    name, subject, listed_id = key.split("/", 2)
    return name, subject, listed_id


def check_rule(name: str, expression: str, reason: str, fields: Iterable[RuleField] = ()) -> None:
    """Refuse what can be no rule in any deployment.

    Raises:
        RuleError: the text says why.
    """
    if not _NAME.fullmatch(name):
        msg = f"{name[:60]!r} is not a valid rule name: use up to 40 of a-z, 0-9, _ and -, starting with a letter"
        raise RuleError(msg)
    check_reason(reason)
    if not 0 < len(expression) <= MAX_CHARACTERS:
        msg = f"an expression has 1 to {MAX_CHARACTERS} characters, not {len(expression)}"
        raise RuleError(msg)
    used = check(expression)
    for one in fields:
        # a field is named once, else it would take more than its share of the row
        if one.name not in used:
            msg = (
                f"the expression does not name the field {one.name[:60]!r}, or it is declared twice"
            )
            raise RuleError(msg)
        used.remove(one.name)
        whole = type(one.default) is int and not -(1 << 63) <= one.default < 1 << 63
        if whole or not one.field.accepts(one.default):
            msg = f"the default of the field {one.name} is not of type {one.kind}"
            raise RuleError(msg)


def check_reason(reason: str) -> None:
    """Refuse a reason that is too long.

    Raises:
        RuleError: it is.
    """
    if len(reason.encode()) > MAX_REASON_BYTES:
        msg = f"a reason has at most {MAX_REASON_BYTES} bytes, this one has {len(reason.encode())}"
        raise RuleError(msg)


def check_ids(ids: Iterable[str]) -> None:
    """Refuse ids that no list takes.

    Raises:
        RuleError: there is none, one is empty or too long.
    """
    found = tuple(ids)
    if not found:
        msg = "name an id"
        raise RuleError(msg)
    for number, one in enumerate(found, 1):
        if not 0 < len(one.encode()) <= MAX_ID_BYTES:
            msg = f"an id on a list has 1 to {MAX_ID_BYTES} bytes, number {number} has {len(one.encode())}"
            raise RuleError(msg)
