"""Labels: source records to `enriched`, behind the transactions that they speak of; dead letters.

What needs no look-up is decided in `compute`; `outputs` goes on once the missing cards, terminals and times
have been found (`app/adapters/labels.py` waits for them).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.blocks.batches import Outputs
from app.blocks.partition import Computed, RowReader
from app.domain.times import TimeUnit
from app.domain.transaction import DeadRecordError
from app.handlers.stretch import LOOK_AHEAD, Stretch
from app.input_records import SourceRecord
from app.label_records import LabelItem, LabelRecord, labels_message, parse_label
from app.records import dead_letter
from app.topics import Topics

#: Items of one message on `enriched`.
_PACK_ITEMS = 500


@dataclass(slots=True)
class LabelBlock:
    """The labels of one block of `labels`.

    Attributes:
        partition: the source partition.
        records: its records by offset.
        labels: the valid ones, in order.
        dead: why the others are none, by offset.
    """

    partition: int
    records: dict[int, SourceRecord]
    labels: list[LabelRecord] = field(default_factory=list)
    dead: dict[int, DeadRecordError] = field(default_factory=dict)


class LabelsHandler:
    """See `app.blocks.ports.PacedHandler`; a label's event time is its `labelled_at`.

    It keeps no state: what a replay repeats, the scoring stage drops.

    Args:
        topics: where outputs go.
        partition_of: partition of a key, as the partitioner of producers has it.
        max_future_skew_ms, time_unit: see `parse_label`.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        partition_of: Callable[[bytes], int],
        max_future_skew_ms: int,
        time_unit: TimeUnit = "auto",
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._topics = topics
        self._partition_of = partition_of
        self._rules = max_future_skew_ms, time_unit

    def compute(
        self,
        partition: int,
        records: Sequence[SourceRecord],
        state: RowReader,
        until_ms: float = math.inf,
    ) -> Computed:
        """The valid labels of consecutive records up to an event time, and why others are not."""
        block = LabelBlock(partition, {record.offset: record for record in records})
        stretch = Stretch(until_ms)
        for index, record in enumerate(records):
            try:
                label = parse_label(record.value, record.offset, record.timestamp, *self._rules)
            except DeadRecordError as dead:
                block.dead[record.offset] = dead
                continue
            labelled_at_ms = label.labelled_at_ms
            # A label that must be completed waits for its transaction to be stored. Let through as one whose clock
            # is wrong, it kept its partition back, thereby everybody, thereby that transaction: until it died.
            following = self._event_times(records, index + 1) if label.whole else ()
            if not stretch.reaches(labelled_at_ms, following):
                return Computed(
                    block, [], stretch.first_ms, stretch.newest_ms, index, labelled_at_ms
                )
            block.labels.append(label)
        return Computed(block, [], stretch.first_ms, stretch.newest_ms)

    def _event_times(self, records: Sequence[SourceRecord], start: int) -> Iterator[int | None]:
        for record in records[start : start + LOOK_AHEAD]:
            try:
                label = parse_label(record.value, record.offset, record.timestamp, *self._rules)
            except DeadRecordError:
                yield None
            else:
                yield label.labelled_at_ms

    def outputs(self, block: LabelBlock, lost: Mapping[int, DeadRecordError]) -> Outputs:
        """Messages and dead letters of a block whose labels are whole.

        Args:
            block: the block.
            lost: why a transaction was not found, by the label's offset.
        """
        source, enriched = self._topics.labels.name, self._topics.enriched.name
        dead = {**block.dead, **lost}
        outputs: Outputs = defaultdict(list)
        items: defaultdict[int, list[LabelItem]] = defaultdict(list)
        for label in block.labels:
            if label.offset in lost:
                continue
            assert label.card_id is not None
            assert label.event_time_ms is not None
            # where the transaction went: without a terminal by the card's hash
            key = (label.terminal_id or label.card_id).encode()
            items[self._partition_of(key)].append(
                LabelItem(
                    label.offset, label.received_at, label.transaction_id, label.card_id,
                    label.terminal_id, label.event_time_ms, label.is_fraud, label.labelled_at_ms,
                    label.body,
                )
            )  # fmt: skip
        for partition, found in items.items():
            for start in range(0, len(found), _PACK_ITEMS):
                value = labels_message(source, block.partition, found[start : start + _PACK_ITEMS])
                outputs[enriched, partition].append((None, value, []))
        for offset in sorted(dead):
            letter = dead_letter(source, block.partition, block.records[offset], dead[offset])
            outputs[self._topics.dead_letters.name, block.partition].append(letter)
        self.counts["dead"] += len(dead)
        self.counts["forwarded"] += len(block.labels) - len(lost)
        return outputs
