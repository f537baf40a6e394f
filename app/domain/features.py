"""The feature catalogue: each feature once, with its name, unit, formula and code.

`t` is the transaction's event time. Counts and totals are exact integers in minor units and a feature is
one division of two integers, so it is equal to the bit wherever it is computed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from app.domain.window_row import WindowRow

_EPOCH_UTC = ZoneInfo("UTC")
#: Raised when a formula changes, so that a model never meets features of another meaning.
CATALOGUE_VERSION = 1
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def window_name(window_ms: int) -> str:
    """How a window is written in a feature's name: 86400000 -> 1d."""
    unit, size = next((unit, size) for unit, size in _UNITS if window_ms % size == 0)
    return f"{window_ms // size}{unit}"


@dataclass(frozen=True, slots=True)
class Feature:
    """One entry of the catalogue.

    Attributes:
        name: column name everywhere: model, Kafka, Cassandra.
        unit: what its number counts.
        formula: how it comes about, for people.
        stage: `card` (tables/cards) or `terminal` (tables/terminals).
        window_ms: length of its window, None without one.
    """

    name: str
    unit: str
    formula: str
    stage: str
    window_ms: int | None = None


class Catalogue:
    """The features of one deployment, in the order that models take them.

    Attributes:
        windows: window lengths, milliseconds, rising.
        features: every feature, in order.
        names: their names.
        schema: names this set of features; a model's manifest repeats it.
    """

    def __init__(self, windows_ms: tuple[int, ...], minor_unit_digits: int, timezone: str) -> None:
        self.windows = windows_ms
        self._minor = 10**minor_unit_digits
        self._zone = ZoneInfo(timezone)
        self._calendar = lru_cache(maxsize=1 << 16)(self._calendar_of)
        names = [window_name(window) for window in windows_ms]
        self.schema = f"v{CATALOGUE_VERSION}-{'-'.join(names)}"
        longest = names[-1]
        self.features = (
            Feature("amount", "major units", "amount", "card"),
            Feature("is_weekend", "0 or 1", "1 on Saturday and Sunday, local time", "card"),
            Feature("is_night", "0 or 1", "1 when the local hour is 6 or less", "card"),
            Feature(
                "seconds_since_last",
                "seconds",
                f"t minus the card's newest earlier transaction at or before t, at most {longest}",
                "card",
            ),
            *(
                Feature(
                    f"card_count_{name}",
                    "transactions",
                    f"transactions of the card in (t - {name}, t], this one included",
                    "card",
                    window,
                )
                for name, window in zip(names, windows_ms, strict=True)
            ),
            *(
                Feature(
                    f"card_avg_amount_{name}",
                    "major units",
                    f"their mean amount in (t - {name}, t]",
                    "card",
                    window,
                )
                for name, window in zip(names, windows_ms, strict=True)
            ),
            Feature(
                f"amount_over_card_avg_{longest}",
                "ratio",
                f"amount / card_avg_amount_{longest}, 1 when that is 0",
                "card",
                windows_ms[-1],
            ),
            *(
                Feature(
                    f"terminal_count_{name}",
                    "transactions",
                    f"transactions at the terminal in (t - {name}, t], this one included",
                    "terminal",
                    window,
                )
                for name, window in zip(names, windows_ms, strict=True)
            ),
        )
        self.names = tuple(feature.name for feature in self.features)
        self._flags = {
            stage: tuple(f"inexact:{stage}_{name}" for name in names)
            for stage in ("card", "terminal")
        }

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
        longest = self.windows[-1]
        last = row.newest_counted(event_time_ms)
        gap = longest if last is None else min(event_time_ms - last, longest)
        counts: list[float] = []
        averages: list[float] = []
        count = total = 0
        for before, sum_before in row.windows(event_time_ms, self.windows):
            count, total = before + 1, sum_before + minor
            counts.append(float(count))
            averages.append(total / (count * unit))
        ratio = minor * count / total if total else 1.0
        return [minor / unit, weekend, night, gap / 1000, *counts, *averages, ratio]

    def terminal(self, row: WindowRow | None, event_time_ms: int) -> list[float]:
        """The terminal's features of a transaction that is not in its row yet.

        Args:
            row: the terminal's state before it; None for a transaction without a terminal.
            event_time_ms: its event time `t`.

        Returns:
            The features of stage `terminal`, in catalogue order: zeros without a terminal.
        """
        if row is None:
            return [0.0] * len(self.windows)
        return [float(count + 1) for count, _ in row.windows(event_time_ms, self.windows)]

    def inexact(self, stage: str, row: WindowRow, event_time_ms: int) -> list[str]:
        """A flag for each window of which a part has left the row already (shortest first)."""
        floor = row.floor_ms
        if event_time_ms - self.windows[-1] >= floor:
            return []
        return [
            flag
            for flag, window in zip(self._flags[stage], self.windows, strict=True)
            if event_time_ms - window < floor
        ]

    def _calendar_of(self, minute: int) -> tuple[float, float]:
        moment = datetime(1970, 1, 1, tzinfo=_EPOCH_UTC) + timedelta(minutes=minute)
        local = moment.astimezone(self._zone)
        return float(local.weekday() >= 5), float(local.hour <= 6)
