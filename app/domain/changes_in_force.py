"""What is in force: the combined result of the changes of models, thresholds, rules and lists up to an offset.

It depends on no clock and no setting, so a replay of the same records gives the same decisions.
"""

import msgspec

from app.domain.challengers import MAX_CHALLENGERS, Challenger
from app.domain.changes import (
    AnyChange,
    ChallengerChange,
    ListChange,
    LoadChange,
    ModelChange,
    RuleChange,
    ThresholdChange,
)
from app.domain.rules.ruleset import RuleSet

#: Largest number of earlier models that are tried for a row without a score by the current one.
MAX_FALLBACKS = 3
#: Largest number of changes that can be reverted one after the other, the newest first.
MAX_WATCHED = 4


class EarlierModel(msgspec.Struct, frozen=True, array_like=True):
    """A previously current model.

    Attributes:
        hash: its whole hash.
        threshold: the threshold that replaced its own; None: its own.
    """

    hash: str
    threshold: float | None = None


class RevertibleChange(msgspec.Struct, frozen=True, array_like=True):
    """A change of model or threshold, with the model and threshold before it, which a revert restores.

    Attributes:
        partition: its partition of `control`.
        offset: its offset there.
        at_ms: when the broker appended it, epoch milliseconds.
        before: model and threshold before it.
        fallbacks: as in `InForce`, before it.
    """

    partition: int
    offset: int
    at_ms: int
    before: EarlierModel
    fallbacks: tuple[EarlierModel, ...] = ()

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset on `control`."""
        return self.partition, self.offset


class InForce(msgspec.Struct, frozen=True, array_like=True):
    """Everything that decides on transactions from an offset on: the combined result of the changes before it.

    Attributes:
        first: the first offset that it decides; for offsets below it, a state of an older release has `ModelOffsets`.
        model: hash of the current model; empty: see `ModelOffsets`.
        threshold: replaces the model's own; None: the model's own.
        seen: offset of the newest change that was applied, by partition of `control`.
        rules: rules and list entries.
        challengers: the challengers, oldest first; at most one of them (the canary) has a share of the cards.
        fallbacks: previously current models, newest first, each once: if the current model returns no score, the first
            of them that returns one decides.
        watched: the newest changes of model and threshold that may be reverted, newest first.
    """

    first: int = 0
    model: str = ""
    threshold: float | None = None
    seen: dict[int, int] = {}
    rules: RuleSet = RuleSet()
    challengers: tuple[Challenger, ...] = ()
    fallbacks: tuple[EarlierModel, ...] = ()
    watched: tuple[RevertibleChange, ...] = ()

    def after(self, change: AnyChange, partition: int, offset: int, at_ms: int = 0) -> "InForce":
        """The result after a change.

        Args:
            change: the change.
            partition: its partition of `control`.
            offset: its offset there. A change that was applied before has no effect.
            at_ms: when the broker appended it there, epoch milliseconds.
        """
        if offset <= self.seen.get(partition, -1):
            return self
        seen = {**self.seen, partition: offset}
        match change:
            case _ if isinstance(change, LoadChange) or self.ignores(change, partition):
                return msgspec.structs.replace(self, seen=seen)
            case ModelChange(hash=model, threshold=threshold):
                others = tuple(one for one in self.challengers if one.hash != model)
                return msgspec.structs.replace(
                    self, model=model, threshold=threshold, seen=seen, challengers=others,
                    fallbacks=self._fallbacks(change, partition),
                    watched=self._watched(change, partition, offset, at_ms),
                )  # fmt: skip
            case ThresholdChange(threshold=threshold):
                watched = self._watched(change, partition, offset, at_ms)
                return msgspec.structs.replace(
                    self, threshold=threshold, seen=seen, watched=watched
                )
            case RuleChange() | ListChange():
                return msgspec.structs.replace(
                    self, seen=seen, rules=rules_after(self.rules, change)
                )
            case ChallengerChange():
                return msgspec.structs.replace(self, seen=seen, challengers=self._beside(change))

    @property
    def since(self) -> RevertibleChange | None:
        """The newest change of model or threshold, if it may be reverted."""
        return self.watched[0] if self.watched else None

    @property
    def promoted(self) -> RevertibleChange | None:
        """The change that promoted the current model, if it may be reverted."""
        return next((one for one in self.watched if one.before.hash != self.model), None)

    def ignores(self, change: AnyChange, partition: int) -> bool:
        """Whether a change has no effect: what it reverts was reverted or replaced before, or its model has changed."""
        if isinstance(change, ThresholdChange) and change.hash not in (None, self.model):
            return True
        return getattr(change, "reverts", None) is not None and not self.undone(change, partition)

    def undone(self, change: AnyChange, partition: int) -> tuple[RevertibleChange, ...]:
        """The changes that a change reverts: the newest one, or a promotion with the changes of the threshold since."""
        reverts = getattr(change, "reverts", None)
        for number, one in enumerate(self.watched if reverts is not None else (), 1):
            of_model = isinstance(change, ModelChange) and one is self.promoted
            if one.place == (partition, reverts) and (number == 1 or of_model):
                return self.watched[:number]
        return ()

    def _watched(
        self, change: ModelChange | ThresholdChange, partition: int, offset: int, at_ms: int
    ) -> tuple[RevertibleChange, ...]:
        """None after a change that is never reverted: a rollback, the first model, or a change with `--no-guard`."""
        if undone := self.undone(change, partition):
            model = change.hash if isinstance(change, ModelChange) else self.model
            as_before = undone[-1].before.hash == model
            return self.watched[len(undone) :] if as_before else ()
        goes_back = isinstance(change, ModelChange) and change.how != "promote"
        if goes_back or change.unguarded or not self.model:
            return ()
        before = EarlierModel(self.model, self.threshold)
        return (RevertibleChange(partition, offset, at_ms, before, self.fallbacks), *self.watched)[
            :MAX_WATCHED
        ]

    def _fallbacks(self, change: ModelChange, partition: int) -> tuple[EarlierModel, ...]:
        """The first model has none, even if a worker's setting named another one before it was recorded.

        A rollback to a model also restores that model's own fallbacks.
        """
        if change.how == "start" or not self.model:
            return ()
        hashes = [one.hash for one in self.fallbacks]
        if undone := self.undone(change, partition):
            earlier = undone[-1].fallbacks
            gone = [one.hash for one in earlier]
            if change.hash in gone:  # those after it are refused: the guard has passed over them
                earlier = earlier[gone.index(change.hash) + 1 :]
        elif change.how == "rollback" and change.hash in hashes:
            earlier = self.fallbacks[hashes.index(change.hash) + 1 :]
        else:
            earlier = (EarlierModel(self.model, self.threshold), *self.fallbacks)
        return tuple(one for one in earlier if one.hash != change.hash)[:MAX_FALLBACKS]

    def refusal(self, change: ChallengerChange) -> str | None:
        """Why a change of challengers has no effect; None: it has one."""
        if change.share is None:
            return None
        if change.hash == self.model:
            return f"{change.model} is the current model already"
        others = [one for one in self.challengers if one.hash != change.hash]
        if len(others) >= MAX_CHALLENGERS:
            names = ", ".join(one.model for one in others)
            return f"there are {MAX_CHALLENGERS} challengers already: {names}"
        canary = next((one for one in others if one.share), None)
        if change.share and canary is not None:
            return f"{canary.model} is the canary, and there can be only one"
        return None

    def _beside(self, change: ChallengerChange) -> tuple[Challenger, ...]:
        if self.refusal(change) is not None:  # its sender saw an earlier state
            return self.challengers
        if change.share is None:
            return tuple(one for one in self.challengers if one.hash != change.hash)
        new = Challenger(change.model, change.hash, change.share, change.threshold)
        if any(one.hash == change.hash for one in self.challengers):  # it keeps its position
            return tuple(new if one.hash == change.hash else one for one in self.challengers)
        return (*self.challengers, new)

    @property
    def models(self) -> tuple[str, ...]:
        """Hashes of the models that may decide."""
        return (self.model,) if self.model else ()

    @property
    def canary(self) -> Challenger | None:
        """The challenger that decides for a share of the cards."""
        return next((one for one in self.challengers if one.share), None)


def rules_after(rules: RuleSet, change: RuleChange | ListChange) -> RuleSet:
    """The rules and list entries after a change to them."""
    match change:
        case RuleChange(name=name, expression=""):
            return rules.without_rule(name)
        case RuleChange(name=name, expression=expression, action=action, reason=reason):
            return rules.with_rule(name, expression, action, reason, change.fields)
        case ListChange(name=listed, subject=subject, ids=ids, remove=True):
            return rules.without_listed(listed, subject, ids)
        case ListChange(name=listed, subject=subject, ids=ids, until_ms=until_ms):
            return rules.with_listed(listed, subject, ids, until_ms)
