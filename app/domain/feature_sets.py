"""Every feature once: its name, unit, formula and source; and the sets that models are trained on.

A set is an ordered list of names with a version. `{window}` stands for each of the deployment's windows,
`{longest}` for the longest of them; a name that ends in a window (`terminal_risk_30d`) takes any. A formula or
the list changes: the version rises, so that a model never meets features of another meaning.

Sources: Le Borgne et al., *Reproducible Machine Learning for Credit Card Fraud Detection - Practical
Handbook* (2022), chapter 3; Bahnsen et al., *Feature engineering strategies for credit card fraud detection*
(2016); Whitrow et al., *Transaction aggregation as a strategy for credit card fraud detection* (2009).
"""

import re
from dataclasses import dataclass

from app.errors import SettingsError

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
_WINDOWED = re.compile(r"(.+)_(\d+)(ms|s|m|h|d)")
DAY_MS = 86_400_000
#: A card's habits: its last entries, so many at most and no older than that.
PROFILE_ENTRIES, PROFILE_MS = 20, 30 * DAY_MS
#: An amount of more than so many medians is high, or very high; very high ones are counted so far back.
HIGH_RATIO, VERY_HIGH_RATIO, HIGH_MS = 2, 3, 14 * DAY_MS
#: Where a linear model is better served by a bounded number.
MOST_MEDIANS, MOST_PLAIN = 6, 3
#: What is known of a terminal: its last entries behind the label delay, so many at most, no older than that.
LABEL_ENTRIES, LABEL_MS = 32, 30 * DAY_MS
#: Labels in `terminal_fraud_share_last_5`.
SHARE_LABELS = 5

