"""Renames input fields: producers' own names, and names that fraudstream needs itself."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

Fields = dict[str, Any]


def under_our_names(fields: Fields, named: Mapping[int, Mapping[str, str]]) -> Fields | None:
    """The fields under fraudstream's names; None if they have these names already.

    Args:
        fields: an input.
        named: fraudstream's name by the producers' name, for each schema version; 0 for any other version. If an input
            has both, the producers' field is used.
    """
    version = fields.get("schema_version", 1)
    names = named.get(version if type(version) is int else 0, named[0])
    if names.keys().isdisjoint(fields):
        return None
    taken = {names[name] for name in fields if name in names}
    renamed = {names.get(name, name): value for name, value in fields.items() if name not in taken}
    _put_aside(renamed, {name: value for name, value in fields.items() if name in taken})
    return renamed


def without(fields: Fields, reserved: AbstractSet[str]) -> Fields:
    """The fields; those with reserved names become `input_<name>`."""
    renamed = {name: value for name, value in fields.items() if name not in reserved}
    _put_aside(renamed, {name: value for name, value in fields.items() if name in reserved})
    return renamed


def _put_aside(fields: Fields, others: Fields) -> None:
    for name, value in others.items():
        free = f"input_{name}"
        while free in fields:  # the input has a field of that name, too: keep both
            free = f"input_{free}"
        fields[free] = value
