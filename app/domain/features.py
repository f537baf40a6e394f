"""The features of a deployment, computed: `app/domain/feature_sets.py` says what each is.

`t` is the transaction's event time. Counts and totals are exact integers in minor units and a feature is
one division of two integers, so it is equal to the bit wherever it is computed.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter, mul
from zoneinfo import ZoneInfo

from app.domain.entries import KNOWN_FRAUD
from app.domain.feature_sets import (
    DAY_MS,
    HIGH_MS,
    HIGH_RATIO,
    LABEL_ENTRIES,
    LABEL_MS,
    MOST_MEDIANS,
    MOST_PLAIN,
    PROFILE_ENTRIES,
    PROFILE_MS,
    SHARE_LABELS,
    VERY_HIGH_RATIO,
    Feature,
    in_order,
    set_names,
    set_schema,
    window_name,
)
from app.domain.last_entries import has_last, last_amounts, last_labels
from app.domain.window_row import WindowRow

__all__ = ["Catalogue", "Feature", "window_name"]

_EPOCH_UTC = ZoneInfo("UTC")
_BASE = ("amount", "is_weekend", "is_night", "seconds_since_last")
_RATIO = "amount_over_card_median"
_HABITS = (
    _RATIO,
    "amount_deviation",
    f"card_high_count_{window_name(HIGH_MS)}",
    f"{_RATIO}_max_{MOST_MEDIANS}",
    "amount_is_high",
    "amount_is_very_high",
    "amount_is_high_again",
)
_HISTORY = (
    "terminal_last_label",
    f"terminal_fraud_share_last_{SHARE_LABELS}",
    "terminal_fraud_streak",
    "terminal_fraud_streak_age",
    "terminal_plain_streak",
    f"terminal_plain_streak_max_{MOST_PLAIN}",
    "terminal_plain_streak_age",
    "terminal_genuine_age",
)


class Catalogue:
    """The features of one deployment: the union of some sets, in the order in which they are computed.

    Args:
        windows_ms: the deployment's windows, milliseconds, rising.
        minor_unit_digits: digits after the decimal point in its currency.
        timezone: where weekend and night are.
        sets: names of feature sets.
        label_delay_ms: age from which a transaction's label counts.

    Raises:
        SettingsError: there is no such set.

    Attributes:
        windows: the deployment's windows.
        features: every feature, in order: the card's, then the terminal's.
        names: their names.
        schema: names the sets and what decides their meaning, joined by `+`; a model's manifest repeats it,
            or the part that it needs.
        flags: by stage, the flags that say which features may miss what has left the state.
        card_reach_ms, terminal_reach_ms: how far back they look.
    """

    def __init__(
        self,
        windows_ms: tuple[int, ...],
        minor_unit_digits: int,
        timezone: str,
        sets: Sequence[str] = ("basic",),
        label_delay_ms: int = 0,
    ) -> None:
        self.windows = windows_ms
        self._minor = 10**minor_unit_digits
        self._zone = ZoneInfo(timezone)
        self._calendar = lru_cache(maxsize=1 << 16)(self._calendar_of)
        self._longest, self._delay = windows_ms[-1], label_delay_ms
        names = {name for each in sets for name in set_names(each, windows_ms)}
        self.features = in_order(names, window_name(windows_ms[-1]))
        self.names = tuple(feature.name for feature in self.features)
        self.schema = "+".join(set_schema(each, windows_ms, label_delay_ms) for each in sets)
        self._plan_card()
        self._plan_terminal()
        self._no_terminal = [0.0] * sum(each.stage == "terminal" for each in self.features)

    def _plan_card(self) -> None:
        self._card_windows = self._windows("card_count", "card_avg_amount", "amount_over_card_avg")
        ratios = self._windows("amount_over_card_avg")
        self._ratios = [self._card_windows.index(window) for window in ratios]
        self._ratio_of_last = self._ratios == [len(self._card_windows) - 1]
        self._has_habits = any(name in self.names for name in _HABITS)
        windows = [window_name(window) for window in self._card_windows]
        computed = [*_BASE]
        computed += [f"card_count_{window}" for window in windows]
        computed += [f"card_avg_amount_{window}" for window in windows]
        computed += [f"amount_over_card_avg_{window_name(window)}" for window in ratios]
        computed += _HABITS if self._has_habits else ()
        self._pick_card = self._picker(computed, "card")
        self._ratio_at = self.names.index(_RATIO) if _RATIO in self.names else None
        spans = [(f"inexact:card_{window_name(w)}", w) for w in self._card_windows]
        habits = [(f"inexact:card_last_{PROFILE_ENTRIES}", PROFILE_MS)] * self._has_habits
        self._spans = {"card": spans}
        self.flags = {"card": tuple(flag for flag, _ in spans + habits)}
        self.card_reach_ms = max((reach for _, reach in spans + habits), default=0)

    def _plan_terminal(self) -> None:
        delay = self._delay
        self._terminal_windows = self._windows("terminal_count")
        self._known_windows = self._windows("terminal_delayed_count", "terminal_risk")
        self._has_history = any(name in self.names for name in _HISTORY)
        known = [window_name(window) for window in self._known_windows]
        computed = [f"terminal_count_{window_name(window)}" for window in self._terminal_windows]
        computed += [f"terminal_delayed_count_{window}" for window in known]
        computed += [f"terminal_risk_{window}" for window in known]
        computed += _HISTORY if self._has_history else ()
        self._pick_terminal = self._picker(computed, "terminal")
        spans = [(f"inexact:terminal_{window_name(w)}", w) for w in self._terminal_windows]
        spans += [
            (f"inexact:terminal_risk_{window_name(w)}", delay + w) for w in self._known_windows
        ]
        history = [("inexact:terminal_labels", delay + LABEL_MS)] * self._has_history
        self._spans["terminal"] = spans
        self.flags["terminal"] = tuple(flag for flag, _ in spans + history)
        self.terminal_reach_ms = max((reach for _, reach in spans + history), default=0)

    def _windows(self, *families: str) -> tuple[int, ...]:
        found = {each.window_ms for each in self.features if each.family in families}
        return tuple(sorted(window for window in found if window is not None))

    def _picker(
        self, computed: list[str], stage: str
    ) -> Callable[[list[float]], tuple[float, ...]] | None:
        """Takes the features of a stage from what is computed; None when that is all of it."""
        wanted = [feature.name for feature in self.features if feature.stage == stage]
        if wanted == computed:
            return None
        # twice the last: itemgetter of a single index would give no tuple
        return itemgetter(*(computed.index(name) for name in [*wanted, wanted[-1]]))

    def card(self, row: WindowRow, event_time_ms: int, minor: int) -> list[float]:
        """The card's features of a transaction that is not in its row yet.

        Args:
            row: the card's state before this transaction.
            event_time_ms: its event time `t`.
            minor: its amount in minor units.

        Returns:
            The features of stage `card`, in catalogue order.
        """
        unit = self._minor
        weekend, night = self._calendar(event_time_ms // 60_000)
        longest = self._longest
        last = row.newest_counted(event_time_ms)
        gap = longest if last is None else min(event_time_ms - last, longest)
        counts: list[float] = []
        averages: list[float] = []
        found = row.windows(event_time_ms, self._card_windows)
        count = total = 0
        for before, sum_before in found:
            count, total = before + 1, sum_before + minor
            counts.append(float(count))
            averages.append(total / (count * unit))
        values = [minor / unit, weekend, night, gap / 1000, *counts, *averages]
        if self._ratio_of_last:  # nearly always: the loop has left it at hand
            values.append(minor * count / total if total else 1.0)
        else:
            for at in self._ratios:
                before, sum_before = found[at]
                total = sum_before + minor
                values.append(minor * (before + 1) / total if total else 1.0)
        if self._has_habits:
            values += _habits(row, event_time_ms, minor)
        pick = self._pick_card
        return values if pick is None else list(pick(values)[:-1])

    def terminal(self, row: WindowRow | None, event_time_ms: int) -> list[float]:
        """The terminal's features of a transaction that is not in its row yet.

        Args:
            row: the terminal's state before it; None for a transaction without a terminal.
            event_time_ms: its event time `t`.

        Returns:
            The features of stage `terminal`, in catalogue order: zeros without a terminal.
        """
        if row is None:
            return self._no_terminal[:]
        values = [
            float(count + 1) for count, _ in row.windows(event_time_ms, self._terminal_windows)
        ]
        if self._known_windows:
            known = row.known(event_time_ms - self._delay, self._known_windows)
            values += [float(number) for number, _ in known]
            values += [frauds / number if frauds else 0.0 for number, frauds in known]
        if self._has_history:
            values += self._history(row, event_time_ms)
        pick = self._pick_terminal
        return values if pick is None else list(pick(values)[:-1])

    def _history(self, row: WindowRow, t: int) -> list[float]:
        """What the newest known labels of the terminal say; see `_HISTORY`."""
        until = t - self._delay
        known, streak, first, genuine, plain, plain_first = last_labels(
            row, until - LABEL_MS, until, LABEL_ENTRIES
        )
        newest = known[-SHARE_LABELS:]
        frauds = newest.count(KNOWN_FRAUD)
        return [
            1.0 if streak else 0.0,
            frauds / len(newest) if frauds else 0.0,
            float(streak),
            0.0 if first is None else (t - first) / DAY_MS,
            float(plain),
            float(min(plain, MOST_PLAIN)),
            0.0 if plain_first is None else (t - plain_first) / DAY_MS,
            (t - (until - LABEL_MS if genuine is None else genuine)) / DAY_MS,
        ]

    def is_high(self, card_features: list[float]) -> bool:
        """Whether these features of a transaction say that its amount is high for its card.

        Known only where a set has `amount_over_card_median`.
        """
        at = self._ratio_at
        return at is not None and card_features[at] > HIGH_RATIO

    def inexact(self, stage: str, row: WindowRow, event_time_ms: int) -> list[str]:
        """A flag for each window of which a part has left the row already (in the order of `flags`)."""
        floor = row.floor_ms
        reach = self.card_reach_ms if stage == "card" else self.terminal_reach_ms
        if event_time_ms - reach >= floor:
            return []
        flags = [flag for flag, span in self._spans[stage] if event_time_ms - span < floor]
        if stage == "card":
            if self._has_habits and not has_last(
                row, event_time_ms - PROFILE_MS, event_time_ms, PROFILE_ENTRIES
            ):
                flags.append(self.flags[stage][-1])
        elif self._has_history:
            until = event_time_ms - self._delay
            if not has_last(row, until - LABEL_MS, until, LABEL_ENTRIES):
                flags.append(self.flags[stage][-1])
        return flags

    def _calendar_of(self, minute: int) -> tuple[float, float]:
        moment = datetime(1970, 1, 1, tzinfo=_EPOCH_UTC) + timedelta(minutes=minute)
        local = moment.astimezone(self._zone)
        return float(local.weekday() >= 5), float(local.hour <= 6)


def _habits(row: WindowRow, t: int, minor: int) -> list[float]:
    """An amount beside the card's last ones; see `_HABITS`."""
    amounts = last_amounts(row, t - PROFILE_MS, t, PROFILE_ENTRIES)
    if not amounts:
        return [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    amounts.sort()
    number = len(amounts)
    # twice the median: an integer
    twice = amounts[(number - 1) >> 1] + amounts[number >> 1]
    ratio = 2 * minor / twice if twice else 1.0
    total = sum(amounts)
    spread = number * sum(map(mul, amounts, amounts)) - total * total
    deviation = (number * minor - total) / math.sqrt(spread) if spread else 0.0
    high = 0
    if 2 * amounts[-1] > VERY_HIGH_RATIO * twice:
        recent = last_amounts(row, t - HIGH_MS, t, PROFILE_ENTRIES)
        high = sum([2 * amount > VERY_HIGH_RATIO * twice for amount in recent])
    very = ratio > VERY_HIGH_RATIO
    return [
        ratio,
        deviation,
        float(high),
        min(ratio, float(MOST_MEDIANS)),
        float(ratio > HIGH_RATIO),
        float(very),
        float(high) if very else 0.0,
    ]
