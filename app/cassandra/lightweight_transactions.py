"""Lightweight transactions whose outcome is unknown: they are repeated, which must be safe."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from cassandra import OperationTimedOut, ReadTimeout, WriteFailure, WriteTimeout
from cassandra.protocol import ErrorMessage

from app.errors import NotAnsweringError

#: CAS_WRITE_UNKNOWN of protocol v5, which the driver does not know by name.
_CAS_WRITE_UNKNOWN = 0x1700
#: Attempts of a lightweight transaction whose outcome nobody could tell.
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2

T = TypeVar("T")


def is_unknown(error: Exception) -> bool:
    """Whether a failed write may have been applied all the same."""
    if isinstance(error, ErrorMessage) and error.code == _CAS_WRITE_UNKNOWN:
        return True
    return isinstance(error, (WriteTimeout, WriteFailure, OperationTimedOut))


def settled(attempt: Callable[[], T]) -> T:
    """What a lightweight transaction answers; one whose outcome is unknown is repeated, which must be safe.

    Raises:
        NotAnsweringError: it stays unknown.
    """
    for number in range(_ATTEMPTS):
        time.sleep(number * _PAUSE_SECONDS * random.random())  # noqa: S311 -- rivals would meet again
        try:
            return attempt()
        except Exception as error:
            # a serial read is a round of the same protocol, and fails by the same contention
            if not is_unknown(error) and not isinstance(error, ReadTimeout):
                raise
    msg = "it is unknown whether Cassandra has stored the change: try again"
    raise NotAnsweringError(msg)