HANDBOOK, BAHNSEN, WHITROW, OURS = "handbook", "Bahnsen 2016", "Whitrow 2009", "own"


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
        formula: how it comes about, for people; `t` is the transaction's event time.
        stage: `card` (tables/cards) or `terminal` (tables/terminals).
        window_ms: length of its window, None without one.
        source: where it is from.
        labels: whether it depends on labels.
        family: the name without its window.
    """

    name: str
    unit: str
    formula: str
    stage: str
    window_ms: int | None = None
    source: str = OURS
    labels: bool = False
    family: str = ""


@dataclass(frozen=True, slots=True)
class _Family:
    """A feature, or one for each window; `w` in the formula is the window."""

    name: str
    unit: str
    formula: str
    stage: str
    source: str
    windowed: bool = False
    labels: bool = False


_PROFILE = f"the card's last {PROFILE_ENTRIES} in (t - {window_name(PROFILE_MS)}, t]"
_KNOWN = (
    f"the labels known of the terminal's last {LABEL_ENTRIES} in "
    f"(t - delay - {window_name(LABEL_MS)}, t - delay]"
)

#: In the order in which a deployment computes them.
_FAMILIES = (
    _Family("amount", "major units", "amount", "card", HANDBOOK),
    _Family("is_weekend", "0 or 1", "1 on Saturday and Sunday, local time", "card", HANDBOOK),
    _Family("is_night", "0 or 1", "1 when the local hour is 6 or less", "card", HANDBOOK),
    _Family(
        "seconds_since_last",
        "seconds",
        "t minus the card's newest earlier transaction at or before t, at most {longest}",
        "card",
        WHITROW,
    ),
    _Family(
        "card_count",
        "transactions",
        "transactions of the card in (t - w, t], this one included",
        "card",
        HANDBOOK,
        windowed=True,
    ),
    _Family(
        "card_avg_amount",
        "major units",
        "their mean amount in (t - w, t]",
        "card",
        HANDBOOK,
        windowed=True,
    ),
    _Family(
        "amount_over_card_avg",
        "ratio",
        "amount / card_avg_amount_w, 1 when that is 0",
        "card",
        BAHNSEN,
        windowed=True,
    ),
    _Family(
        "amount_over_card_median",
        "ratio",
        f"amount / median of {_PROFILE}, this one left out; 1 when there are none or it is 0",
        "card",
        OURS,
    ),
    _Family(
        "amount_deviation",
        "standard deviations",
        f"(amount - mean) / standard deviation of {_PROFILE}, this one left out; 0 when that is 0",
        "card",
        WHITROW,
    ),
    _Family(
        f"card_high_count_{window_name(HIGH_MS)}",
        "transactions",
        f"of {_PROFILE}, those in (t - {window_name(HIGH_MS)}, t] of more than {VERY_HIGH_RATIO} medians",
        "card",
        OURS,
    ),
    _Family(
        f"amount_over_card_median_max_{MOST_MEDIANS}",
        "ratio",
        f"amount_over_card_median, at most {MOST_MEDIANS}",
        "card",
        OURS,
    ),
    _Family(
        "amount_is_high",
        "0 or 1",
        f"1 when amount_over_card_median is over {HIGH_RATIO}",
        "card",
        OURS,
    ),
    _Family(
        "amount_is_very_high",
        "0 or 1",
        f"1 when amount_over_card_median is over {VERY_HIGH_RATIO}",
        "card",
        OURS,
    ),
    _Family(
        "amount_is_high_again",
        "transactions",
        f"card_high_count_{window_name(HIGH_MS)} where amount_is_very_high, else 0",
        "card",
        OURS,
    ),
    _Family(
        "terminal_count",
        "transactions",
        "transactions at the terminal in (t - w, t], this one included",
        "terminal",
        WHITROW,
        windowed=True,
    ),
    _Family(
        "terminal_delayed_count",
        "transactions",
        "transactions at the terminal in (t - delay - w, t - delay]",
        "terminal",
        HANDBOOK,
        windowed=True,
        labels=True,
    ),
    _Family(
        "terminal_risk",
        "share",
        "of those in (t - delay - w, t - delay], known frauds / number; 0 when there are none",
        "terminal",
        HANDBOOK,
        windowed=True,
        labels=True,
    ),
    _Family(
        "terminal_last_label",
        "0 or 1",
        f"1 when the newest of {_KNOWN} says fraud",
        "terminal",
        OURS,
        labels=True,
    ),
    _Family(
        f"terminal_fraud_share_last_{SHARE_LABELS}",
        "share",
        f"frauds among the newest {SHARE_LABELS} of {_KNOWN}; 0 when there are none",
        "terminal",
        OURS,
        labels=True,
    ),
    _Family(
        "terminal_fraud_streak",
        "transactions",
        f"of {_KNOWN}, the frauds that are newer than any genuine one",
        "terminal",
        OURS,
        labels=True,
    ),
    _Family(
        "terminal_fraud_streak_age",
        "days",
        "t minus the oldest of terminal_fraud_streak; 0 when there are none",
        "terminal",
        OURS,
        labels=True,
    ),
    _Family(
        "terminal_plain_streak",
        "transactions",
        "of terminal_fraud_streak, those whose own amount was not high for their card: the fraud is the terminal's",
        "terminal",
        OURS,
        labels=True,
    ),
    _Family(
        f"terminal_plain_streak_max_{MOST_PLAIN}",
        "transactions",
        f"terminal_plain_streak, at most {MOST_PLAIN}",
        "terminal",
        OURS,
        labels=True,
    ),
    _Family(
        "terminal_plain_streak_age",
        "days",
        "t minus the oldest of terminal_plain_streak; 0 when there are none",
        "terminal",
        OURS,
        labels=True,
    ),
    _Family(
        "terminal_genuine_age",
        "days",
        f"t minus the newest genuine one of {_KNOWN}; delay + {window_name(LABEL_MS)} without one",
        "terminal",
        OURS,
        labels=True,
    ),
)
_PLACE = {family.name: place for place, family in enumerate(_FAMILIES)}

_CALENDAR = ("amount", "is_weekend", "is_night")
_DAYS = ("1d", "7d", "30d")
_CARD = tuple(f"{name}_{days}" for name in ("card_count", "card_avg_amount") for days in _DAYS)
_HABITS = (
    "amount_over_card_avg_30d",
    "amount_over_card_median",
    "amount_deviation",
    "card_high_count_14d",
)
_FIFTEEN = (
    *_CALENDAR,
    *_CARD,
    *(f"{name}_{days}" for name in ("terminal_delayed_count", "terminal_risk") for days in _DAYS),
)


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """What one kind of model is trained on: names in the model's order."""

    version: int
    names: tuple[str, ...]


