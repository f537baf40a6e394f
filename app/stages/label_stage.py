"""Labels: source records to `enriched` (after their transactions), parked labels and dead letters.

A label that names card, terminal and event time is forwarded. Any other label is looked up before its block is
computed (`prepare`, with a deadline). If its transaction is not found, the label is parked as a row
(app/stages/parked_labels.py): it delays neither the labels after it nor other partitions.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from app.blocks.core.interfaces import RowScanner
from app.blocks.core.partition import Computed, RowReader
from app.blocks.core.row_groups import Row
from app.blocks.faust.output_sender import Outputs
from app.domain.event_times import TimeUnit
from app.domain.privacy import AS_IT_CAME, Privacy
from app.domain.transaction import DeadRecordError
from app.stages.drift_limit import LOOK_AHEAD, BatchPrefix
from app.stages.parked_labels import (
    PREFIX,
    REASON,
    FoundTransaction,
    ParkedLabel,
    copied_offset,
    erasure_key,
    erasures_of,
    found_in,
    is_erased,
    parked_row,
    read_parked,
    record_of,
    row_key,
    scan,
)
from app.stages.reserved_rows import StatePosition
from app.topics import Topics
from app.wire.dead_letters import dead_letter
from app.wire.erase_records import erased_card
from app.wire.input_records import SourceRecord
from app.wire.label_records import LabelItem, LabelRecord, labels_message, parse_label

#: Largest number of items in one message on `enriched`.
_PACK_ITEMS = 500
#: Why a parked label is given up, by reason code.
_GIVEN_UP = {
    "unknown_transaction": (
        "no such transaction was scored and stored within FRAUDSTREAM_LABEL_WAIT of the label"
    ),
    "ambiguous_transaction": (
        "several transactions have this id: add card_id and event_time"
    ),
}  # fmt: skip

#: The transactions of labels, by the label's offset; a missing label's transaction is not known yet.
Looked = Mapping[int, FoundTransaction | DeadRecordError]


async def nothing_is_found(_labels: Sequence[LabelRecord]) -> Looked:
    """A look-up that finds nothing."""
    return {}


@dataclass(slots=True)
class LabelBlock:
    """The outputs of one block of `labels`.

    Attributes:
        partition: the source partition.
        outputs: messages on `enriched`, and dead letters.
        labels: rows for Cassandra.
    """

    partition: int
    outputs: Outputs = field(default_factory=lambda: defaultdict(list))
    labels: list[LabelRecord] = field(default_factory=list)


class LabelsHandler:
    """See `app.blocks.core.interfaces.AlignedHandler`; a label's event time is its `labelled_at`.

    Args:
        topics: where outputs go.
        partition_of: the partition that producers choose for a key.
        max_future_skew_ms, time_unit: see `parse_label`.
        max_parked: largest number of parked labels per partition.
        look_up: finds the transactions of labels that are known now; never raises, and returns within its deadline.
        privacy: masks refused labels.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        partition_of: Callable[[bytes], int],
        max_future_skew_ms: int,
        time_unit: TimeUnit = "auto",
        max_parked: int = 20_000,
        look_up: Callable[[Sequence[LabelRecord]], Awaitable[Looked]] = nothing_is_found,
        privacy: Privacy = AS_IT_CAME,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._topics = topics
        self._partition_of = partition_of
        self._rules = max_future_skew_ms, time_unit
        self._max_parked = max_parked
        self._look_up = look_up
        self._privacy = privacy

    async def prepare(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader, until_ms: float
    ) -> None:
        """Look up those labels of a block, up to an event time, that do not name their transaction completely."""
        wanting = []
        for record in records:
            if copied_offset(self._topics.labels.name, partition, record) is not None:
                continue
            try:
                label = parse_label(record.value, record.offset, record.timestamp, *self._rules)
            except DeadRecordError:
                continue
            if not label.whole:
                if label.labelled_at_ms > until_ms:
                    break  # the block ends here
                wanting.append(label)
        state.memo["looked"] = await self._look_up(wanting) if wanting else {}

    def compute(
        self,
        partition: int,
        records: Sequence[SourceRecord],
        state: RowReader,
        until_ms: float = math.inf,
    ) -> Computed:
        """Outputs and changed rows of consecutive records up to an event time."""
        block = _Block(
            partition, self._topics, self._partition_of, state, self._max_parked, self._rules,
            self._privacy,
        )  # fmt: skip
        looked: Looked = state.memo.get("looked", {})
        position = StatePosition.read(state, "")
        prefix = BatchPrefix(until_ms)
        taken = next_ms = None
        for index, record in enumerate(records):
            if record.offset <= position.last_offset:
                block.counts["replayed"] += 1  # its row proves that it was processed
                continue
            erased = None if record.value is not None else erased_card(record)
            if erased is not None:
                block.erase(erased, record.offset)
                continue
            copied = copied_offset(self._topics.labels.name, partition, record)
            if copied is not None:
                block.settle(record, copied)
                continue
            try:
                label = parse_label(record.value, record.offset, record.timestamp, *self._rules)
            except DeadRecordError as dead:
                block.dead(record, dead)
                continue
            labelled_at_ms = label.labelled_at_ms
            # A label is looked up once it may be processed; a wrong clock must not cause a look-up
            following = self._event_times(records, index + 1) if label.whole else ()
            if not prefix.reaches(labelled_at_ms, following):
                taken, next_ms = index, labelled_at_ms
                break
            found = None if label.whole else looked.get(record.offset)
            if isinstance(found, DeadRecordError):
                block.dead(record, found)
            elif found is not None:
                block.forward(label, found)
            elif label.whole:
                block.forward(label, None)
            else:
                block.park(record)
        self._count(block)
        groups = block.groups()
        # an erase record always writes a row: Kafka closes the segments of a changelog only when it gets records
        if groups or block.counts["erased"]:
            # after all other rows: if it is stored, every record up to it was processed, and its effects are durable
            position.last_offset = records[-1 if taken is None else taken - 1].offset
            groups.append([position.encode()])
        outputs = LabelBlock(partition, block.outputs(), block.labels)
        return Computed(outputs, groups, prefix.first_ms, prefix.newest_ms, taken, next_ms)

    def _count(self, block: "_Block") -> None:
        self.counts += block.counts
        if block.reasons:
            self.reasons.update(block.reasons)

    def _event_times(self, records: Sequence[SourceRecord], start: int) -> Iterator[int | None]:
        for record in records[start : start + LOOK_AHEAD]:
            try:
                label = parse_label(record.value, record.offset, record.timestamp, *self._rules)
            except DeadRecordError:
                yield None
            else:
                yield label.labelled_at_ms


