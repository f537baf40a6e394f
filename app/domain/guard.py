"""Whether a model or threshold that was just put in force has to be taken back: the rule, without a clock.

It looks at what was counted since the change and before it, on the same stream. What it finds is only proposed: the
change that takes it back goes through the log like every other one.
"""

from dataclasses import dataclass, field
from functools import reduce
from typing import Literal, NamedTuple

#: Why a change is taken back: for metrics.
Cause = Literal["unscored", "more_alerts", "fewer_alerts", "slow"]
CAUSES: tuple[Cause, ...] = ("unscored", "more_alerts", "fewer_alerts", "slow")
#: Beyond this number of transactions older ones count less: enough to know a share of alerts of 0.1 %.
_REMEMBERED = 1_000_000


@dataclass(frozen=True)
class GuardLimits:
    """From where on a change is taken back.

    Attributes:
        microseconds: scoring time allowed per transaction of a micro-batch, besides `batch_microseconds`.
        batch_microseconds: scoring time allowed for a micro-batch, however few transactions it has.
        batches: micro-batches that are looked at, at least.
        times_before: how many times the scoring time of before, in micro-batches of the same size, where it is known.
        unknown_times: how many times the time allowed, where that of before is not known.
        known: transactions from which on the share of alerts before the change is known.
        more_alerts: how many times as many alerts, besides `more_share` and `few_alerts`.
        more_share: share of the transactions that may be alerts in addition.
        few_alerts: alerts that say nothing yet.
        fewer_alerts: which share of the alerts at least.
        seen_alerts: alerts before the change from which on too few can be told.
        unknown_share: share of the transactions that may be alerts where that of before is not known.
        times_unscored: how many times as many transactions without a score, besides `few_unscored`, if the model
            before left some without.
        few_unscored: transactions without a score that say nothing yet then.
        unknown_unscored: share of the transactions that may be without a score where that of before is not known.
    """

    microseconds: float = 100.0
    batch_microseconds: float = 1_000.0
    batches: int = 20
    times_before: float = 2.0
    unknown_times: float = 5.0
    known: int = 500
    more_alerts: float = 4.0
    more_share: float = 0.02
    few_alerts: float = 20.0
    fewer_alerts: float = 0.2
    seen_alerts: int = 50
    unknown_share: float = 0.5
    times_unscored: float = 2.0
    few_unscored: float = 5.0
    unknown_unscored: float = 0.01


LIMITS = GuardLimits()


class RevertReason(NamedTuple):
    """Why a change has to be taken back: the cause, and a sentence for people."""

    cause: Cause
    reason: str


@dataclass
class ScoringTimes:
    """How long scores took.

    Attributes:
        batches: micro-batches.
        scored: their transactions.
        microseconds: their time.
        slow: those that took longer than the limits allow.
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
    """What the model that decides did to some transactions.

    Attributes:
        scored: transactions that it was given.
        flagged: those that it called fraud.
        unscored: those that it gave no number between 0 and 1.
        times: of micro-batches by their size, the number of its binary digits: those of one size differ by less than
            a factor of two.
    """

    scored: float = 0
    flagged: float = 0
    unscored: float = 0
    times: dict[int, ScoringTimes] = field(default_factory=dict)

    def with_(self, other: "DecisionTally") -> "DecisionTally":
        """Both together."""
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
        if microseconds > limits.batch_microseconds + scored * limits.microseconds:
            timing.slow += 1

    def fade(self) -> None:
        """Let older transactions count less; not of what is judged, where few alerts need many transactions to tell."""
        if self.scored > _REMEMBERED:  # the share of alerts of weeks ago says little
            self.scored, self.flagged = self.scored / 2, self.flagged / 2
            self.unscored /= 2
            for one in self.times.values():
                one.batches, one.scored = one.batches / 2, one.scored / 2
                one.microseconds, one.slow = one.microseconds / 2, one.slow / 2

    def per_transaction(self, size: int, batches: int) -> float | None:
        """Microseconds per transaction in micro-batches of a size; None: not known.

        Smaller ones take part where there are too few of that size: a transaction takes no less time in them.

        Args:
            size: as in `times`.
            batches: micro-batches from which on it is known.
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
    """Why a change has to be taken back; None: it does not have to, as far as is known.

    Args:
        before: what was counted before the change.
        now: what was counted since.
        limits: what is allowed.
        same_model: the change is only one of the threshold: what the model does is not its fault.
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
        # none at all where the model before had a score for all
        most = limits.times_unscored * share * now.scored + (limits.few_unscored if share else 0)
        was = f"; before the change, for {_percent(share)}" if share else ""
    if now.unscored <= most:
        return None
    found = f"{now.unscored:,.0f} of {now.scored:,.0f}"
    return RevertReason("unscored", f"no score between 0 and 1 for {found} transactions{was}")


def _by_alerts(
    before: DecisionTally, now: DecisionTally, limits: GuardLimits
) -> RevertReason | None:
    found = f"{now.flagged:,.0f} of {now.scored:,.0f} transactions are flagged"
    if before.scored < limits.known:
        if now.flagged > limits.unknown_share * now.scored + limits.few_alerts:
            return RevertReason("more_alerts", found)
        return None
    share = before.flagged / before.scored
    expected = share * now.scored
    if not now.scored:
        return None
    compared = (
        f"{found} ({_percent(now.flagged / now.scored)}); before the change, {_percent(share)} were"
    )
    most = limits.more_alerts * expected + limits.more_share * now.scored + limits.few_alerts
    if now.flagged > most:
        return RevertReason("more_alerts", compared)
    few = now.flagged < limits.fewer_alerts * expected - limits.few_alerts
    if few and before.flagged >= limits.seen_alerts:
        return RevertReason("fewer_alerts", compared)
    return None


def _by_time(before: DecisionTally, now: DecisionTally, limits: GuardLimits) -> RevertReason | None:
    total = reduce(ScoringTimes.with_, now.times.values(), ScoringTimes())
    if total.batches < limits.batches or 2 * total.slow < total.batches:
        return None
    text = f"scoring takes {{:,.0f}} us per transaction, {limits.microseconds:g} us are allowed"
    compared, usual = ScoringTimes(), 0.0
    for size, one in now.times.items():
        if (each := before.per_transaction(size, limits.batches)) is not None:
            compared, usual = compared.with_(one), usual + each * one.scored
    if compared.batches >= limits.batches:
        if compared.microseconds <= limits.times_before * usual:
            return None
        text += f"; before {usual / compared.scored:,.0f} us"
        return RevertReason("slow", text.format(compared.microseconds / compared.scored))
    allowed = total.batches * limits.batch_microseconds + total.scored * limits.microseconds
    if total.microseconds <= limits.unknown_times * allowed:
        return None
    return RevertReason("slow", text.format(total.microseconds / total.scored))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