#: The sets that `FRAUDSTREAM_FEATURES` may name.
SETS = {
    "basic": FeatureSet(
        1,
        (
            *_CALENDAR,
            "seconds_since_last",
            "card_count_{window}",
            "card_avg_amount_{window}",
            "amount_over_card_avg_{longest}",
            "terminal_count_{window}",
        ),
    ),
    "handbook": FeatureSet(1, _FIFTEEN),
    "engineered": FeatureSet(
        1,
        (
            *_FIFTEEN,
            *_HABITS,
            "amount_over_card_median_max_6",
            "amount_is_high",
            "amount_is_very_high",
            "amount_is_high_again",
            "terminal_last_label",
            "terminal_fraud_share_last_5",
            "terminal_fraud_streak",
            "terminal_fraud_streak_age",
            "terminal_plain_streak",
            "terminal_plain_streak_max_3",
            "terminal_plain_streak_age",
            "terminal_genuine_age",
        ),
    ),
    # few, and all about the amount: an isolation forest splits on any, and the others only blur it
    "label_free": FeatureSet(1, ("amount", *_HABITS)),
}


#: Of `engineered`, what was shaped by knowing how the published simulators commit fraud: amounts of a card that
#: jump for two weeks, terminals at which any payment is fraud for four. Other frauds may leave other marks.
SHAPED = frozenset(
    {
        "card_high_count_14d",
        "amount_over_card_median_max_6",
        "amount_is_high",
        "amount_is_very_high",
        "amount_is_high_again",
        "terminal_plain_streak",
        "terminal_plain_streak_max_3",
        "terminal_plain_streak_age",
    }
)


def set_names(name: str, windows_ms: tuple[int, ...]) -> tuple[str, ...]:
    """The features of a set, in the set's order.

    Raises:
        SettingsError: there is no such set.
    """
    if name not in SETS:
        msg = f"FRAUDSTREAM_FEATURES: there is no feature set {name!r}; there are {', '.join(SETS)}"
        raise SettingsError(msg)
    windows = [window_name(window) for window in windows_ms]
    expanded: list[str] = []
    for template in SETS[name].names:
        if "{window}" in template:
            expanded += [template.format(window=window) for window in windows]
        else:
            expanded.append(template.format(longest=windows[-1]))
    return tuple(expanded)


def set_schema(name: str, windows_ms: tuple[int, ...], label_delay_ms: int) -> str:
    """Names a set, its version and the settings that decide what its features mean."""
    chosen = SETS[name]
    windows = "-".join(window_name(window) for window in windows_ms)
    if name == "basic":  # as models have named it since before there were sets
        return f"v{chosen.version}-{windows}"
    schema = f"{name}@{chosen.version}"
    if any("{" in template for template in chosen.names):
        schema += f"-{windows}"
    if any(resolve(each, "").labels for each in set_names(name, windows_ms)):
        schema += f"-delay{window_name(label_delay_ms)}"
    return schema


def resolve(name: str, longest: str) -> Feature:
    """The feature of a name.

    Args:
        name: such as `card_count_7d`.
        longest: name of the deployment's longest window.

    Raises:
        KeyError: there is none.
    """
    match = None if name in _PLACE else _WINDOWED.fullmatch(name)
    family = _FAMILIES[_PLACE[name if match is None else match[1]]]
    if family.windowed != (match is not None):
        raise KeyError(name)
    window = None if match is None else int(match[2]) * dict(_UNITS)[match[3]]
    formula = family.formula.replace("{longest}", longest)
    if window is not None:
        formula = re.sub(r"\bw\b", window_name(window), formula).replace(
            "card_avg_amount_w", f"card_avg_amount_{window_name(window)}"
        )
    return Feature(
        name, family.unit, formula, family.stage, window, family.source, family.labels, family.name
    )


def in_order(names: set[str], longest: str) -> tuple[Feature, ...]:
    """The features of some names, in the order in which a deployment computes them."""
    features = [resolve(name, longest) for name in names]
    features.sort(key=lambda feature: (_PLACE[feature.family], feature.window_ms or 0))
    return tuple(features)
