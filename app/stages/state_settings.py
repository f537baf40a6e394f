"""The settings that shape a partition's rows, as text: stored with the rows, compared at start.

A row does not depend on which windows or features are read from it. It depends on the look-back period (which follows
from the longest window, the features and the allowed lateness), on the largest number of entries, and on the currency.
A terminal's row also depends on the label delay, on whether entries record which amounts were high, and on the
deployment's own fields.
"""

from app.domain.features import Catalogue
from app.domain.features.feature import window_length_ms
from app.durations import format_duration, parse_duration_ms
from app.errors import SettingsError
from app.settings import ENV_PREFIX, Settings
from app.stages.deployed_features import card_horizon_ms, catalogue_of, terminal_horizon_ms
from app.wire.own_features_file import own_of

#: Values of `high_amounts`: `no`: some entries are not marked; `yes`: all are; `needed`: features read the marks.
_HIGH, _NO, _YES, _NEEDED = "high_amounts", "no", "yes", "needed"
_FIELDS = "own_fields"
_MARKED_BY = "amount_over_card_median"
#: For words that are not the name of a setting: the settings behind them.
_SETTINGS_OF = {
    "look_back": "WINDOWS, FEATURES, ALLOWED_LATENESS and LABEL_DELAY",
    _HIGH: "FEATURES",
    _FIELDS: "CATALOGUE_FILE",
}


def state_settings(settings: Settings) -> str:
    """The settings that shape the rows of cards."""
    return _written(
        look_back=format_duration(card_horizon_ms(settings)),
        max_entries_per_key=settings.max_entries_per_key,
        currency=settings.currency,
        **_own_fields(settings, "card"),
    )


def terminal_settings(settings: Settings) -> str:
    """The settings that shape the rows of terminals."""
    return _written(
        look_back=format_duration(terminal_horizon_ms(settings)),
        max_entries_per_key=settings.max_entries_per_key,
        currency=settings.currency,
        label_delay=format_duration(settings.label_delay),
        high_amounts=_high_amounts(catalogue_of(settings)),
        **_own_fields(settings, "terminal"),
    )


def stored_settings(before: str, now: str) -> str:
    """The text to store with rows: once some entries were not marked, this remains true.

    Args:
        before: the stored text.
        now: `terminal_settings` of this start.
    """
    if f"{_HIGH}={_NO}" in before:
        return now.replace(f"{_HIGH}={_NEEDED}", f"{_HIGH}={_NO}").replace(
            f"{_HIGH}={_YES}", f"{_HIGH}={_NO}"
        )
    return now.replace(f"{_HIGH}={_NEEDED}", f"{_HIGH}={_YES}")


def differences(before: str, now: str) -> tuple[str, str] | None:
    """The settings that a state was built with and that differ, and their present values; None if the state fits."""
    was, wanted = _words(before), _words(now)
    if _FIELDS in was or _FIELDS in wanted:
        was.setdefault(_FIELDS, "none")
        wanted.setdefault(_FIELDS, "none")
    if _HIGH in was and not (was[_HIGH] == _NO and wanted.get(_HIGH) == _NEEDED):
        was.pop(_HIGH)
        wanted.pop(_HIGH, None)
    names = [name for name in {**was, **wanted} if was.get(name) != wanted.get(name)]
    if not names:
        return None
    told = (_told({n: words[n] for n in names if n in words}) for words in (was, wanted))
    return next(told), next(told)


def _told(words: dict[str, str]) -> str:
    parts = []
    for name, value in sorted(words.items()):
        if name in _SETTINGS_OF:
            parts.append(f"{name.replace('_', '-')} {value} (FRAUDSTREAM_{_SETTINGS_OF[name]})")
        else:
            parts.append(f"{ENV_PREFIX}{name.upper()}={value}")
    return " ".join(parts)


def is_of_before(text: str) -> bool:
    """Whether a state was written by a release whose states depend on every window and feature set."""
    return text.startswith("windows=") and " max_entries_per_key=" in text


def as_now(before: str, now: str) -> str:
    """The settings of such a state, in the present notation.

    Args:
        before: the stored text.
        now: the text of this start, which differs for cards and terminals.
    """
    was, wanted = _words(before), _words(now)
    terminal = "label_delay" in wanted
    if terminal and "label_delay" not in was:
        # from a release without labels: the rows' floors show which older entries are missing
        kept = {name: was[name] for name in ("max_entries_per_key", "currency")}
        return _written(**{**wanted, **kept, _HIGH: _NO})
    found = _catalogue_of(was)
    if found is None:  # features that this release does not have: the state does not fit
        return before
    longest, delay = found.windows[-1], parse_duration_ms(was.get("label_delay", "0ms"))
    reach = found.terminal_reach_ms if terminal else found.card_reach_ms
    look_back = max(longest + delay, reach) + parse_duration_ms(was["allowed_lateness"])
    words = {
        "look_back": format_duration(look_back),
        "max_entries_per_key": was["max_entries_per_key"],
        "currency": was["currency"],
    }
    if terminal:
        words |= {"label_delay": was["label_delay"]}
        words |= {_HIGH: _YES if _MARKED_BY in found.names else _NO}
    return _written(**words)


def schema_of_before(before: str) -> str:
    """The feature schema of such a deployment, for messages that name none; empty if unknown."""
    found = _catalogue_of(_words(before))
    return "" if found is None else found.schema


def _catalogue_of(words: dict[str, str]) -> Catalogue | None:
    windows = tuple(map(window_length_ms, words["windows"].split(",")))
    delay = parse_duration_ms(words.get("label_delay", "0ms"))
    # a state of a release without feature sets: there was only one list
    sets = words.get("features", "basic").split(",")
    try:
        return Catalogue(windows, 2, "UTC", sets, delay)
    except SettingsError:
        return None


def _high_amounts(catalogue: Catalogue) -> str:
    if _MARKED_BY not in catalogue.names:
        return _NO
    reads = any("labels.plain" in column.feature.value for column in catalogue.columns)
    return _NEEDED if reads else _YES


def _own_fields(settings: Settings, stage: str) -> dict[str, str]:
    """The deployment's own fields that rows have a column for."""
    fields = [f"{each.name}:{each.kind}" for each in own_of(settings).stage_fields(stage)]
    return {_FIELDS: ",".join(fields)} if fields else {}


def _words(text: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in text.split())
    return {name: value for name, _, value in pairs}


def _written(**words: object) -> str:
    return " ".join(f"{name}={value}" for name, value in words.items())
