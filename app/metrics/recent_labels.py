"""The newest labels of this worker, for the live precision: cheap, and bounded."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

#: Labels that are kept.
KEPT = 2_000


class RecentLabel(NamedTuple):
    """What a label says of a transaction.

    Attributes:
        transaction_id, card_id, event_time_ms: the transaction.
        is_fraud: the verdict.
        received_at: when the broker appended the label, epoch milliseconds.
    """

    transaction_id: str
    card_id: str
    event_time_ms: int
    is_fraud: bool
    received_at: int


class RecentLabels:
    """Filled by the stage of labels; of several labels of a transaction, the last one counts."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._labels: dict[tuple[str, int], RecentLabel] = {}

    def add(self, labels: Sequence[Any]) -> None:
        """Take some (`app.wire.label_records.LabelRecord`), which name their transaction in full."""
        for label in labels[-self._kept :]:
            key = label.transaction_id, label.event_time_ms
            self._labels.pop(key, None)  # it becomes the newest
            self._labels[key] = RecentLabel(
                label.transaction_id, label.card_id, label.event_time_ms, label.is_fraud, label.received_at
            )  # fmt: skip
        for key in list(islice(self._labels, max(0, len(self._labels) - self._kept))):
            del self._labels[key]

    def newest(self) -> list[RecentLabel]:
        """All that are kept, newest first."""
        return list(reversed(self._labels.values()))


#: Filled by the stage of labels.
recent_labels = RecentLabels()
