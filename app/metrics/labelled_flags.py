"""Labels of flagged transactions by time of arrival: what live precision counts. Bounded."""

from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, NamedTuple

from app.durations import DAY_MS

#: Labels that arrived in this time count, to the five minutes.
WINDOW_MS = DAY_MS
_SLOT_MS = 300_000
#: Labels whose decision is not known yet; further ones displace the oldest, and the count is no longer complete.
MOST_UNDECIDED = 20_000
#: Flagged transactions of which a later label replaces the first; of older ones it counts once more.
MOST_REPLACEABLE = 50_000
#: A transaction: its id and event time (epoch ms).
Key = tuple[str, int]


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

    @property
    def key(self) -> Key:
        """Its transaction."""
        return self.transaction_id, self.event_time_ms


class LabelledFlags:
    """Filled by the stage of labels; whoever knows what was decided about their transactions calls `decided`."""

    def __init__(
        self, most_undecided: int = MOST_UNDECIDED, most_replaceable: int = MOST_REPLACEABLE
    ) -> None:
        self._most_undecided, self._most_replaceable = most_undecided, most_replaceable
        self._undecided: dict[Key, RecentLabel] = {}
        # by a hash of the transaction: the slot in which its label counts, and what it said
        self._counted: dict[int, tuple[int, bool]] = {}
        # by slot: flagged transactions, and frauds among them
        self._slots: dict[int, list[int]] = {}
        self._next_offsets: dict[int, int] = {}
        self._since: dict[int, int] = {}
        self._displaced_ms = 0

    def assigned(self, partition: int, offset: int, now_ms: int) -> None:
        """A partition of `labels` begins here. Labels before its offset that did not pass this worker are unknown.

        Args:
            partition: its number.
            offset: the next one.
            now_ms: the present, epoch milliseconds.
        """
        if offset > self._next_offsets.get(partition, 0):
            self._since[partition] = now_ms
        self._next_offsets[partition] = offset

    def add(self, partition: int, labels: Sequence[Any]) -> None:
        """Take some (`app.wire.label_records.LabelRecord`), which name their transaction in full."""
        for label in labels:
            one = RecentLabel(
                label.transaction_id, label.card_id, label.event_time_ms, label.is_fraud, label.received_at
            )  # fmt: skip
            counted = self._counted.pop(hash(one.key), None)
            if counted is not None:  # it was flagged: this label counts instead
                self._count(*counted, by=-1)
                self._add(one)
            else:
                self._undecided.pop(one.key, None)  # it becomes the newest
                self._undecided[one.key] = one
            self._next_offsets[partition] = label.offset + 1
        for key in list(
            islice(self._undecided, max(0, len(self._undecided) - self._most_undecided))
        ):
            self._displaced_ms = max(self._displaced_ms, self._undecided.pop(key).received_at)

    def undecided(self, most: int, now_ms: int) -> list[RecentLabel]:
        """The oldest labels of the window whose decision is not known yet."""
        begin_ms = now_ms - WINDOW_MS
        # a worker that catches up reads labels of weeks
        for old in [*takewhile(lambda one: one.received_at <= begin_ms, self._undecided.values())]:
            del self._undecided[old.key]
        return list(islice(self._undecided.values(), most))

    def decided(self, labels: Sequence[RecentLabel], flagged: Mapping[Key, bool]) -> None:
        """Count those of some labels whose transactions were flagged.

        Args:
            labels: as `undecided` gave them.
            flagged: by transaction; those that are not stored are left out.
        """
        for key in (label.key for label in labels):
            newest = self._undecided.pop(key, None)  # another label may have come meanwhile
            if newest is not None and flagged.get(key):
                self._add(newest)

    def counts(self, now_ms: int) -> tuple[int, int, int]:
        """Flagged transactions with a label of the window, frauds among them, and from when on that is complete.

        That moment is epoch milliseconds; 0: no label of the whole window is missing.
        """
        begin_ms = now_ms - WINDOW_MS
        for slot in [slot for slot in self._slots if (slot + 1) * _SLOT_MS <= begin_ms]:
            del self._slots[slot]
        since_ms = max((self._displaced_ms, *self._since.values()))
        return (
            sum(flagged for flagged, _ in self._slots.values()),
            sum(frauds for _, frauds in self._slots.values()),
            since_ms if since_ms > begin_ms else 0,
        )

    def _add(self, label: RecentLabel) -> None:
        slot = label.received_at // _SLOT_MS
        self._count(slot, label.is_fraud)
        self._counted[hash(label.key)] = slot, label.is_fraud
        if len(self._counted) > self._most_replaceable:
            del self._counted[next(iter(self._counted))]

    def _count(self, slot: int, is_fraud: bool, *, by: int = 1) -> None:  # noqa: FBT001
        counts = self._slots.setdefault(slot, [0, 0])
        counts[0] += by
        counts[1] += by * is_fraud


#: Filled by the stage of labels.
labelled_flags = LabelledFlags()
