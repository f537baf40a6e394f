"""Whether a deployment's file of fields and features has the right shape; what it says is own_features.py's."""

import re
from typing import Any

from app.domain.features.feature import WINDOW, window_length_ms, window_name

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
#: What Cassandra takes for a word of its language.
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
        add allow alter and apply asc authorize batch begin by columnfamily create default delete desc describe drop
        entries execute from full grant if in index infinity insert into is keyspace limit materialized modify nan
        norecursive not null of on or order primary rename replace revoke schema select set table to token truncate
        unlogged unset update use using view where with
        """,
    )
)
_FIELD = {"type": ("text", "integer", "number", "boolean"), "default": None, "meaning": str}
_FEATURE = {
    "of": ("card", "terminal"),
    "compute": ("distinct", "share", "count"),
    "field": str,
    "windows": list,
    "equals": None,
    "phrase": str,
}
_OPTIONAL = {"meaning", "equals", "phrase"}


def checked(declared: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The tables `fields` and `features`, each entry of the right shape.

    Raises:
        ValueError: one is not; the text says which.
    """
    unknown = declared.keys() - {"fields", "features"}
    if unknown:
        msg = f"[{min(unknown)}] is unknown: there are [fields.NAME] and [features.NAME]"
        raise ValueError(msg)
    found = {"fields": declared.get("fields", {}), "features": declared.get("features", {})}
    for table, shape in (("fields", _FIELD), ("features", _FEATURE)):
        for name, entry in found[table].items():
            _check_name(table, name)
            _check_entry(f"{table}.{name}", entry, shape)
    for name, entry in found["features"].items():
        _check_windows(name, entry)
    return found


def _check_name(table: str, name: str) -> None:
    if not _NAME.fullmatch(name) or (table == "fields" and name in _RESERVED):
        msg = (
            f"{table}.{name}: a name consists of lower-case letters, digits and _, begins with a letter, "
            "and is not a CQL keyword"
        )
        raise ValueError(msg)
    if table == "features" and WINDOW.fullmatch(name):
        msg = f"features.{name}: leave the window out of the name; windows = [...] adds it"
        raise ValueError(msg)


def _check_entry(where: str, entry: Any, shape: dict[str, Any]) -> None:
    if not isinstance(entry, dict):
        msg = f"{where} is not a table"
        raise ValueError(msg)
    unknown = entry.keys() - shape.keys()
    if unknown:
        msg = f"{where}: {min(unknown)} is unknown; the keys are {', '.join(shape)}"
        raise ValueError(msg)
    for key, wanted in shape.items():
        if key not in entry:
            if key in _OPTIONAL:
                continue
            msg = f"{where}: {key} is missing"
            raise ValueError(msg)
        value = entry[key]
        if isinstance(wanted, tuple) and value not in wanted:
            msg = f"{where}: {key} = {value!r}: write one of {', '.join(wanted)}"
            raise ValueError(msg)
        if isinstance(wanted, type) and not isinstance(value, wanted):
            msg = f"{where}: {key} = {value!r} is not of type {wanted.__name__}"
            raise ValueError(msg)


def _check_windows(name: str, entry: dict[str, Any]) -> None:
    windows = entry["windows"]
    for window in windows:
        if not isinstance(window, str) or not re.fullmatch(r"[1-9]\d*(ms|s|m|h|d)", window):
            msg = f"features.{name}: {window!r} is not a window; write one such as 7d"
            raise ValueError(msg)
        if window_name(window_length_ms(window)) != window:
            msg = f"features.{name}: write {window_name(window_length_ms(window))} for {window}"
            raise ValueError(msg)
    if not windows or len({window_length_ms(window) for window in windows}) < len(windows):
        msg = f"features.{name}: windows must contain one or more different windows"
        raise ValueError(msg)
    if entry["compute"] == "distinct" and "equals" in entry:
        msg = f"features.{name}: equals is for share and count"
        raise ValueError(msg)
    try:
        entry.get("phrase", "").format(value=1, window="1d")
    except (KeyError, IndexError, ValueError):
        msg = f"features.{name}: phrase may name {{value}} and {{window}} only"
        raise ValueError(msg) from None
