"""Settings that are lists of words, comma separated in the environment: how they are read and checked."""

from base64 import b64decode
from itertools import pairwise
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from app.field_names import NAMED_FIELDS

#: Severities above the lowest one.
_LIMITS = 3
#: Of an Ed25519 public key.
_KEY_BYTES = 32


def _parse_sets(value: Any) -> tuple[str, ...]:
    sets = _parse_words(value)
    if not sets or not all(sets) or len(set(sets)) != len(sets):
        msg = "name different feature sets, such as basic or basic,handbook"
        raise ValueError(msg)
    return sets


def _parse_allowed(value: Any) -> tuple[str, ...]:
    return tuple(filter(None, _parse_words(value)))


def _parse_causes(value: Any) -> tuple[str, ...]:
    return () if value == "none" else _parse_allowed(value)


def _parse_losses(value: Any) -> tuple[float, ...]:
    losses = tuple(float(part) for part in _parse_words(value))
    if len(losses) != _LIMITS or not all(map(isfinite, losses)) or not _rise(losses):
        msg = "write three rising amounts, such as 50,200,1000"
        raise ValueError(msg)
    return losses


def _parse_keys(value: Any) -> tuple[str, ...]:
    keys = _parse_allowed(value)
    for key in keys:
        try:
            length = len(b64decode(key, validate=True))
        except ValueError:
            length = 0
        if length != _KEY_BYTES:
            msg = f"{key!r} is not a public key as `fraudstream models keygen` prints it"
            raise ValueError(msg)
    return keys


def _rise(values: tuple[float, ...]) -> bool:
    return values[0] >= 0 and all(one < next_one for one, next_one in pairwise(values))


def _parse_words(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts)


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


#: Names of feature sets.
Sets = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_sets)]
#: What is accepted of source topics that is refused otherwise.
AllowedConfig = Annotated[
    tuple[Literal["compact", "create-time"], ...], NoDecode, BeforeValidator(_parse_allowed)
]
#: What makes a scored transaction an alert.
AlertCauses = Annotated[
    tuple[Literal["model", "rule", "anomaly"], ...], NoDecode, BeforeValidator(_parse_causes)
]
#: Amounts from which an alert is medium, high, critical.
Losses = Annotated[tuple[float, float, float], NoDecode, BeforeValidator(_parse_losses)]
#: Public keys that models may be signed with.
ModelKeys = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_keys)]
