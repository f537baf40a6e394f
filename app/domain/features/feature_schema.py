"""The text that names a list of features, and what decides their meaning: written, read and compared.

It stands in each prediction, in each message on `enriched` and in each model's manifest. Parts are joined by `+`, one
per feature set or single feature: `v1-1h-1d-7d-30d+handbook@1-delay7d`. `v1-...` is the set `basic`, as models have
named it since before there were sets.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.features.feature import window_length_ms, window_name
from app.domain.features.feature_sets import (
    SETS,
    column_of,
    depends_on_longest,
    find_feature,
    set_names,
)
from app.domain.features.own_features import NOTHING, OwnCatalogue

BASIC = "basic"
_DELAY = "delay"


@dataclass(frozen=True, slots=True)
class SchemaPart:
    """One set or feature.

    Attributes:
        name: of the set, or of the feature with its window.
        version: of the set or feature.
        windows: names of the windows that decide its meaning, rising.
        delay: the label delay, where it decides its meaning; else empty.
    """

    name: str
    version: str
    windows: tuple[str, ...] = ()
    delay: str = ""

    def __str__(self) -> str:
        head = f"v{self.version}" if self.name == BASIC else f"{self.name}@{self.version}"
        delay = (f"{_DELAY}{self.delay}",) if self.delay else ()
        return "-".join((head, *self.windows, *delay))


def part_of(
    wanted: str, windows_ms: tuple[int, ...], label_delay_ms: int, own: OwnCatalogue = NOTHING
) -> SchemaPart:
    """A set or a feature as one deployment computes it.

    Raises:
        SettingsError: there is neither.
    """
    names = set_names(wanted, windows_ms, own)
    windows = tuple(window_name(window) for window in windows_ms)
    if wanted not in SETS:
        windows = windows[-1:] if depends_on_longest(wanted, own) else ()
    elif not any("{" in template for template in SETS[wanted].names):
        windows = ()
    labels = any(column_of(name, "", own).labels for name in names)
    delay = window_name(label_delay_ms) if labels else ""
    return SchemaPart(wanted, version_of(wanted, own), windows, delay)


def version_of(wanted: str, own: OwnCatalogue = NOTHING) -> str:
    """The version of a set or feature in this release.

    Raises:
        KeyError: there is neither.
    """
    found = SETS[wanted] if wanted in SETS else find_feature(wanted, own)[0]
    return str(found.version)


def parse_schema(text: str) -> tuple[SchemaPart, ...]:
    """The parts of a schema.

    Raises:
        ValueError: it is none.
    """
    return tuple(map(_parsed, text.split("+")))


def _parsed(text: str) -> SchemaPart:
    head, *rest = text.split("-")
    name, _, version = head.partition("@")
    if not version and head[:1] == "v":
        name, version = BASIC, head[1:]
    delays = [word.removeprefix(_DELAY) for word in rest if word.startswith(_DELAY)]
    windows = tuple(word for word in rest if not word.startswith(_DELAY))
    if not name or not version.isalnum() or len(delays) > 1:
        msg = f"{text!r} is not a feature schema"
        raise ValueError(msg)
    for window in (*windows, *delays):
        try:
            window_length_ms(window)
        except (AttributeError, KeyError):
            msg = f"{text!r} is not a feature schema: {window!r} is not a window"
            raise ValueError(msg) from None
    return SchemaPart(name, version, windows, "".join(delays))


def windows_of(parts: tuple[SchemaPart, ...]) -> tuple[int, ...]:
    """The windows that some parts name, milliseconds, rising; empty when they name none."""
    return tuple(sorted({window_length_ms(window) for part in parts for window in part.windows}))


def same_meaning(names: Iterable[str], needed: str, schema: str) -> bool:
    """Whether features mean the same under two schemas: their formulas, and the settings that decide their numbers.

    Args:
        names: features that both have.
        needed: the schema that they were computed by.
        schema: the one that they are computed by now.
    """
    try:
        before, now = parse_schema(needed), parse_schema(schema)
        here = {part.name: part.version for part in now}
        if any(part.version != (here.get(part.name) or version_of(part.name)) for part in before):
            return False
    except (ValueError, KeyError):
        return needed == schema
    ours = [name for name in names if _is_ours(name)]  # those of a deployment need neither
    if any(column_of(name, "").labels for name in ours) and _delay(before) != _delay(now):
        return False
    longest_before, longest = windows_of(before)[-1:], windows_of(now)[-1:]
    if not longest_before or not longest:  # manifests of single features did not say so
        return True
    return longest_before == longest or not any(map(depends_on_longest, ours))


def _is_ours(name: str) -> bool:
    try:
        find_feature(name)
    except KeyError:
        return False
    return True


def _delay(parts: Iterable[SchemaPart]) -> str:
    return next((part.delay for part in parts if part.delay), "")
