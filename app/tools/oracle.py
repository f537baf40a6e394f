"""The oracle: one slow and obvious evaluator of every feature and of what each record becomes.

`fraudstream verify` and the tests compare the stream with it, and nothing else uses it. It shares the
catalogue's names and the record types with the stream, and no line of its arithmetic: a fault in the
window rows, the segments or the blocks cannot hide here as well. Everything below is a plain list per
card or terminal, scanned anew for each record.

The rules, in the order in which a record meets them (see `docs/architecture.md`):

```text
dead       it cannot become a transaction                            nothing is kept
moved      its card belongs to another partition                     nothing is kept
duplicate  an entry with its transaction_id is kept for the card     nothing is kept
late       t < newest - allowed_lateness                             kept, weighs 0
in time    everything else                                           kept, weighs 1
```
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo

from app.domain.features import window_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Became(StrEnum):
    """What a source record becomes: exactly one of these."""

    DEAD = "dead"
    MOVED = "moved"
    DUPLICATE = "duplicate"
    LATE = "late"
    SCORED = "scored"


@dataclass
class History:
    """What is kept of one card or one terminal: parallel lists, sorted by event time.

    Entries of equal time stand in the order of their arrival.

    Attributes:
        times: event times, epoch milliseconds.
        minors: amounts in minor units; 0 where the entry weighs 0.
        weights: 1 for an entry that counts for others, 0 for a late one.
        ids: transaction ids.
        labels: what is known of each afterwards: fraud, and when it was labelled (epoch ms); or None.
        newest_ms: newest event time ever seen, None before the first.
        floor_ms: newest event time that ever left, None while nothing has.
    """

    times: list[int] = field(default_factory=list)
    minors: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[tuple[bool, int] | None] = field(default_factory=list)
    newest_ms: int | None = None
    floor_ms: int | None = None

    def within(self, t_ms: int, window_ms: int) -> slice:
        """Where the entries in `(t - window, t]` stand."""
        return slice(bisect_right(self.times, t_ms - window_ms), bisect_right(self.times, t_ms))

    def count(self, t_ms: int, window_ms: int) -> int:
        """How many entries count in `(t - window, t]`."""
        return sum(self.weights[self.within(t_ms, window_ms)])

    def total(self, t_ms: int, window_ms: int) -> int:
        """Minor units of the entries that count in `(t - window, t]`."""
        return sum(self.minors[self.within(t_ms, window_ms)])

    def exact(self, t_ms: int, window_ms: int) -> bool:
        """Whether nothing that ever left can have been in `(t - window, t]`."""
        return self.floor_ms is None or t_ms - window_ms >= self.floor_ms

    def last_before(self, t_ms: int) -> int | None:
        """Event time of the newest entry at or before t that counts, None without one."""
        for index in range(bisect_right(self.times, t_ms) - 1, -1, -1):
            if self.weights[index]:
                return self.times[index]
        return None

    def add(self, t_ms: int, minor: int, weight: int, transaction_id: str) -> None:
        """Put an entry in its place, after those of equal time."""
        place = bisect_right(self.times, t_ms)
        self.times.insert(place, t_ms)
        self.minors.insert(place, minor * weight)
        self.weights.insert(place, weight)
        self.ids.insert(place, transaction_id)
        self.labels.insert(place, None)
        self.newest_ms = t_ms if self.newest_ms is None else max(self.newest_ms, t_ms)

    def find(self, transaction_id: str, t_ms: int) -> int | None:
        """Where a transaction stands, None when it is not kept."""
        for index, name in enumerate(self.ids):
            if name == transaction_id and self.times[index] == t_ms:
                return index
        return None

    def label(self, index: int, is_fraud: bool, labelled_at_ms: int) -> None:
        """The latest label holds; of equal ones the one that comes last."""
        known = self.labels[index]
        if known is None or labelled_at_ms >= known[1]:
            self.labels[index] = (is_fraud, labelled_at_ms)

    def forget(self, horizon_ms: int, max_entries: int) -> None:
        """Let go what is older than the horizon, then the oldest beyond the cap."""
        if self.newest_ms is None:
            return
        gone = bisect_right(self.times, self.newest_ms - horizon_ms)
        gone = max(gone, len(self.times) - max_entries)
        if gone:
            left = self.times[gone - 1]
            self.floor_ms = left if self.floor_ms is None else max(self.floor_ms, left)
            for column in (self.times, self.minors, self.weights, self.ids, self.labels):
                del column[:gone]


@dataclass(frozen=True)
class Rules:
    """The settings that decide a feature; see `app.settings.Settings` for their meaning.

    Attributes:
        windows_ms: window lengths in rising order, milliseconds.
        allowed_lateness_ms: a record this far behind its card's newest is still in time.
        max_entries: entries kept for a card or a terminal.
        digits: minor-unit digits of the currency.
        timezone: name of the zone in which weekend and night are decided.
        label_delay_ms: age from which a transaction's label counts.
        label_wait_ms: how long a label waits for its transaction.
        max_waiting: labels that wait at one terminal.
    """

    windows_ms: tuple[int, ...]
    allowed_lateness_ms: int
    max_entries: int
    digits: int = 2
    timezone: str = "UTC"
    label_delay_ms: int = 0
    label_wait_ms: int = 0
    max_waiting: int = 64

    @cached_property
    def windows(self) -> list[tuple[str, int]]:
        """Each window's name as features spell it (`1h`, `30d`), and its length in milliseconds."""
        return [(window_name(window_ms), window_ms) for window_ms in self.windows_ms]

    @property
    def horizon_ms(self) -> int:
        """How far behind its key's newest event time an entry is kept, milliseconds."""
        return self.windows_ms[-1] + self.allowed_lateness_ms

    @property
    def terminal_horizon_ms(self) -> int:
        """The same at a terminal, which looks further back: behind the label delay."""
        return self.horizon_ms + self.label_delay_ms


