"""What the oracle keeps and by which rules: plain lists, scanned anew each time; see `app/ops/reference.py`."""

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from app.domain.features.feature_sets import set_names
from app.domain.features.own_features import NOTHING, OwnCatalogue

DAY_MS = 24 * 60 * 60 * 1000
#: A card's habits are those of its last 20 transactions, no older than 30 days; high ones are counted in 14.
HABITS, HABITS_MS, HIGH_MS = 20, 30 * DAY_MS, 14 * DAY_MS
#: A terminal's history is that of its last 32 transactions, 30 days and the label delay old at most.
HISTORY, HISTORY_MS = 32, 30 * DAY_MS


class ReferenceOutcome(StrEnum):
    """What a source record becomes: exactly one of these."""

    DEAD = "dead"
    MOVED = "moved"
    DUPLICATE = "duplicate"
    CONFLICTING = "conflicting"
    LATE = "late"
    SCORED = "scored"


@dataclass
class KeyHistory:
    """What is kept of one card or one terminal: parallel lists, sorted by event time.

    Entries of equal time stand in the order of their arrival.

    Attributes:
        times: event times, epoch milliseconds.
        minors: amounts in minor units.
        weights: 1 for an entry that counts for others, 0 for a late or conflicting one.
        conflicting: whether the id was that of another transaction.
        ids: transaction ids.
        highs: whether an amount was high for its card.
        own: what each says in the deployment's own fields.
        labels: what is known of each afterwards: fraud, and when it was labelled (epoch ms); or None.
        newest_ms: newest event time ever seen, of conflicting ones apart; None before the first.
        floor_ms: newest event time that ever left, None while nothing has.
    """

    times: list[int] = field(default_factory=list)
    minors: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    conflicting: list[bool] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    highs: list[bool] = field(default_factory=list)
    own: list[Mapping[str, Any]] = field(default_factory=list)
    labels: list[tuple[bool, int] | None] = field(default_factory=list)
    newest_ms: int | None = None
    floor_ms: int | None = None

    def within(self, t_ms: int, window_ms: int) -> slice:
        """Where the entries in `(t - window, t]` stand."""
        return slice(bisect_right(self.times, t_ms - window_ms), bisect_right(self.times, t_ms))

    def count(self, t_ms: int, window_ms: int) -> int:
        """How many entries count in `(t - window, t]`."""
        return sum(self.weights[self.within(t_ms, window_ms)])

    def frauds(self, t_ms: int, window_ms: int) -> int:
        """How many entries in `(t - window, t]` count and are known to be fraud."""
        within = self.within(t_ms, window_ms)
        pairs = zip(self.weights[within], self.labels[within], strict=True)
        return sum(1 for weight, label in pairs if weight and label and label[0])

    def total(self, t_ms: int, window_ms: int) -> int:
        """Minor units of the entries that count in `(t - window, t]`."""
        within = self.within(t_ms, window_ms)
        return sum(
            minor * weight
            for minor, weight in zip(self.minors[within], self.weights[within], strict=True)
        )

    def amounts(self, t_ms: int, window_ms: int) -> list[int]:
        """Minor units of each entry that counts in `(t - window, t]`."""
        within = self.within(t_ms, window_ms)
        pairs = zip(self.minors[within], self.weights[within], strict=True)
        return [minor for minor, weight in pairs if weight]

    def values(self, name: str, t_ms: int, window_ms: int) -> list[Any]:
        """What each entry that counts in `(t - window, t]` says in an own field."""
        within = self.within(t_ms, window_ms)
        pairs = zip(self.own[within], self.weights[within], strict=True)
        return [said[name] for said, weight in pairs if weight]

    def exact(self, t_ms: int, window_ms: int) -> bool:
        """Whether nothing that ever left can have been in `(t - window, t]`."""
        return self.floor_ms is None or t_ms - window_ms >= self.floor_ms

    def last(self, t_ms: int, window_ms: int, number: int) -> list[int]:
        """Where the last entries in `(t - window, t]` stand, oldest first: of `number`, those that count.

        Late ones are among the `number`, conflicting ones are not.
        """
        within = self.within(t_ms, window_ms)
        places = range(within.start, within.stop)
        last = [place for place in places if not self.conflicting[place]][-number:]
        return [place for place in last if self.weights[place]]

    def exact_last(self, t_ms: int, window_ms: int, number: int) -> bool:
        """Whether nothing that ever left can have been among them: `number` are newer, or all are older."""
        floor_ms = self.floor_ms
        if floor_ms is None or t_ms - window_ms >= floor_ms:
            return True
        newer = [place for place, at in enumerate(self.times) if floor_ms < at <= t_ms]
        return sum(1 for place in newer if not self.conflicting[place]) >= number

    def last_before(self, t_ms: int) -> int | None:
        """Event time of the newest entry at or before t that counts, None without one."""
        for index in range(bisect_right(self.times, t_ms) - 1, -1, -1):
            if self.weights[index]:
                return self.times[index]
        return None

    def same_id(self, transaction_id: str, after_ms: int) -> list[tuple[int, int]]:
        """Event time and minor units of the entries newer than a moment that have this id."""
        every = zip(self.ids, self.times, self.minors, strict=True)
        return [
            (at, minor) for name, at, minor in every if name == transaction_id and at > after_ms
        ]

    def add(
        self,
        t_ms: int,
        minor: int,
        weight: int,
        transaction_id: str,
        *,
        high: bool = False,
        conflicting: bool = False,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        """Put an entry in its place, after those of equal time."""
        place = bisect_right(self.times, t_ms)
        self.times.insert(place, t_ms)
        self.minors.insert(place, minor)
        self.weights.insert(place, weight)
        self.conflicting.insert(place, conflicting)
        self.ids.insert(place, transaction_id)
        self.highs.insert(place, high)
        self.own.insert(place, own or {})
        self.labels.insert(place, None)
        if not conflicting:
            self.newest_ms = t_ms if self.newest_ms is None else max(self.newest_ms, t_ms)

    def verdict(self, place: int) -> bool:
        """Whether an entry counts and is known to be fraud."""
        label = self.labels[place]
        return self.weights[place] == 1 and label is not None and label[0]

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
        gone = len(self.times) - max_entries
        if self.newest_ms is not None:
            gone = max(gone, bisect_right(self.times, self.newest_ms - horizon_ms))
        if gone > 0:
            left = self.times[gone - 1]
            self.floor_ms = left if self.floor_ms is None else max(self.floor_ms, left)
            for column in (
                self.times,
                self.minors,
                self.weights,
                self.conflicting,
                self.ids,
                self.highs,
                self.own,
                self.labels,
            ):
                del column[:gone]


@dataclass(frozen=True)
class ReferenceRules:
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
        features: names of the features that are computed; none: those of the set `basic`.
        own: what the deployment's own file declares.
    """

    windows_ms: tuple[int, ...]
    allowed_lateness_ms: int
    max_entries: int
    digits: int = 2
    timezone: str = "UTC"
    label_delay_ms: int = 0
    label_wait_ms: int = 0
    max_waiting: int = 64
    features: tuple[str, ...] = ()
    own: OwnCatalogue = NOTHING

    def said(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What a raw transaction says in the deployment's own fields."""
        said = {each.name: record.get(each.name) for each in self.own.fields}
        default = {each.name: each.default for each in self.own.fields}
        return {name: default[name] if value is None else value for name, value in said.items()}

    def own_values(
        self, stage: str, history: KeyHistory, t_ms: int, said: Mapping[str, Any]
    ) -> dict[str, float]:
        """The deployment's own features of a transaction at `t_ms` that says this."""
        found = {}
        for each in self.own.features:
            if each.of != stage:
                continue
            mine = said[each.field]
            for window in each.windows:
                values = [*history.values(each.field, t_ms, _window_ms(window)), mine]
                wanted = mine if each.equals is None else each.equals
                same = sum(1 for value in values if value == wanted)
                found[f"{each.name}_{window}"] = {
                    "distinct": float(len({repr(value) for value in values})),
                    "share": same / len(values),
                    "count": float(same),
                }[each.compute]
        return found

    def _own_windows(self, stage: str) -> tuple[str, ...]:
        return tuple(each.name for each in self.own.features if each.of == stage)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features that are computed."""
        return self.features or set_names("basic", self.windows_ms)

    def windows_of(self, *families: str) -> list[tuple[str, int]]:
        """Windows of the features whose names begin like this: their names (`1h`, `30d`) and milliseconds."""
        found: dict[int, str] = {}
        for name in self.names:
            for family in families:
                window = name.removeprefix(f"{family}_")
                if window != name and window[:1].isdigit():
                    found[_window_ms(window)] = window
        return [(found[window_ms], window_ms) for window_ms in sorted(found)]

    @cached_property
    def card_windows(self) -> list[tuple[str, int]]:
        """Windows over a card's transactions."""
        return self.windows_of(
            "card_count",
            "card_avg_amount",
            "card_total_amount",
            "card_min_amount",
            "card_max_amount",
            "card_small_count",
            "amount_over_card_avg",
            *self._own_windows("card"),
        )

    @cached_property
    def terminal_windows(self) -> list[tuple[str, int]]:
        """Windows over a terminal's transactions."""
        return self.windows_of(
            "terminal_count",
            "terminal_avg_amount",
            "terminal_total_amount",
            "terminal_min_amount",
            "terminal_max_amount",
            *self._own_windows("terminal"),
        )

    @cached_property
    def risk_windows(self) -> list[tuple[str, int]]:
        """Windows behind the label delay."""
        return self.windows_of("terminal_delayed_count", "terminal_risk")

    @cached_property
    def looks_at_amounts(self) -> bool:
        """Whether single amounts within a window are looked at."""
        words = ("_min_amount_", "_max_amount_", "_small_count_")
        return any(word in name for name in self.names for word in words)

    @cached_property
    def has_habits(self) -> bool:
        """Whether a card's last transactions are looked at."""
        return not {
            "amount_over_card_median",
            "amount_deviation",
            "card_high_count_14d",
            "amount_over_card_median_max_6",
            "amount_is_high",
            "amount_is_very_high",
            "amount_is_high_again",
        }.isdisjoint(self.names)

    @cached_property
    def has_history(self) -> bool:
        """Whether a terminal's last labels are looked at."""
        return any(
            name.startswith(
                (
                    "terminal_last_label",
                    "terminal_fraud_s",
                    "terminal_plain",
                    "terminal_genuine_age",
                )
            )
            for name in self.names
        )

    @cached_property
    def horizon_ms(self) -> int:
        """How far behind its key's newest event time an entry is kept, milliseconds."""
        reach = [self.windows_ms[-1], *(window_ms for _, window_ms in self.card_windows)]
        return max(reach + [HABITS_MS] * self.has_habits) + self.allowed_lateness_ms

    @cached_property
    def terminal_horizon_ms(self) -> int:
        """The same at a terminal, which looks further back: behind the label delay."""
        delay = self.label_delay_ms
        reach = [
            self.windows_ms[-1] + delay,
            *(window_ms for _, window_ms in self.terminal_windows),
        ]
        reach += [delay + window_ms for _, window_ms in self.risk_windows]
        return max(reach + [delay + HISTORY_MS] * self.has_history) + self.allowed_lateness_ms


@dataclass(frozen=True)
class ReferenceResult:
    """What one record became, with its features when it was scored.

    Attributes:
        became: the record's fate.
        features: values by name; empty unless scored or late.
        flags: `inexact:<stage>_<window>` in rising order of windows, then `late` or `out_of_order`,
            then `high_amount`.
    """

    became: ReferenceOutcome
    features: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def _window_ms(name: str) -> int:
    """`30d` in milliseconds."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", name).groups()  # type: ignore[union-attr]
    return int(number) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}[unit]


def inexact(
    history: KeyHistory, stage: str, t_ms: int, windows: list[tuple[str, int]]
) -> list[str]:
    """Flags of the windows that something may have left, in rising order of windows."""
    if history.floor_ms is None:
        return []
    return [
        f"inexact:{stage}_{label}"
        for label, window_ms in windows
        if not history.exact(t_ms, window_ms)
    ]
