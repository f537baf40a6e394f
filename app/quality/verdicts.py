"""The verdicts of labels, found by card and transaction; nine bytes a label."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from app.domain.transaction import hash_id

#: Verdicts as `Verdicts.of` gives them.
UNKNOWN, GENUINE, FRAUD = -1, 0, 1


class Verdicts:
    """What is known of transactions.

    Transactions are told apart by a hash of 64 bits: of ten million, two share one once in 370,000 times.
    """

    def __init__(self, labels: Iterable[tuple[str, str, bool]]) -> None:
        """Take labels: card id, transaction id, fraud. Of one transaction the first holds, and all stand together."""
        hashes, frauds = array("Q"), bytearray()
        before: tuple[str, str] | None = None
        for card_id, transaction_id, fraud in labels:
            if (card_id, transaction_id) != before:
                before = (card_id, transaction_id)
                hashes.append(_hash(card_id, transaction_id))
                frauds.append(fraud)
        found = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(found)
        self._hashes = found[order]
        self._frauds = np.frombuffer(frauds, dtype=np.int8)[order]

    def __len__(self) -> int:
        return len(self._hashes)

    def of(self, keys: Sequence[tuple[str, str]]) -> np.ndarray:
        """`UNKNOWN`, `GENUINE` or `FRAUD` of each (card id, transaction id), int8."""
        if not len(self):
            return np.full(len(keys), UNKNOWN, dtype=np.int8)
        asked = np.array([_hash(card, name) for card, name in keys], dtype=np.uint64)
        at = np.minimum(np.searchsorted(self._hashes, asked), len(self) - 1)
        return np.where(self._hashes[at] == asked, self._frauds[at], np.int8(UNKNOWN))


def _hash(card_id: str, transaction_id: str) -> int:
    return int.from_bytes(hash_id(f"{card_id}\0{transaction_id}"), "big")
