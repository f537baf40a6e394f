"""The oracle: one slow and obvious evaluator of every feature and of what each record becomes.

`fraudstream verify` and the tests compare the stream with it, and nothing else uses it. It shares the
catalogue's names and the record types with the stream, and no line of its arithmetic: a fault in the
window rows, the segments or the blocks cannot hide here as well. Everything below is a plain list per
card or terminal, scanned anew for each record.

The rules, in the order in which a record meets them (see `docs/architecture.md`):

```text
dead       it cannot become a transaction                            nothing is kept
moved      its card belongs to another partition                     nothing is kept
duplicate  an entry with its transaction_id, t and amount is kept    nothing is kept
           for the card
conflicting an entry with its transaction_id is kept for the card    kept, weighs 0
late       t < newest - allowed_lateness                             kept, weighs 0
in time    everything else                                           kept, weighs 1
```
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from app.ops.reference_state import (
    DAY_MS,
    HABITS,
    HABITS_MS,
    HIGH_MS,
    HISTORY,
    HISTORY_MS,
    KeyHistory,
    ReferenceOutcome,
    ReferenceResult,
    ReferenceRules,
    inexact,
)  # fmt: skip

__all__ = [
    "CardReference", "KeyHistory", "ReferenceOutcome", "ReferenceResult", "ReferenceRules", "TerminalReference",
    "WaitingLabel", "in_share", "inexact", "murmur2", "murmur2_partition",
]  # fmt: skip

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CardReference:
    """Card features of the records of `transactions`, given in offset order of each partition."""

    def __init__(self, rules: ReferenceRules) -> None:
        self.rules = rules
        self.cards: dict[str, KeyHistory] = {}
        self._zone = ZoneInfo(rules.timezone)

    def apply(
        self,
        card_id: str,
        transaction_id: str,
        t_ms: int,
        minor: int,
        record: Mapping[str, Any] | None = None,
    ) -> ReferenceResult:
        """Decide about one valid transaction in its right partition, and keep what has to be kept."""
        rules = self.rules
        said = rules.said(record or {})
        card = self.cards.setdefault(card_id, KeyHistory())
        same_id = card.same_id(transaction_id, t_ms - rules.horizon_ms)
        if (t_ms, minor) in same_id:
            return ReferenceResult(ReferenceOutcome.DUPLICATE)
        conflicting = bool(same_id)
        late = card.newest_ms is not None and t_ms < card.newest_ms - rules.allowed_lateness_ms
        out_of_order = card.newest_ms is not None and t_ms < card.newest_ms
        features = self._features(card, t_ms, minor, said)
        flags = self._inexact(card, t_ms)
        became = (
            ReferenceOutcome.CONFLICTING
            if conflicting
            else ReferenceOutcome.LATE
            if late
            else ReferenceOutcome.SCORED
        )
        flags += (
            [became.value]
            if became is not ReferenceOutcome.SCORED
            else ["out_of_order"] * out_of_order
        )
        if features.get("amount_over_card_median", 0.0) > 2:
            flags.append("high_amount")
        weight = 1 if became is ReferenceOutcome.SCORED else 0
        card.add(t_ms, minor, weight, transaction_id, conflicting=conflicting, own=said)
        card.forget(rules.horizon_ms, rules.max_entries)
        return ReferenceResult(became, features, tuple(flags))

    def erase(self, card_id: str) -> None:
        """Forget a card: its next transaction is its first."""
        self.cards.pop(card_id, None)

    def _features(
        self, card: KeyHistory, t_ms: int, minor: int, said: Mapping[str, Any]
    ) -> dict[str, float]:
        rules = self.rules
        unit = 10**rules.digits
        longest_ms = rules.windows_ms[-1]
        local = (_EPOCH + timedelta(milliseconds=t_ms)).astimezone(self._zone)
        last_ms = card.last_before(t_ms)
        since_ms = longest_ms if last_ms is None else min(t_ms - last_ms, longest_ms)
        features = {
            "amount": minor / unit,
            "is_weekend": float(local.weekday() >= 5),
            "is_night": float(local.hour <= 6),
            "seconds_since_last": since_ms / 1000,
        }
        for label, window_ms in rules.card_windows:
            # the transaction itself is always in its window
            count = card.count(t_ms, window_ms) + 1
            total = card.total(t_ms, window_ms) + minor
            features[f"card_count_{label}"] = float(count)
            features[f"card_avg_amount_{label}"] = total / (count * unit)
            features[f"card_total_amount_{label}"] = total / unit
            features[f"amount_over_card_avg_{label}"] = minor * count / total if total else 1.0
            if not rules.looks_at_amounts:
                continue
            amounts = [*card.amounts(t_ms, window_ms), minor]
            features[f"card_min_amount_{label}"] = min(amounts) / unit
            features[f"card_max_amount_{label}"] = max(amounts) / unit
            small = [amount for amount in amounts if amount <= 5 * unit]
            features[f"card_small_count_{label}"] = float(len(small))
        if rules.has_habits:
            features |= self._habits(card, t_ms, minor)
        features |= rules.own_values("card", card, t_ms, said)
        return {name: features[name] for name in rules.names if name in features}

    def _habits(self, card: KeyHistory, t_ms: int, minor: int) -> dict[str, float]:
        """The amount beside the last ones of its card."""
        places = card.last(t_ms, HABITS_MS, HABITS)
        amounts = [card.minors[place] for place in places]
        ratio, deviation, high = 1.0, 0.0, 0
        if amounts:
            middle = sorted(amounts)[(len(amounts) - 1) // 2 : len(amounts) // 2 + 1]
            lower, upper = middle[0], middle[-1]
            if lower + upper:
                ratio = minor * 2 / (lower + upper)
            # everything times the number of amounts, and their variance by its square: integers
            size, total = len(amounts), sum(amounts)
            variance = sum((amount * size - total) ** 2 for amount in amounts) // size
            if variance:
                deviation = (minor * size - total) / math.sqrt(variance)
            high = sum(
                1
                for place in places
                if 2 * card.minors[place] > 3 * (lower + upper)
                and card.times[place] > t_ms - HIGH_MS
            )
        return {
            "amount_over_card_median": ratio,
            "amount_deviation": deviation,
            "card_high_count_14d": float(high),
            "amount_over_card_median_max_6": min(ratio, 6.0),
            "amount_is_high": float(ratio > 2),
            "amount_is_very_high": float(ratio > 3),
            "amount_is_high_again": float(high if ratio > 3 else 0),
        }

    def _inexact(self, card: KeyHistory, t_ms: int) -> list[str]:
        flags = inexact(card, "card", t_ms, self.rules.card_windows)
        if self.rules.has_habits and not card.exact_last(t_ms, HABITS_MS, HABITS):
            flags.append(f"inexact:card_last_{HABITS}")
        return flags


class WaitingLabel(NamedTuple):
    """A label whose transaction has not come yet."""

    transaction_id: str
    t_ms: int
    is_fraud: bool
    labelled_at_ms: int
    received_at_ms: int
    source: tuple[str, int, int]
    card_id: str | None = None  # as the label itself says


class TerminalReference:
    """Terminal features of the items of `enriched`, given in the order in which they stand there.

    Attributes:
        terminals: what is kept of each.
        waiting: by terminal, its labels whose transactions have not come.
        given_up: sources of labels that waited in vain.
    """

    def __init__(self, rules: ReferenceRules) -> None:
        self.rules = rules
        self.terminals: dict[str, KeyHistory] = {}
        self.waiting: dict[str, list[WaitingLabel]] = {}
        self.given_up: set[tuple[str, int, int]] = set()
        self._seen: dict[tuple[int, str, int], int] = {}

    def is_replay(self, partition: int, source: tuple[str, int, int]) -> bool:
        """Whether an item is a repetition: its source offset, or a later one, was seen here before.

        Args:
            partition: partition of `enriched`.
            source: topic, partition and offset of the transaction.
        """
        topic, source_partition, offset = source
        key = (partition, topic, source_partition)
        if offset <= self._seen.get(key, -1):
            return True
        self._seen[key] = offset
        return False

    def label(self, terminal_id: str | None, label: WaitingLabel) -> None:
        """Apply a label that is no replay; its transaction may be there, have left, or not have come yet."""
        if terminal_id is None:
            return
        terminal = self.terminals.setdefault(terminal_id, KeyHistory())
        index = terminal.find(label.transaction_id, label.t_ms)
        if index is not None:
            terminal.label(index, label.is_fraud, label.labelled_at_ms)
        elif terminal.floor_ms is None or label.t_ms > terminal.floor_ms:
            self._keep(self.waiting.setdefault(terminal_id, []), label)
        self._give_up(terminal_id, label.received_at_ms)

    def _keep(self, waiting: list[WaitingLabel], label: WaitingLabel) -> None:
        """One label of each transaction waits: the one that will hold."""
        for index, other in enumerate(waiting):
            if (other.transaction_id, other.t_ms) == (label.transaction_id, label.t_ms):
                if label.labelled_at_ms >= other.labelled_at_ms:
                    waiting[index] = label
                return
        waiting.append(label)

    def _give_up(self, terminal_id: str, now_ms: int) -> None:
        """Labels that waited too long go, and the first ones of those that are too many."""
        waiting = self.waiting.get(terminal_id, [])
        too_many = waiting[: max(0, len(waiting) - self.rules.max_waiting)]
        for label in list(waiting):
            if label in too_many or now_ms - label.received_at_ms > self.rules.label_wait_ms:
                waiting.remove(label)
                self.given_up.add(label.source)

    def erase(self, card_id: str, terminals: Callable[[str], bool] = lambda _: True) -> None:
        """Labels that name a card wait no more, at some terminals."""
        for terminal_id, waiting in self.waiting.items():
            if terminals(terminal_id):
                waiting[:] = [label for label in waiting if label.card_id != card_id]

    def _meet(self, terminal_id: str, transaction_id: str, t_ms: int) -> None:
        """A transaction has come for which a label may have waited."""
        waiting = self.waiting.get(terminal_id, [])
        for label in list(waiting):
            if (label.transaction_id, label.t_ms) == (transaction_id, t_ms):
                waiting.remove(label)
                terminal = self.terminals[terminal_id]
                index = terminal.find(transaction_id, t_ms)
                if index is not None:
                    terminal.label(index, label.is_fraud, label.labelled_at_ms)

    def apply(
        self,
        terminal_id: str | None,
        t_ms: int,
        weight: int,
        transaction_id: str = "",
        received_at_ms: int = 0,
        *,
        minor: int = 0,
        high: bool = False,
        conflicting: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> ReferenceResult:
        """Terminal features of one item that is no replay, and keep what has to be kept.

        Args:
            terminal_id: None when the transaction has no terminal: its counts are 0.
            t_ms: event time, epoch milliseconds.
            weight: 0 for an item that is late at its card, or conflicting, else 1.
            transaction_id: for its label.
            received_at_ms: when the broker appended the transaction, epoch milliseconds.
            minor: its amount in minor units.
            high: whether its card's stage found the amount high.
            conflicting: whether its id was that of another transaction of its card.
            record: the raw transaction.
        """
        rules = self.rules
        said = rules.said(record or {})
        if terminal_id is None:
            ours = {n for e in rules.own.features if e.of == "terminal" for n in e.columns}
            others = {n for e in rules.own.features for n in e.columns} - ours
            names = [n for n in rules.names if n in ours or n.startswith("terminal_")]
            names = [n for n in names if n not in others]
            return ReferenceResult(ReferenceOutcome.SCORED, dict.fromkeys(names, 0.0))
        terminal = self.terminals.setdefault(terminal_id, KeyHistory())
        self._give_up(terminal_id, received_at_ms)
        features = self._features(terminal, t_ms, minor, said)
        flags = self._inexact(terminal, t_ms)
        terminal.add(
            t_ms, minor, weight, transaction_id, high=high, conflicting=conflicting, own=said
        )
        terminal.forget(rules.terminal_horizon_ms, rules.max_entries)
        self._meet(terminal_id, transaction_id, t_ms)
        return ReferenceResult(ReferenceOutcome.SCORED, features, tuple(flags))

    def _features(
        self, terminal: KeyHistory, t_ms: int, minor: int, said: Mapping[str, Any]
    ) -> dict[str, float]:
        rules = self.rules
        unit = 10**rules.digits
        features = {}
        for label, window_ms in rules.terminal_windows:
            count = terminal.count(t_ms, window_ms) + 1
            total = terminal.total(t_ms, window_ms) + minor
            features[f"terminal_count_{label}"] = float(count)
            features[f"terminal_avg_amount_{label}"] = total / (count * unit)
            features[f"terminal_total_amount_{label}"] = total / unit
            if not rules.looks_at_amounts:
                continue
            amounts = [*terminal.amounts(t_ms, window_ms), minor]
            features[f"terminal_min_amount_{label}"] = min(amounts) / unit
            features[f"terminal_max_amount_{label}"] = max(amounts) / unit
        until_ms = t_ms - rules.label_delay_ms
        for label, window_ms in rules.risk_windows:
            number = terminal.count(until_ms, window_ms)
            frauds = terminal.frauds(until_ms, window_ms)
            features[f"terminal_delayed_count_{label}"] = float(number)
            features[f"terminal_risk_{label}"] = frauds / number if number else 0.0
        if rules.has_history:
            features |= self._history(terminal, t_ms, until_ms)
        features |= rules.own_values("terminal", terminal, t_ms, said)
        return {name: features[name] for name in rules.names if name in features}

    def _history(self, terminal: KeyHistory, t_ms: int, until_ms: int) -> dict[str, float]:
        """What is known of the last ones of the terminal whose labels count."""
        places = terminal.last(until_ms, HISTORY_MS, HISTORY)
        known = [place for place in places if terminal.labels[place] is not None]
        genuine = [place for place in known if not terminal.verdict(place)]
        streak = [place for place in known if not genuine or place > genuine[-1]]
        plain = [place for place in streak if not terminal.highs[place]]
        five = known[-5:]
        frauds = sum(1 for place in five if terminal.verdict(place))
        genuine_ms = terminal.times[genuine[-1]] if genuine else until_ms - HISTORY_MS
        return {
            "terminal_last_label": float(bool(known) and terminal.verdict(known[-1])),
            "terminal_fraud_share_last_5": frauds / len(five) if five else 0.0,
            "terminal_fraud_streak": float(len(streak)),
            "terminal_fraud_streak_age": (t_ms - terminal.times[streak[0]]) / DAY_MS
            if streak
            else 0.0,
            "terminal_plain_streak": float(len(plain)),
            "terminal_plain_streak_max_3": float(min(len(plain), 3)),
            "terminal_plain_streak_age": (t_ms - terminal.times[plain[0]]) / DAY_MS
            if plain
            else 0.0,
            "terminal_genuine_age": (t_ms - genuine_ms) / DAY_MS,
        }

    def _inexact(self, terminal: KeyHistory, t_ms: int) -> list[str]:
        rules = self.rules
        until_ms = t_ms - rules.label_delay_ms
        flags = inexact(terminal, "terminal", t_ms, rules.terminal_windows)
        flags += inexact(terminal, "terminal_risk", until_ms, rules.risk_windows)
        if rules.has_history and not terminal.exact_last(until_ms, HISTORY_MS, HISTORY):
            flags.append("inexact:terminal_labels")
        return flags


def in_share(card_id: str, model_hash: str, share: float) -> bool:
    """Whether a card is one of the canary's: its keyed hash, as a fraction of all hashes, is below the share."""
    key = model_hash.encode()[:64]
    place = hashlib.blake2b(card_id.encode(), key=key, digest_size=8).hexdigest()
    return Fraction(int(place, 16), 16**16) < Fraction(share)


def murmur2_partition(key: bytes, partitions: int) -> int:
    """The partition in which Kafka's Java partitioner puts a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 as Kafka computes it, written out from its definition; 32 bits, unsigned."""
    mask, multiplier, shift = 0xFFFFFFFF, 0x5BD1E995, 24
    value = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * multiplier & mask
        word = (word ^ word >> shift) * multiplier & mask
        value = value * multiplier & mask ^ word
    rest = data[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * multiplier & mask
    value = (value ^ value >> 13) * multiplier & mask
    return value ^ value >> 15
