"""What the guard judges by: counts of decisions under each of the newest changes, on this worker."""

from collections import Counter, OrderedDict
from collections.abc import Sequence

from app.domain.changes_in_force import InForce, RevertibleChange
from app.domain.guard_limits import LIMITS, DecisionTally, GuardLimits
from app.stages.scoring_models import TallyKey

#: Number of tally keys whose counts are kept.
_KEPT = 8


class TalliesByChange:
    """Counts of decisions under each of the newest changes, for the guard.

    Args:
        limits: define what is slow.
        watch_ms: how long a change is watched, milliseconds.

    Attributes:
        reverts: number of the guard's reverts that took effect here, by cause.
        unscored: transactions without a score, in all.
    """

    def __init__(self, limits: GuardLimits = LIMITS, watch_ms: int = 1_800_000) -> None:
        self.reverts: Counter[str] = Counter()
        self.unscored = 0
        self._limits = limits
        self._watch_ms = watch_ms
        #: In the order in which they were last added to.
        self._by_epoch: OrderedDict[TallyKey, DecisionTally] = OrderedDict()
        self._reverted: set[tuple[int, int]] = set()
        self._new: list[tuple[TallyKey, int, int, int, float | None]] = []

    def of_time(self, epoch: TallyKey, received: Sequence[int]) -> TallyKey:
        """The key under which transactions are counted, by the times when the broker received them, epoch milliseconds.

        A change is judged by the transactions that arrived while it was watched. Older ones come from a worker that
        lags or from a rebuild under another app id. A worker that lags may score the others long after their arrival.
        """
        since = epoch.since
        if since is None or since.at_ms < min(received) <= max(received) <= (
            since.at_ms + self._watch_ms
        ):
            return epoch
        return epoch._replace(judged=False)

    def add(self, epoch: TallyKey, scored: int, flagged: int, unscored: int, took: float) -> None:
        """Count a micro-batch; see `settle`.

        Args:
            epoch: the model and threshold that decided.
            scored: number of transactions.
            flagged: number that the model flagged as fraud.
            unscored: number for which it returned no score.
            took: duration of scoring, seconds.
        """
        self._new.append((epoch, scored, flagged, unscored, took))

    def flag(self, epoch: TallyKey, flagged: int) -> None:
        """Count transactions without a score by the current model that an earlier model flagged as fraud."""
        self._new.append((epoch, 0, flagged, 0, None))

    def forget(self) -> None:
        """What was added since `settle` is computed again."""
        self._new.clear()

    def settle(self) -> None:
        """What was added is not computed again."""
        for epoch, scored, flagged, unscored, took in self._new:
            tally = self._by_epoch.get(epoch)
            if tally is None:
                tally = self._by_epoch[epoch] = DecisionTally()
                if len(self._by_epoch) > _KEPT:
                    self._by_epoch.popitem(last=False)
            else:
                self._by_epoch.move_to_end(epoch)
            if took is None:
                tally.flagged += flagged
                continue
            self.unscored += unscored
            tally.add(scored, flagged, unscored, took * 1e6, self._limits)
            if epoch.since is None or not epoch.judged:  # else it ends with the watch
                tally.fade()
        self._new.clear()

    def revert(self, undone: Sequence[RevertibleChange], cause: str = "") -> None:
        """Changes were reverted: their counts are not used to judge others. Called once per partition."""
        places = {one.place for one in undone} - self._reverted
        self._reverted |= places
        if places and cause:
            self.reverts[cause] += 1

    def of(self, in_force: InForce, since: RevertibleChange) -> tuple[DecisionTally, DecisionTally]:
        """The counts before a watched change, and those under the newest change.

        The counts before the change are first those of the model and threshold it replaced, under whichever change
        these were counted; then, until enough transactions are known, those of what decided before.
        """
        self.settle()
        later = {one.place for one in in_force.watched[: in_force.watched.index(since) + 1]}
        others = [
            (epoch, tally)
            for epoch, tally in reversed(self._by_epoch.items())
            if epoch.since is None or epoch.since.place not in (later | self._reverted)
        ]
        right_before = since.before.hash, since.before.threshold
        others.sort(key=lambda one: one[0][:2] != right_before)
        before = DecisionTally()
        for _, tally in others:
            if before.scored < self._limits.known:
                before = before.with_(tally)
        newest = TallyKey(in_force.model, in_force.threshold, in_force.since)
        return before, self._by_epoch.get(newest, DecisionTally())