@dataclass(frozen=True)
class Verdict:
    """What one record became, with its features when it was scored.

    Attributes:
        became: the record's fate.
        features: values by name; empty unless scored or late.
        flags: `inexact:<stage>_<window>` in rising order of windows, then `late` or `out_of_order`.
    """

    became: Became
    features: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


class CardOracle:
    """Card features of the records of `transactions`, given in offset order of each partition."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.cards: dict[str, History] = {}
        self._zone = ZoneInfo(rules.timezone)

    def apply(self, card_id: str, transaction_id: str, t_ms: int, minor: int) -> Verdict:
        """Decide about one valid transaction in its right partition, and keep what has to be kept."""
        rules = self.rules
        card = self.cards.setdefault(card_id, History())
        if transaction_id in card.ids:
            return Verdict(Became.DUPLICATE)
        late = card.newest_ms is not None and t_ms < card.newest_ms - rules.allowed_lateness_ms
        out_of_order = card.newest_ms is not None and t_ms < card.newest_ms
        features = self._features(card, t_ms, minor)
        flags = inexact(card, "card", t_ms, rules)
        flags += ["late"] if late else ["out_of_order"] if out_of_order else []
        card.add(t_ms, minor, 0 if late else 1, transaction_id)
        card.forget(rules.horizon_ms, rules.max_entries)
        return Verdict(Became.LATE if late else Became.SCORED, features, tuple(flags))

    def _features(self, card: History, t_ms: int, minor: int) -> dict[str, float]:
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
        count, total = 0, 0
        for label, window_ms in rules.windows:
            # the transaction itself is always in its window
            count = card.count(t_ms, window_ms) + 1
            total = card.total(t_ms, window_ms) + minor
            features[f"card_count_{label}"] = float(count)
            features[f"card_avg_amount_{label}"] = total / (count * unit)
        # count and total are now those of the longest window
        features[f"amount_over_card_avg_{label}"] = minor * count / total if total else 1.0
        return features


class Waits(NamedTuple):
    """A label whose transaction has not come yet."""

    transaction_id: str
    t_ms: int
    is_fraud: bool
    labelled_at_ms: int
    received_at_ms: int
    source: tuple[str, int, int]


class TerminalOracle:
    """Terminal features of the items of `enriched`, given in the order in which they stand there.

    Attributes:
        terminals: what is kept of each.
        waiting: by terminal, its labels whose transactions have not come.
        given_up: sources of labels that waited in vain.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.terminals: dict[str, History] = {}
        self.waiting: dict[str, list[Waits]] = {}
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

    def label(self, terminal_id: str | None, label: Waits) -> None:
        """Apply a label that is no replay; its transaction may be there, have left, or not have come yet."""
        if terminal_id is None:
            return
        terminal = self.terminals.setdefault(terminal_id, History())
        index = terminal.find(label.transaction_id, label.t_ms)
        if index is not None:
            terminal.label(index, label.is_fraud, label.labelled_at_ms)
        elif terminal.floor_ms is None or label.t_ms > terminal.floor_ms:
            self._keep(self.waiting.setdefault(terminal_id, []), label)
        self._give_up(terminal_id, label.received_at_ms)

    def _keep(self, waiting: list[Waits], label: Waits) -> None:
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
    ) -> Verdict:
        """Terminal features of one item that is no replay, and keep what has to be kept.

        Args:
            terminal_id: None when the transaction has no terminal: its counts are 0.
            t_ms: event time, epoch milliseconds.
            weight: 0 for an item that is late at its card, else 1.
            transaction_id: for its label.
            received_at_ms: when the broker appended the transaction, epoch milliseconds.
        """
        rules = self.rules
        if terminal_id is None:
            return Verdict(
                Became.SCORED, {f"terminal_count_{label}": 0.0 for label, _ in rules.windows}
            )
        terminal = self.terminals.setdefault(terminal_id, History())
        self._give_up(terminal_id, received_at_ms)
        features = {
            f"terminal_count_{label}": float(terminal.count(t_ms, window_ms) + 1)
            for label, window_ms in rules.windows
        }
        flags = inexact(terminal, "terminal", t_ms, rules)
        terminal.add(t_ms, 0, weight, transaction_id)
        terminal.forget(rules.terminal_horizon_ms, rules.max_entries)
        self._meet(terminal_id, transaction_id, t_ms)
        return Verdict(Became.SCORED, features, tuple(flags))


def inexact(history: History, stage: str, t_ms: int, rules: Rules) -> list[str]:
    """Flags of the windows that something may have left, in rising order of windows."""
    if history.floor_ms is None:
        return []
    return [
        f"inexact:{stage}_{label}"
        for label, window_ms in rules.windows
        if not history.exact(t_ms, window_ms)
    ]


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
