"""The words that say whether a transaction was fraud: the same on the topic `labels` and in files."""

from typing import Any

_WORDS = {
    True: ("1", "1.0", "true", "t", "yes", "y", "fraud"),
    False: ("0", "0.0", "false", "f", "no", "n", "genuine"),
}
_VERDICTS = {word: fraud for fraud, words in _WORDS.items() for word in words}

#: What is accepted, for error messages.
ACCEPTED_VERDICTS = "fraud or genuine, true or false, yes or no, 1 or 0"


def verdict_of(value: Any) -> bool | None:
    """Whether a value says fraud; None when it says neither.

    Text is trimmed and its case is ignored.

    Args:
        value: a plain value (bool, number, text), as it was read.
    """
    return _VERDICTS.get(str(value).strip().lower())