@dataclass(frozen=True, slots=True)
class _Original:
    """The source record of a parked label, for its dead letter."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


class _Block:
    """Outputs and rows of one block."""

    def __init__(
        self,
        partition: int,
        topics: Topics,
        partition_of: Callable[[bytes], int],
        state: RowReader,
        max_parked: int,
        rules: tuple[int, TimeUnit],
        privacy: Privacy,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: list[str] = []
        self.labels: list[LabelRecord] = []
        self._partition = partition
        self._topics = topics
        self._source = topics.labels.name
        self._partition_of = partition_of
        self._state = state
        self._max_parked = max_parked
        self._rules = rules
        self._privacy = privacy
        self._rows: dict[bytes, bytes | None] = {}
        self._erasures: Row | None = None
        self._letters: dict[int, Any] = {}
        #: by whether they were looked up, and target partition
        self._items: defaultdict[tuple[bool, int], list[LabelItem]] = defaultdict(list)

    def dead(self, record: SourceRecord, dead: DeadRecordError) -> None:
        """Dead-letter the original bytes, with the reason."""
        self._letters[record.offset] = dead_letter(
            self._source, self._partition, record, dead, privacy=self._privacy
        )
        self.counts["dead"] += 1
        self.reasons.append(dead.reason)

    def forward(self, label: LabelRecord, found: FoundTransaction | None) -> None:
        """Send a label to the partition of its transaction's terminal, and to Cassandra; `found` completes it."""
        if found is not None:
            label.card_id, label.terminal_id = found.card_id, found.terminal_id
            label.event_time_ms = found.event_time_ms
        assert label.card_id is not None
        assert label.event_time_ms is not None
        # the partition of the transaction: without a terminal, it follows from the card's hash
        key = (label.terminal_id or label.card_id).encode()
        self._items[found is not None, self._partition_of(key)].append(
            LabelItem(
                label.offset, label.received_at, label.transaction_id, label.card_id,
                label.terminal_id, label.event_time_ms, label.is_fraud, label.labelled_at_ms,
                label.body,
            )
        )  # fmt: skip
        self.labels.append(label)
        self.counts["forwarded"] += 1

    def park(self, record: SourceRecord) -> None:
        """Park a label until its transaction is known; if there are too many, the oldest is dead-lettered."""
        key, raw = parked_row(record)
        parked = self._parked()
        self._rows[key] = raw
        parked[record.offset] = None
        self.counts["parked"] += 1
        if len(parked) > self._max_parked:
            oldest = next(iter(parked))
            msg = (
                f"{self._max_parked} later labels of its partition also wait for their transactions"
            )
            self._give_up(oldest, self._read(oldest), DeadRecordError("too_many_waiting", msg))

    def settle(self, record: SourceRecord, offset: int) -> None:
        """Process the copy of a parked label: its transaction was found, or the label expired."""
        original = self._read(offset)
        if original is None:  # a second copy, or the label was dead-lettered in the meantime
            self.counts["repeated"] += 1
            return
        reason = next(
            (
                raw.decode(errors="replace")
                for name, raw in record.headers
                if name == REASON and raw
            ),
            None,
        )
        try:
            if reason is not None:
                if reason not in _GIVEN_UP:
                    raise DeadRecordError(
                        "invalid_copy", f"a parked label has no reason {reason[:40]!r}"
                    )
                self._give_up(offset, original, DeadRecordError(reason, _GIVEN_UP[reason]))
                return
            found = found_in(record)
            label = record_of(original, offset, *self._rules)
        except DeadRecordError as dead:
            self.dead(record, dead)
            return
        self.forward(label, found)
        self._remove(offset)

    def erase(self, card_id: str, at: int) -> None:
        """Parked labels are kept as they came: those that name the card go, and none of before may come back."""
        erasures = erasures_of(self._state)
        erasures.add(erasure_key(card_id.encode()), at)
        self._erasures = erasures.row(at)
        for offset in list(self._parked()):
            original = self._read(offset)
            if original is not None and is_erased(original, offset, erasures):
                self._remove(offset)
        self.counts["erased"] += 1

    def _give_up(self, offset: int, original: ParkedLabel | None, dead: DeadRecordError) -> None:
        assert original is not None
        one = _Original(offset, original.timestamp, original.key, original.value, original.headers)
        self.dead(one, dead)
        self._remove(offset)

    def _remove(self, offset: int) -> None:
        self._rows[row_key(offset)] = None
        self._parked().pop(offset, None)

    def _read(self, offset: int) -> ParkedLabel | None:
        key = row_key(offset)
        raw = self._rows[key] if key in self._rows else self._state.get(key)
        return None if raw is None else read_parked(raw)

    def _parked(self) -> dict[int, None]:
        """Offsets of the parked labels, in order: scanned once, then kept while the partition is assigned."""
        parked: dict[int, None] | None = self._state.memo.get("parked")
        if parked is None:
            rows = cast(RowScanner, self._state).scan(PREFIX)
            parked = self._state.memo["parked"] = dict.fromkeys(scan(rows))
        return parked

    def groups(self) -> list[Any]:
        """The changed rows, one group per row."""
        groups = [[row] for row in self._rows.items()]
        return groups if self._erasures is None else [[self._erasures], *groups]

    def outputs(self) -> Outputs:
        """Messages on `enriched`, and dead letters in the order of offsets."""
        outputs: Outputs = defaultdict(list)
        for (looked_up, partition), items in self._items.items():
            for start in range(0, len(items), _PACK_ITEMS):
                pack = items[start : start + _PACK_ITEMS]
                value = labels_message(self._source, self._partition, pack, looked_up=looked_up)
                outputs[self._topics.enriched.name, partition].append((None, value, []))
        if self._letters:
            outputs[self._topics.dead_letters.name, self._partition] += [
                self._letters[offset] for offset in sorted(self._letters)
            ]
        return outputs
