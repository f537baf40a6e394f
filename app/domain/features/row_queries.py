"""What is read from the row of a card or terminal, once per transaction, for features to be computed from.

A reading gives names to numbers; the `value` of a feature is an expression over these names:

| name | of | |
|---|---|---|
| `t`, `minor`, `unit` | both | event time (ms), amount in minor units, minor units of one major unit |
| `weekend`, `night` | card | 1.0 or 0.0, in the deployment's time zone |
| `gap` | card | milliseconds since the card's previous transaction, at most the longest window |
| `count_{w}`, `total_{w}` | both | transactions in `(t - w, t]` and their minor units, this one included |
| `amounts_{w}` | both | the minor units of each of them, this one's included |
| `ratio`, `deviation`, `habit_high` | card | the amount beside the card's last ones |
| `known_{w}`, `frauds_{w}` | terminal | transactions behind the label delay, and known frauds among them |
| `own_NAME_{w}` | both | codes of a field of the deployment's own (`own_features.py`), this one's included |
| `labels` | terminal | what the newest known labels say: a `LabelHistory` |

Counts and totals are exact integers, and a feature is one division of two of them: bit-identical wherever it is
computed.
"""

import math
import re
from dataclasses import dataclass
from operator import mul

from app.domain.features.card import HIGH_MS, PROFILE_ENTRIES, PROFILE_MS, VERY_HIGH_RATIO
from app.domain.features.feature import DAY_MS, Stage
from app.domain.features.terminal import LABEL_ENTRIES, LABEL_MS
from app.windows.entries import KNOWN_FRAUD
from app.windows.last_entries import LabelHistory, codes_within, last_amounts, last_labels
from app.windows.window_row import WindowRow

#: More entries than any row holds: all of a window.
ALL_ENTRIES = 1 << 62


@dataclass(frozen=True, slots=True)
class RowQuery:
    """One question to a row. The plan runs `gives = asks`, then `adds`.

    Attributes:
        stage: whose row.
        gives: the names that it gives numbers to; with `{w}`, the name of a window, once per window.
        asks: a Python expression; `WINDOWS` are the lengths of the windows that are needed, rising.
        adds: what counts this transaction itself, per window: it is not in its row yet.
        flag: the prediction's flag when some of what is read may have been evicted; empty: nothing can be.
        reach_ms: how far back it looks, beside its window and the label delay.
        entries: it looks at the last so many entries only; 0: at all of a window.
        delayed: whether it looks at what is older than the label delay.
    """

    stage: Stage
    gives: str
    asks: str
    adds: str = ""
    flag: str = ""
    reach_ms: int = 0
    entries: int = 0
    delayed: bool = False

    @property
    def names(self) -> list[str]:
        """The names in `gives`."""
        return re.findall(r"[a-z_][a-z0-9_]*(?:{w})?", self.gives)

    @property
    def windowed(self) -> bool:
        """Whether it is asked per window."""
        return "{w}" in self.gives


def _of_windows(stage: Stage) -> tuple[RowQuery, RowQuery]:
    flag = f"inexact:{stage}_{{w}}"
    return (
        RowQuery(
            stage,
            "(count_{w}, total_{w})",
            "row.windows(t, WINDOWS)",
            "count_{w} += 1; total_{w} += minor",
            flag,
        ),
        RowQuery(
            stage,
            "amounts_{w}",
            "[last_amounts(row, t - window, t, ALL_ENTRIES) for window in WINDOWS]",
            "amounts_{w}.append(minor)",
            flag,
        ),
    )


#: In the order in which they are asked, and in which their flags stand.
READINGS = (
    RowQuery("card", "weekend, night", "calendar(t // 60_000)"),
    RowQuery(
        "card",
        "gap",
        "LONGEST if (last := row.newest_counted(t)) is None else min(t - last, LONGEST)",
    ),
    *_of_windows("card"),
    RowQuery(
        "card",
        "ratio, deviation, habit_high",
        "habits(row, t, minor)",
        flag=f"inexact:card_last_{PROFILE_ENTRIES}",
        reach_ms=PROFILE_MS,
        entries=PROFILE_ENTRIES,
    ),
    *_of_windows("terminal"),
    RowQuery(
        "terminal",
        "(known_{w}, frauds_{w})",
        "row.known(t - DELAY, WINDOWS)",
        flag="inexact:terminal_risk_{w}",
        delayed=True,
    ),
    RowQuery(
        "terminal",
        "labels",
        "label_history(row, t - DELAY)",
        flag="inexact:terminal_labels",
        reach_ms=LABEL_MS,
        entries=LABEL_ENTRIES,
        delayed=True,
    ),
)


def habits(row: WindowRow, t: int, minor: int) -> tuple[float, float, int]:
    """An amount beside the card's last ones.

    Returns:
        The amount over their median; how many standard deviations it is above their mean; how many of the
        last `HIGH_MS` were over `VERY_HIGH_RATIO` medians.
    """
    amounts = last_amounts(row, t - PROFILE_MS, t, PROFILE_ENTRIES)
    if not amounts:
        return 1.0, 0.0, 0
    amounts.sort()
    number = len(amounts)
    # twice the median: an integer
    twice = amounts[(number - 1) >> 1] + amounts[number >> 1]
    total = sum(amounts)
    spread = number * sum(map(mul, amounts, amounts)) - total * total
    deviation = (number * minor - total) / math.sqrt(spread) if spread else 0.0
    high = 0
    if 2 * amounts[-1] > VERY_HIGH_RATIO * twice:
        recent = last_amounts(row, t - HIGH_MS, t, PROFILE_ENTRIES)
        high = sum([2 * amount > VERY_HIGH_RATIO * twice for amount in recent])
    return 2 * minor / twice if twice else 1.0, deviation, high


def label_history(row: WindowRow, until_ms: int) -> LabelHistory:
    """What the newest known labels say of a terminal's entries up to `until_ms`."""
    return last_labels(row, until_ms - LABEL_MS, until_ms, LABEL_ENTRIES)


def fraud_share(labels: LabelHistory, number: int) -> float:
    """Share of fraud among the newest known labels, `number` of them at most; 0 without any."""
    newest = labels.known[-number:]
    return newest.count(KNOWN_FRAUD) / len(newest) if newest else 0.0


def days_since(t: int, moment_ms: int | None) -> float:
    """Days from a moment to `t`; 0 without one."""
    return 0.0 if moment_ms is None else (t - moment_ms) / DAY_MS


#: What the code of readings and the values of features may call.
HELPERS = {
    "ALL_ENTRIES": ALL_ENTRIES,
    "LABEL_MS": LABEL_MS,
    "days_since": days_since,
    "codes_within": codes_within,
    "fraud_share": fraud_share,
    "habits": habits,
    "label_history": label_history,
    "last_amounts": last_amounts,
}
