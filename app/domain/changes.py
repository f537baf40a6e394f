"""Changes to what decides: each is a record on `control`, and has an offset on `enriched` from which it applies.

`InForce` is what decides at an offset: it starts as the deployment does, and every change makes the next one. No clock
and no setting takes part, so a replay of the same records gives the same decisions.
"""

from typing import Literal

import msgspec

from app.domain.rules.ruleset import Action, ListName, RuleSet, Subject


class Change(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", omit_defaults=True):
    """Any change.

    Attributes:
        by: who made it.
        note: why, in their words.
    """

    by: str = ""
    note: str = ""


class ModelChange(Change, tag="model", frozen=True, kw_only=True):
    """Another model decides.

    Attributes:
        model: its name and version.
        hash: its whole hash, or what pins have of it.
        threshold: replaces the model's own; None: the model's own.
        how: `start`: a new deployment's first model; `promote`; `rollback`: back to the one before.
    """

    model: str
    hash: str
    threshold: float | None = None
    how: Literal["start", "promote", "rollback"] = "promote"


class ThresholdChange(Change, tag="threshold", frozen=True, kw_only=True):
    """Another threshold; None: the model's own."""

    threshold: float | None = None


class LoadChange(Change, tag="load", frozen=True, kw_only=True):
    """A model will be promoted: workers load it now. Decides nothing."""

    model: str
    hash: str


class RuleChange(Change, tag="rule", frozen=True, kw_only=True):
    """A rule is in force, in place of that of its name; or none is.

    Attributes:
        name: of the rule.
        expression: see `app.domain.rules.language`; empty: the rule is removed.
        action: what follows when it fires.
        reason: in alerts, for people.
    """

    name: str
    expression: str = ""
    action: Action = "review"
    reason: str = ""


class ListChange(Change, tag="list", frozen=True, kw_only=True):
    """Ids are put on a list, or taken off it.

    Attributes:
        name: of the list.
        subject: what the ids are of.
        ids: the ids.
        until_ms: event time at which the entries end, epoch milliseconds; None: never.
        remove: whether they are taken off.
    """

    name: ListName
    subject: Subject
    ids: tuple[str, ...]
    until_ms: int | None = None
    remove: bool = False


AnyChange = ModelChange | ThresholdChange | LoadChange | RuleChange | ListChange


class InForce(msgspec.Struct, frozen=True, array_like=True):
    """What decides from an offset on.

    Attributes:
        first: the first offset that it decides; below it a state of an older release has its own record (`Pins`).
        model: hash of the model that decides; empty: `Pins` say.
        threshold: replaces the model's own; None: the model's own.
        seen: offset of the newest change that was applied, by partition of `control`.
        rules: rules and list entries.
    """

    first: int = 0
    model: str = ""
    threshold: float | None = None
    seen: dict[int, int] = {}
    rules: RuleSet = RuleSet()

    def after(self, change: AnyChange, partition: int, offset: int) -> "InForce":
        """What decides after a change.

        Args:
            change: the change.
            partition: of `control`.
            offset: its place there. A change that was applied before changes nothing.
        """
        if offset <= self.seen.get(partition, -1):
            return self
        seen = {**self.seen, partition: offset}
        match change:
            case ModelChange(hash=model, threshold=threshold):
                return msgspec.structs.replace(self, model=model, threshold=threshold, seen=seen)
            case ThresholdChange(threshold=threshold):
                return msgspec.structs.replace(self, threshold=threshold, seen=seen)
            case LoadChange():
                return msgspec.structs.replace(self, seen=seen)
            case RuleChange() | ListChange():
                return msgspec.structs.replace(
                    self, seen=seen, rules=rules_after(self.rules, change)
                )

    @property
    def models(self) -> tuple[str, ...]:
        """Hashes of the models that score under it."""
        return (self.model,) if self.model else ()


def rules_after(rules: RuleSet, change: RuleChange | ListChange) -> RuleSet:
    """The rules and list entries after a change of them."""
    match change:
        case RuleChange(name=name, expression=""):
            return rules.without_rule(name)
        case RuleChange(name=name, expression=expression, action=action, reason=reason):
            return rules.with_rule(name, expression, action, reason)
        case ListChange(name=listed, subject=subject, ids=ids, remove=True):
            return rules.without_listed(listed, subject, ids)
        case ListChange(name=listed, subject=subject, ids=ids, until_ms=until_ms):
            return rules.with_listed(listed, subject, ids, until_ms)
