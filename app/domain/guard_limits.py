"""The guard's rule: whether a new model or threshold has to be reverted. It uses no clock.

It compares the counts since the change with those before it, on the same stream. The result is only a proposal: the
revert goes through the log like every other change.
"""

from dataclasses import dataclass, field
from functools import reduce
from math import log
from typing import Literal, NamedTuple

from app.domain.sequential_tests import nearly_all_hit, share_exceeds

#: Causes of reverts, for metrics.
Cause = Literal["unscored", "more_alerts", "fewer_alerts", "slow"]
CAUSES: tuple[Cause, ...] = ("unscored", "more_alerts", "fewer_alerts", "slow")
#: Beyond this number of transactions, older ones count less; it is enough to estimate a share of alerts of 0.1 %.
_REMEMBERED = 1_000_000


@dataclass(frozen=True)
class GuardLimits:
    """The limits beyond which a change is reverted.

    Attributes:
        microseconds: allowed scoring time per transaction of a micro-batch, in addition to `batch_microseconds`.
        batch_microseconds: allowed scoring time per micro-batch, however few transactions it has.
        batches: number of micro-batches from which on a mean is known. The first ones are also judged one by one.
        times_before: allowed multiple of the earlier scoring time in micro-batches of the same size, if it is known.
        times_far: multiple of the earlier scoring time that is far too slow.
        false_alarm: largest probability that a change within the limits is ever reverted, for each test of a worker, if
            alerts come in independent groups of at most `burst` and the earlier share is exact.
        unknown_times: allowed multiple of the allowed time, if the earlier scoring time is not known.
        known: number of transactions before the change from which on the earlier share of alerts is known.
        more_alerts: allowed multiple of the earlier share of alerts, in addition to `more_share`.
        more_share: share of the transactions that may be additional alerts.
        burst: alerts of a card or a terminal arrive together: this number of transactions counts as one.
        fewer_alerts: allowed fraction of the earlier share of alerts.
        seen_alerts: number of alerts before the change from which on too few alerts can be detected.
        unknown_share: share of the transactions that may be alerts, if the earlier share is not known.
        times_unscored: allowed multiple of the expected transactions without a score, in addition to `few_unscored`, if
            the earlier model left some without a score.
        few_unscored: number of additional transactions without a score that is not significant.
        unknown_unscored: share of the transactions that may be without a score, if the earlier share is not known.
    """

    microseconds: float = 100.0
    batch_microseconds: float = 1_000.0
    batches: int = 20
    times_before: float = 2.0
    times_far: float = 10.0
    false_alarm: float = 1e-4
    unknown_times: float = 5.0
    known: int = 500
    more_alerts: float = 4.0
    more_share: float = 0.02
    burst: float = 3.0
    fewer_alerts: float = 0.2
    seen_alerts: int = 50
    unknown_share: float = 0.5
    times_unscored: float = 2.0
    few_unscored: float = 5.0
    unknown_unscored: float = 0.01

    @property
    def significant(self) -> float:
        """Logarithm of a likelihood ratio from which on a change is reverted."""
        return -log(self.false_alarm)

    def allowed(self, scored: float, batches: float = 1) -> float:
        """Allowed scoring time of micro-batches, microseconds.

        Args:
            scored: number of transactions in them.
            batches: number of micro-batches.
        """
        return batches * self.batch_microseconds + scored * self.microseconds


LIMITS = GuardLimits()


class RevertReason(NamedTuple):
    """Why a change has to be reverted: the cause, and a sentence for people."""

    cause: Cause
    reason: str


@dataclass
class ScoringTimes:
    """Scoring times.

    Attributes:
        batches: number of micro-batches.
        scored: number of transactions in them.
        microseconds: total scoring time.
        slow: number of micro-batches that took longer than the limits allow.
    """

    batches: float = 0
    scored: float = 0
    microseconds: float = 0
    slow: float = 0

    def with_(self, other: "ScoringTimes") -> "ScoringTimes":
        """Both together."""
        return ScoringTimes(
            self.batches + other.batches, self.scored + other.scored,
            self.microseconds + other.microseconds, self.slow + other.slow,
        )  # fmt: skip


@dataclass
class DecisionTally:
    """Counts of the current model's decisions.

    Attributes:
        scored: number of transactions.
        flagged: number flagged as fraud.
        unscored: number without a score between 0 and 1.
        times: scoring times by the size class of micro-batches. The class is the number of binary digits of the size:
            sizes in one class differ by less than a factor of two.
        first: size and scoring time of the first micro-batches.
    """

    scored: float = 0
    flagged: float = 0
    unscored: float = 0
    times: dict[int, ScoringTimes] = field(default_factory=dict)
    first: list[tuple[int, float]] = field(default_factory=list)

    def with_(self, other: "DecisionTally") -> "DecisionTally":
        """Both together, without the first micro-batches."""
        times = {size: one.with_(ScoringTimes()) for size, one in self.times.items()}
        for size, one in other.times.items():
            times[size] = one.with_(times.get(size, ScoringTimes()))
        return DecisionTally(
            self.scored + other.scored, self.flagged + other.flagged, self.unscored + other.unscored, times
        )  # fmt: skip

    def add(
        self, scored: int, flagged: int, unscored: int, microseconds: float, limits: GuardLimits
    ) -> None:
        """Count a micro-batch of at least one transaction."""
        self.scored += scored
        self.flagged += flagged
        self.unscored += unscored
        timing = self.times.setdefault(scored.bit_length(), ScoringTimes())
        timing.batches += 1
        timing.scored += scored
        timing.microseconds += microseconds
        if microseconds > limits.allowed(scored):
            timing.slow += 1
        if len(self.first) < limits.batches:
            self.first.append((scored, microseconds))

    def fade(self) -> None:
        """Reduce the weight of older transactions; not used for the change that is judged, whose alerts may be rare."""
        if self.scored > _REMEMBERED:  # the share of alerts weeks ago is not relevant
            self.scored, self.flagged = self.scored / 2, self.flagged / 2
            self.unscored /= 2
            for one in self.times.values():
                one.batches, one.scored = one.batches / 2, one.scored / 2
                one.microseconds, one.slow = one.microseconds / 2, one.slow / 2

    def per_transaction(self, size: int, batches: int) -> float | None:
        """Microseconds per transaction in micro-batches of a size class; None: not known.

        If there are too few of that class, smaller ones are included: a transaction takes no less time in them.

        Args:
            size: size class, as in `times`.
            batches: smallest number of micro-batches for an estimate.
        """
        found = ScoringTimes()
        while size and found.batches < batches:
            found = found.with_(self.times.get(size, ScoringTimes()))
            size -= 1
        return found.microseconds / found.scored if found.batches >= batches else None


