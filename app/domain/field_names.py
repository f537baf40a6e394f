"""Fields of an input that come under other names, or under names that we need ourselves."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

Fields = dict[str, Any]


def under_our_names(fields: Fields, named: Mapping[int, Mapping[str, str]]) -> Fields | None:
    """The fields under our names; None when they have them already.

    Args:
        fields: an input.
        named: our name by the producers', for each schema version; 0 for any other version. Where an input
            has both, the producers' is the one that counts.
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
    """The fields, those of reserved names as `input_<name>`."""
    renamed = {name: value for name, value in fields.items() if name not in reserved}
    _put_aside(renamed, {name: value for name, value in fields.items() if name in reserved})
    return renamed


def _put_aside(fields: Fields, others: Fields) -> None:
    for name, value in others.items():
        free = f"input_{name}"
        while free in fields:  # the input has a field of that name too: neither may get lost
            free = f"input_{free}"
        fields[free] = value
