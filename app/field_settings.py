"""Producers' names of fields, as the setting FRAUDSTREAM_FIELD_NAMES writes them."""

import re
from typing import Literal

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


def parse_dropped(text: str) -> frozenset[str]:
    """Names of fields that are left out.

    Raises:
        ValueError: one is needed.
    """
    names = frozenset(filter(None, map(str.strip, text.split(","))))
    needed = names & {*NAMED_FIELDS, "schema_version"}
    if needed:
        msg = f"{', '.join(sorted(needed))}: fraudstream needs this field itself"
        raise ValueError(msg)
    return names


def parse_private(text: str) -> dict[str, Literal["hash", "keep"]]:
    """What becomes of single unknown fields: `device=hash,order=keep`.

    Raises:
        ValueError: it is written in another way, or names a field that fraudstream needs.
    """
    found: dict[str, Literal["hash", "keep"]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, action = part.partition("=")
        if action not in ("hash", "keep") or not name or name in found:
            msg = f"{part!r}: write name=hash or name=keep, each name once; FRAUDSTREAM_DROP_FIELDS drops fields"
            raise ValueError(msg)
        if name in {*NAMED_FIELDS, "schema_version"}:
            msg = f"{name}: fraudstream needs this field itself"
            raise ValueError(msg)
        found[name] = action  # type: ignore[assignment]
    return found
