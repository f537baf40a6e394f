"""Which features there are, and the sets of them that models are trained on.

A set is an ordered list of names with a version. `{w}` stands for each of the deployment's windows, `{longest}`
for the longest of them; a name that ends in a window (`terminal_risk_30d`) takes any. When the list or a formula
changes, the version rises, so that no model meets features of another meaning.

Sources: Le Borgne et al., *Reproducible Machine Learning for Credit Card Fraud Detection - Practical
Handbook* (2022), chapter 3; Bahnsen et al., *Feature engineering strategies for credit card fraud detection*
(2016); Whitrow et al., *Transaction aggregation as a strategy for credit card fraud detection* (2009).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.features.card import CARD_FEATURES
from app.domain.features.feature import WINDOW, Column, Feature, window_length_ms, window_name
from app.domain.features.own_features import NOTHING, OwnCatalogue
from app.domain.features.row_queries import READINGS
from app.domain.features.terminal import TERMINAL_FEATURES
from app.errors import SettingsError

#: Every feature, in the order in which a deployment computes them.
FEATURES = (*CARD_FEATURES, *TERMINAL_FEATURES)
_PLACE = {feature.family: place for place, feature in enumerate(FEATURES)}
_DELAYED = {
    name.partition("_{w}")[0] for reading in READINGS if reading.delayed for name in reading.names
}

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
            "card_count_{w}",
            "card_avg_amount_{w}",
            "amount_over_card_avg_{longest}",
            "terminal_count_{w}",
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
    # few, and all about the amount: an isolation forest splits on any feature, and others only add noise
    "label_free": FeatureSet(1, ("amount", *_HABITS)),
}

#: Of `engineered`, what was shaped by knowing how the published simulators commit fraud: amounts of a card that
#: jump for two weeks, terminals at which any payment is fraud for four. Other frauds may leave other traces.
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


def find_feature(name: str, own: OwnCatalogue = NOTHING) -> tuple[Feature, str]:
    """The feature of a column's name, and the name of its window (empty without one).

    Args:
        name: of the column.
        own: what the deployment adds.

    Raises:
        KeyError: there is none.
    """
    match = None if name in _PLACE else WINDOW.fullmatch(name)
    family = name if match is None else match[1]
    feature = own.find(family) or FEATURES[_PLACE[family]]
    if feature.windowed != (match is not None):
        raise KeyError(name)
    return feature, "" if match is None else match[2] + match[3]


def set_names(
    wanted: str, windows_ms: tuple[int, ...], own: OwnCatalogue = NOTHING
) -> tuple[str, ...]:
    """The columns of a set in its order, or of a single feature.

    Args:
        wanted: a set's name, or a feature's, with its window: `card_max_amount_1h`.
        windows_ms: the deployment's windows, rising.
        own: what the deployment adds.

    Raises:
        SettingsError: there is neither.
    """
    if wanted not in SETS:
        try:
            _, window = find_feature(wanted, own)
        except KeyError:
            msg = (
                f"FRAUDSTREAM_FEATURES: there is no feature set {wanted!r} and no feature of that name; the sets "
                f"are {', '.join(SETS)}, and a feature is named with its window, such as card_max_amount_1h"
            )
            raise SettingsError(msg) from None
        if window and window_name(window_length_ms(window)) != window:
            plain = wanted.removesuffix(window) + window_name(window_length_ms(window))
            msg = f"FRAUDSTREAM_FEATURES: write {plain} for {wanted}"
            raise SettingsError(msg)
        return (wanted,)
    windows = [window_name(window) for window in windows_ms]
    expanded: list[str] = []
    for template in SETS[wanted].names:
        each = windows if "{w}" in template else [""]
        expanded += [template.format(w=window, longest=windows[-1]) for window in each]
    return tuple(expanded)


def depends_on_longest(name: str, own: OwnCatalogue = NOTHING) -> bool:
    """Whether a column's numbers depend on the deployment's longest window, beside its own."""
    return "{longest}" in find_feature(name, own)[0].formula


def column_of(name: str, longest: str, own: OwnCatalogue = NOTHING) -> Column:
    """The column of a name.

    Args:
        name: such as `card_count_7d`.
        longest: name of the deployment's longest window.
        own: what the deployment adds.

    Raises:
        KeyError: there is none.
    """
    feature, window = find_feature(name, own)
    formula = feature.formula.replace("{longest}", longest)
    if window:
        formula = re.sub(r"(?<![A-Za-z])w\b", window, formula)
    labels = any(re.search(rf"\b{name}", feature.value) for name in _DELAYED)
    return Column(name, feature, formula, window_length_ms(window) if window else None, labels)


def in_order(names: Iterable[str], longest: str, own: OwnCatalogue = NOTHING) -> tuple[Column, ...]:
    """The columns of some names, in the order in which a deployment computes them: its own behind all of a stage."""

    def place(column: Column) -> tuple[bool, int, int]:
        family = column.feature.family
        behind = own.find(family) is not None
        at = own.place(family) if behind else _PLACE[family]
        return column.stage != "card", len(FEATURES) + at if behind else at, column.window_ms or 0

    return tuple(sorted((column_of(name, longest, own) for name in set(names)), key=place))