def trip(
    before: DecisionTally,
    now: DecisionTally,
    limits: GuardLimits = LIMITS,
    *,
    same_model: bool = False,
) -> RevertReason | None:
    """Why a change has to be reverted; None: there is no reason so far.

    Args:
        before: counts before the change.
        now: counts since the change.
        limits: the limits.
        same_model: only the threshold was changed, so scoring time and missing scores are not judged.
    """
    if same_model:
        return _by_alerts(before, now, limits)
    return (
        _by_scores(before, now, limits)
        or _by_alerts(before, now, limits)
        or _by_time(before, now, limits)
    )


def _by_scores(
    before: DecisionTally, now: DecisionTally, limits: GuardLimits
) -> RevertReason | None:
    if before.scored < limits.known:
        most, was = limits.unknown_unscored * now.scored, ""
    else:
        share = before.unscored / before.scored
        # none is allowed if the earlier model had a score for all
        most = limits.times_unscored * share * now.scored + (limits.few_unscored if share else 0)
        was = f"; before the change, for {_percent(share)}" if share else ""
    if now.unscored <= most:
        return None
    found = f"{now.unscored:,.0f} of {now.scored:,.0f}"
    return RevertReason("unscored", f"no score between 0 and 1 for {found} transactions{was}")


def _by_alerts(
    before: DecisionTally, now: DecisionTally, limits: GuardLimits
) -> RevertReason | None:
    if not now.scored:
        return None
    found = f"{now.flagged:,.0f} of {now.scored:,.0f} transactions are flagged"
    # bursts, instead of single transactions
    flagged, others = now.flagged / limits.burst, (now.scored - now.flagged) / limits.burst
    if before.scored < limits.known:
        if share_exceeds(flagged, others, limits.unknown_share) >= limits.significant:
            return RevertReason("more_alerts", found)
        return None
    share = before.flagged / before.scored
    compared = (
        f"{found} ({_percent(now.flagged / now.scored)}); before the change, {_percent(share)} were"
    )
    most = limits.more_alerts * share + limits.more_share
    if share_exceeds(flagged, others, most) >= limits.significant:
        return RevertReason("more_alerts", compared)
    few = share_exceeds(others, flagged, 1 - limits.fewer_alerts * share) >= limits.significant
    if few and before.flagged >= limits.seen_alerts:
        return RevertReason("fewer_alerts", compared)
    return None


def _by_time(before: DecisionTally, now: DecisionTally, limits: GuardLimits) -> RevertReason | None:
    text = f"scoring takes {{:,.0f}} us per transaction, {limits.microseconds:g} us are allowed"
    total = reduce(ScoringTimes.with_, now.times.values(), ScoringTimes())
    compared, usual = ScoringTimes(), 0.0
    for size, one in now.times.items():
        if (each := before.per_transaction(size, limits.batches)) is not None:
            compared, usual = compared.with_(one), usual + each * one.scored
    far = _is_far_slower(before, now, limits)
    if not far and (total.batches < limits.batches or 2 * total.slow < total.batches):
        return None
    if far or compared.batches >= limits.batches:
        if not far and compared.microseconds <= limits.times_before * usual:
            return None
        text += f"; before {usual / compared.scored:,.0f} us"
        return RevertReason("slow", text.format(compared.microseconds / compared.scored))
    if total.microseconds <= limits.unknown_times * limits.allowed(total.scored, total.batches):
        return None
    return RevertReason("slow", text.format(total.microseconds / total.scored))


def _is_far_slower(before: DecisionTally, now: DecisionTally, limits: GuardLimits) -> bool:
    """Whether the first micro-batches are enough to call a model too slow.

    If a model takes at most `times_before` times the earlier time on average, at most `times_before / times_far` of its
    micro-batches take `times_far` times the earlier time, however its times are distributed (Markov's inequality). So
    a busy machine may delay some of them.
    """
    far = []
    for scored, microseconds in now.first:
        usual = before.per_transaction(scored.bit_length(), limits.batches)
        if usual is not None:
            limit = max(limits.allowed(scored), limits.times_far * usual * scored)
            far.append(microseconds > limit)
    return nearly_all_hit(far, limits.times_before / limits.times_far) >= limits.significant


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
