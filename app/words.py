"""Types of settings that are lists of words, comma separated in the environment."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def _parse_sets(value: Any) -> tuple[str, ...]:
    sets = _parse_words(value)
    if not sets or not all(sets) or len(set(sets)) != len(sets):
        msg = "name different feature sets, such as basic or basic,handbook"
        raise ValueError(msg)
    return sets


def _parse_allowed(value: Any) -> tuple[str, ...]:
    return tuple(filter(None, _parse_words(value)))


def _parse_words(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts)


#: Names of feature sets.
Sets = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_sets)]
#: What is accepted of source topics that is refused otherwise.
AllowedConfig = Annotated[
    tuple[Literal["compact", "create-time"], ...], NoDecode, BeforeValidator(_parse_allowed)
]
