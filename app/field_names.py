"""Names of input fields: those that producers use (FRAUDSTREAM_FIELD_NAMES), and those that fraudstream needs."""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

Fields = dict[str, Any]
#: Fields of the input record that producers may know by other names.
NAMED_FIELDS = (
    "transaction_id", "card_id", "terminal_id", "amount", "currency", "converted_amount", "event_time",
)  # fmt: skip
_FIELD_NAME = re.compile(r"(?:([1-9]\d{0,8}):)?(?:(\w+)=([^=,:]+))?")


def parse_field_names(text: str) -> dict[int, dict[str, str]]:
    """Our name of a field by the producers', for each schema version; 0 is any version that is not named.

    Raises:
        ValueError: the text is not `FIELD=THEIR_NAME`, `2:FIELD=THEIR_NAME` or `2:`, separated by commas.
    """
    named: dict[int, dict[str, str]] = {0: {}}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _FIELD_NAME.fullmatch(part)
        ours, theirs = (match[2], (match[3] or "").strip()) if match else (None, "")
        if not match or (ours is not None and (ours not in NAMED_FIELDS or not theirs)):
            msg = (
                f"{part!r} is not a valid field name; write FIELD=THEIR_NAME, such as card_id=cardNumber, or "
                f"2:amount=value for schema_version 2 only; FIELD is one of {', '.join(NAMED_FIELDS)}"
            )
            raise ValueError(msg)
        names = named.setdefault(int(match[1] or 0), {})
        if ours is None:
            continue
        if theirs in (*NAMED_FIELDS, "schema_version") or theirs in names or ours in names.values():
            msg = (
                f"{part!r}: {ours} and {theirs} may each occur once only, and {theirs} must not be the name "
                "of another field"
            )
            raise ValueError(msg)
        names[theirs] = ours
    # what is said of one version goes before what is said of all
    for version, names in named.items():
        if version:
            for theirs, ours in named[0].items():
                if ours not in names.values():
                    names.setdefault(theirs, ours)
    return named


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
