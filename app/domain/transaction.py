"""A valid transaction, and what an input becomes when it is not one."""

from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any


def hash_id(transaction_id: str) -> bytes:
    """64-bit hash of a transaction id (32 bits would lose payments to false duplicates)."""
    return blake2b(transaction_id.encode(), digest_size=8).digest()


@dataclass(slots=True)
class Transaction:
    """One card transaction that passed every check.

    Attributes:
        transaction_id, card_id, terminal_id: as they came; terminal_id may be None.
        minor: amount in minor units of the deployment's currency; below zero for a refund.
        event_time_ms: epoch milliseconds.
        body: the input object as JSON bytes without surrounding white space: `{...}`.
        own: values of the deployment's own fields, in the order in which it declares them.
    """

    transaction_id: str
    card_id: str
    terminal_id: str | None
    minor: int
    event_time_ms: int
    body: bytes
    own: tuple[Any, ...] = ()

    @property
    def id8(self) -> bytes:
        """64-bit hash of the transaction id."""
        return hash_id(self.transaction_id)


class NotReadableYetError(Exception):
    """An input whose schema is not here: whether it is valid is decided once that was fetched.

    Attributes:
        schema: what identifies the schema.
    """

    def __init__(self, schema: Hashable) -> None:
        super().__init__(f"the schema {schema} has not been fetched")
        self.schema = schema


class DeadRecordError(Exception):
    """An input that cannot become a valid transaction.

    Attributes:
        reason: a stable code, such as `negative_amount`.
        message: a sentence for people.
        card_id: the card it names, None when that cannot be told.
    """

    def __init__(self, reason: str, message: str, card_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.card_id = card_id
