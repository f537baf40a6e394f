"""The words that say whether a transaction was fraud: the same on the topic `labels` and in files."""

import re
from typing import Any

_WORDS = {
    True: ("1", "true", "t", "yes", "y", "fraud"),
    False: ("0", "false", "f", "no", "n", "genuine"),
}
#: 1.0 is 1, and so is a decimal's 1.00.
_DECIMALS = re.compile(r"(?<=^[01])\.0+$", re.ASCII)
_VERDICTS = {word: fraud for fraud, words in _WORDS.items() for word in words}

#: What is accepted, for error messages.
ACCEPTED_VERDICTS = "fraud or genuine, true or false, yes or no, 1 or 0"


def verdict_of(value: Any) -> bool | None:
    """Whether a value says fraud; None when it says neither.

    Text is trimmed and its case is ignored.

    Args:
        value: a plain value (bool, number, text), as it was read.
    """
    word = str(value).strip().lower()
    return _VERDICTS.get(_DECIMALS.sub("", word))
