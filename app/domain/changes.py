"""Changes of models, thresholds, rules and lists: records on `control`, each with an offset on `enriched`."""

from typing import Annotated, Literal

import msgspec

from app.domain.rules.ruleset import Action, ListName, RuleField, Subject

#: Event times of the years 1 to 9999, epoch milliseconds.
Moment = Annotated[int, msgspec.Meta(ge=-62_135_596_800_000, le=253_402_300_799_999)]
#: Everything in a change is bounded, because most of it is stored in one row (`ruleset.MAX_RULES_BYTES`).
Label = Annotated[str, msgspec.Meta(max_length=300)]
ModelHash = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Note = Annotated[str, msgspec.Meta(max_length=2_000)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Change(msgspec.Struct, frozen=True, kw_only=True, tag_field="change", omit_defaults=True):
    """Base class of all changes.

    Attributes:
        by: who made it.
        note: their reason.
    """

    by: Label = ""
    note: Note = ""


class ModelChange(Change, tag="model", frozen=True, kw_only=True):
    """A registered model becomes the current one.

    Attributes:
        model: its name and version.
        hash: its whole hash, or the part of it that a row of release 0.1.0 has.
        threshold: replaces the model's own; None: the model's own.
        how: `start`: a new deployment's first model; `promote`; `rollback`: back to the previous model.
        forced: it was promoted without a pass of the gate.
        unguarded: the guard does not watch this change.
        reverts: offset of the change that it reverts, on its own partition of `control`. Without effect if another
            change (for a promotion: another promotion) was made since. So if several revert the same change, only one
            has an effect.
        cause: cause of a revert by the guard, for metrics.
    """

    model: Label
    hash: ModelHash
    threshold: float | None = None
    how: Literal["start", "promote", "rollback"] = "promote"
    forced: bool = False
    unguarded: bool = False
    reverts: Offset | None = None
    cause: Label = ""


class ThresholdChange(Change, tag="threshold", frozen=True, kw_only=True):
    """The current model gets another threshold; None: its own. `unguarded`, `reverts` and `cause` as in `ModelChange`.

    Attributes:
        hash: hash of the model that it was made for: without effect for another one; None: any current model.
    """

    threshold: float | None = None
    hash: ModelHash | None = None
    unguarded: bool = False
    reverts: Offset | None = None
    cause: Label = ""


class LoadChange(Change, tag="load", frozen=True, kw_only=True):
    """A model will be promoted: workers load it now. Changes no decision."""

    model: Label
    hash: ModelHash


class RuleChange(Change, tag="rule", frozen=True, kw_only=True):
    """A rule is added, replaced or removed.

    Attributes:
        name: of the rule.
        expression: see `app.domain.rules.language`; empty: the rule is removed.
        action: the action for matching transactions.
        reason: in alerts, for people.
        fields: the deployment's own fields that the expression names, with their declarations.
    """

    name: str
    expression: str = ""
    action: Action = "review"
    reason: str = ""
    fields: tuple[RuleField, ...] = ()


class ListChange(Change, tag="list", frozen=True, kw_only=True):
    """Ids are added to a list, or removed from it.

    Attributes:
        name: of the list.
        subject: what the ids identify: `card` or `terminal`.
        ids: the ids.
        until_ms: event time at which the entries end, epoch milliseconds; None: never.
        remove: whether they are removed.
    """

    name: ListName
    subject: Subject
    ids: tuple[str, ...]
    until_ms: Moment | None = None
    remove: bool = False


class ChallengerChange(Change, tag="challenger", frozen=True, kw_only=True):
    """A challenger starts, changes or stops.

    Attributes:
        model: its name and version.
        hash: its whole hash.
        share: share of the cards for which it decides; 0: a shadow, which decides for none; None: it stops.
        threshold: replaces its own; None: its own.
    """

    model: Label
    hash: ModelHash
    share: float | None = 0.0
    threshold: float | None = None


AnyChange = ModelChange | ThresholdChange | LoadChange | RuleChange | ListChange | ChallengerChange
