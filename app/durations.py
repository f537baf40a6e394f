"""Durations as settings and options write them: milliseconds inside, text such as `30d` outside."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

DAY_MS = 86_400_000
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_MOST_MS = 36_525 * DAY_MS
_DURATION = re.compile(r"(\d+)\s*(ms|s|m|h|d)", re.ASCII)


def parse_duration_ms(value: Any) -> int:
    """Milliseconds of a duration written like `90s`, `1h` or `30d`.

    Raises:
        ValueError: the text is not a whole number followed by ms, s, m, h or d.
    """
    if isinstance(value, int):
        return value
    match = _DURATION.fullmatch(str(value).strip())
    if not match:
        msg = f"{value!r} is not a duration; write a number and ms, s, m, h or d, such as 30d"
        raise ValueError(msg)
    duration_ms = int(match[1]) * _UNIT_MS[match[2]]
    if duration_ms > _MOST_MS:
        msg = f"{value} is more than {_MOST_MS // DAY_MS:,}d, which is 100 years"
        raise ValueError(msg)
    return duration_ms


def format_duration(ms: int) -> str:
    """The shortest spelling of a duration: 86400000 -> 1d."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNIT_MS[unit] == 0:
            return f"{ms // _UNIT_MS[unit]}{unit}"
    return f"{ms}ms"


def _parse_windows(value: Any) -> tuple[int, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    windows = tuple(parse_duration_ms(part) for part in parts)
    if not windows or min(windows) <= 0 or list(windows) != sorted(set(windows)):
        msg = "windows must be different, longer than zero and in rising order, such as 1h,1d,7d"
        raise ValueError(msg)
    return windows


_DURATION_VALIDATOR = BeforeValidator(parse_duration_ms)
Duration = Annotated[int, _DURATION_VALIDATOR]
Windows = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_parse_windows)]


def is_duration(field: FieldInfo) -> bool:
    """Whether a setting is written as a duration."""
    return _DURATION_VALIDATOR in field.metadata
