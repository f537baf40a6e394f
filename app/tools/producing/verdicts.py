"""The words with which files say whether a transaction was fraud."""

from typing import Any

from app.tools.producing.sources import MalformedRecordError

_VERDICTS = {
    "0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True,
    "genuine": False, "fraud": True,
}  # fmt: skip


def verdict(value: Any, column: str) -> bool:
    """Whether a field says fraud.

    Args:
        value: the field, as text or as a plain value.
        column: what the file calls it, for the message.

    Raises:
        MalformedRecordError: it says neither.
    """
    try:
        return _VERDICTS[str(value).lower()]
    except KeyError:
        fault = f"{value!r} is not 0, 1, true, false, fraud or genuine"
        raise MalformedRecordError(column, fault) from None
