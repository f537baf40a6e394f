"""The verdicts of labels, found by event time and transaction id; nine bytes per label."""

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

    def __init__(self, labels: Iterable[tuple[int, str, bool]]) -> None:
        """Take labels: event time (epoch ms), transaction id, fraud; one per transaction."""
        hashes, frauds = array("Q"), bytearray()
        for event_time_ms, transaction_id, fraud in labels:
            hashes.append(_hash(event_time_ms, transaction_id))
            frauds.append(fraud)
        found = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(found)
        self._hashes = found[order]
        self._frauds = np.frombuffer(frauds, dtype=np.int8)[order]

    def __len__(self) -> int:
        return len(self._hashes)

    def of(self, keys: Sequence[tuple[int, str]]) -> np.ndarray:
        """`UNKNOWN`, `GENUINE` or `FRAUD` of each (event time in epoch ms, transaction id), int8."""
        if not len(self):
            return np.full(len(keys), UNKNOWN, dtype=np.int8)
        asked = np.array([_hash(at_ms, name) for at_ms, name in keys], dtype=np.uint64)
        at = np.minimum(np.searchsorted(self._hashes, asked), len(self) - 1)
        return np.where(self._hashes[at] == asked, self._frauds[at], np.int8(UNKNOWN))


def _hash(event_time_ms: int, transaction_id: str) -> int:
    return int.from_bytes(hash_id(f"{event_time_ms}\0{transaction_id}"), "big")
