"""The guard: watches the current model after a change of model or threshold, and proposes to revert a harmful change.

It only proposes. A revert is a change like any other, which names the change that it reverts: if several workers
propose it, only the first proposal has an effect (`InForce.ignores`).
"""

import logging
from collections.abc import Callable, Iterable

from app.domain.changes import ModelChange, ThresholdChange
from app.domain.changes_in_force import EarlierModel, InForce, RevertibleChange
from app.domain.guard_limits import GuardLimits, RevertReason, trip
from app.stages.guard_counts import TalliesByChange

#: A name of its own, because the logs of Faust's services are silenced.
logger = logging.getLogger("fraudstream")

#: A proposal without effect is repeated after this time, milliseconds; the time doubles with each repetition.
_REPEAT_MS = 10_000
#: Largest lag with which a worker still judges a change, milliseconds.
_MAX_LAG_MS = 86_400_000
#: Of a reason in a note, so that it fits one however many there are.
_REASON_CHARACTERS = 300
BY = "guard"


class Guard:
    """The guard of one worker: it judges by the transactions that this worker has scored.

    Args:
        tallies: the counts.
        limits: the allowed values.
        watch_ms: for how long a change is watched, milliseconds; 0: never.
        name: gives name and version of a model by its hash.
        refusal: why workers refuse a model of a hash, which would not decide then; empty: they do not; None: that is
            not known yet.
    """

    def __init__(
        self,
        tallies: TalliesByChange,
        limits: GuardLimits,
        watch_ms: int,
        name: Callable[[str], str],
        refusal: Callable[[str], str | None] = lambda _: "",
    ) -> None:
        self._tallies = tallies
        self._limits = limits
        self._watch_ms = watch_ms
        self._name = name
        self._refusal = refusal
        #: By change: the time of the next proposal, and the interval after that.
        self._next_ms: dict[tuple[int, int], tuple[int, int]] = {}

    def proposals(
        self, in_force: Iterable[InForce], now_ms: int
    ) -> list[tuple[RevertibleChange, ModelChange | ThresholdChange]]:
        """The changes that have to be reverted, and their reverts.

        Args:
            in_force: the changes in force on this worker's partitions.
            now_ms: the time, epoch milliseconds.
        """
        found = {}
        for one in in_force:
            # first the newest change; if it does no harm, the promotion before it
            for since in dict.fromkeys(filter(None, (one.since, one.promoted))):
                if since.place in found:
                    break
                # the arrival time of a transaction decides whether it counts (see `TalliesByChange`)
                if not self._watch_ms or now_ms - since.at_ms > self._watch_ms + _MAX_LAG_MS:
                    continue
                next_ms, pause_ms = self._next_ms.get(since.place, (now_ms, _REPEAT_MS))
                if now_ms < next_ms:
                    break
                same_model = since.before.hash == one.model
                tallies = self._tallies.of(one, since)
                tripped = trip(*tallies, self._limits, same_model=same_model)
                if tripped is None:
                    continue
                before = (since.before, "") if same_model else self._restorable(since)
                if before is not None:
                    self._next_ms[since.place] = now_ms + pause_ms, 2 * pause_ms
                    if change := self._revert(one, since, tripped, *before):
                        found[since.place] = since, change
                break
        return list(found.values())

    def _restorable(self, since: RevertibleChange) -> tuple[EarlierModel | None, str] | None:
        """The newest earlier model that is not refused, and why newer ones are; None: that is not known yet."""
        refused = ""
        for earlier in (since.before, *since.fallbacks):
            why = self._refusal(earlier.hash)
            if why is None:
                return None
            if not why:
                return earlier, refused
            refused += f"; {self._name(earlier.hash)} cannot be loaded: {why[:_REASON_CHARACTERS]}"
        return None, refused

    def _revert(
        self,
        one: InForce,
        since: RevertibleChange,
        tripped: RevertReason,
        before: EarlierModel | None,
        refused: str,
    ) -> ModelChange | ThresholdChange | None:
        now = self._name(one.model)
        if before is None:
            logger.error(
                "the guard cannot restore an earlier model instead of %s: %s%s; promote a model that workers can load",
                now, tripped.reason, refused,
            )  # fmt: skip
            return None
        if before.hash == one.model:
            note = f"threshold of {now} reverted: {tripped.reason}"
            logger.warning("the guard restores the earlier threshold: %s", tripped.reason)
            return ThresholdChange(
                threshold=before.threshold, reverts=since.offset, cause=tripped.cause, by=BY, note=note
            )  # fmt: skip
        name = self._name(before.hash)
        note = f"{now} reverted: {tripped.reason}{refused}"
        logger.warning("the guard restores model %s: %s", name, note)
        return ModelChange(
            model=name, hash=before.hash, threshold=before.threshold, how="rollback",
            reverts=since.offset, cause=tripped.cause, by=BY, note=note,
        )  # fmt: skip
