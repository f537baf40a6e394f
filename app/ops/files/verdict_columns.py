"""The verdict column of a file."""

from typing import Any

import orjson

from app.domain.verdict_words import ACCEPTED_VERDICTS, verdict_of
from app.ops.files.file_source import MalformedRecordError
from app.ops.files.json_lines import JsonNumber


def verdict(value: Any, column: str) -> bool:
    """Whether a field says fraud.

    Args:
        value: the field, as text or as a plain value.
        column: what the file calls it, for the message.

    Raises:
        MalformedRecordError: it says neither.
    """
    if value is None or value == "":
        raise MalformedRecordError(column, "is empty")
    fraud = verdict_of(value)
    if fraud is None:
        raise MalformedRecordError(column, f"{_shown(value)} is not {ACCEPTED_VERDICTS}")
    return fraud


def _shown(value: Any) -> str:
    if isinstance(value, orjson.Fragment):
        return "an object or array"
    return str(value) if isinstance(value, JsonNumber) else f"{value!r:.60}"
