"""First stage: source records to `enriched`, dead letters, duplicates, refunds, misrouted records and card rows."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from app.blocks.core.partition import Computed, RowReader
from app.blocks.faust.output_sender import Outputs
from app.domain.features import Catalogue
from app.domain.transaction import DeadRecordError, NotReadableYetError, Transaction
from app.domain.transaction_outcomes import CardStage, Duplicate, Enriched, Misrouted, Refund
from app.settings import Settings
from app.stages.block_rows import BlockRows, row_rules
from app.stages.drift_limit import LOOK_AHEAD, BatchPrefix
from app.stages.reserved_rows import StatePosition
from app.stages.row_cache import ROWS_ROOM_BYTES, rows_room_bytes
from app.stages.state_settings import state_settings
from app.topics import Topics
from app.windows.window_row import RowRules
from app.wire.dead_letters import dead_letter
from app.wire.decoding.record_rules import record_rules
from app.wire.decoding.schemas import Schemas
from app.wire.enriched_records import EnrichedItem, encode_item, enriched_message
from app.wire.erase_records import erase_message, erased_card
from app.wire.input_records import RecordRules, SourceRecord, parse_transaction
from app.wire.output_records import duplicate_message, refund_message, source_position

#: Items are packed into messages of about this size.
_PACK_BYTES = 128 * 1024
#: A misrouted record with larger headers is dead-lettered, not forwarded: it might not fit into a batch.
_HEADER_BYTES = 16 * 1024


class CardsHandler:
    """See `app.blocks.core.interfaces.AlignedHandler`.

    Args:
        stage: determines the outcome of a transaction and computes the card's features.
        rules: how long entries are kept.
        record_rules: what a valid record is.
        topics: where outputs go.
        partition_of: the partition that producers choose for a key.
        forward_moved: forward misrouted records; otherwise they are dead-lettered.
        state_settings: the settings that shape rows.
        rows_room_bytes: see `BlockRows`.
        conflicts: whether the record at an offset of a partition conflicts, if that was decided before: a replay takes
            it from `enriched`, because it does not read the earlier record. None: the rows decide.
    """

    def __init__(
        self,
        stage: CardStage,
        rules: RowRules,
        record_rules: RecordRules,
        topics: Topics,
        *,
        partition_of: Callable[[bytes], int],
        forward_moved: bool,
        state_settings: str,
        rows_room_bytes: int = ROWS_ROOM_BYTES,
        conflicts: Callable[[int, int], bool] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._stage = stage
        self._rules = rules
        self._record_rules = record_rules
        self._topics = topics
        self._partition_of = partition_of
        self._forward_moved = forward_moved
        self._settings = state_settings
        self._room = rows_room_bytes
        self._conflicts = conflicts

    @classmethod
    def of(
        cls,
        settings: Settings,
        topics: Topics,
        catalogue: Catalogue,
        partition_of: Callable[[bytes], int],
        schemas: Schemas | None = None,
        **others: Any,
    ) -> "CardsHandler":
        """The first stage for a deployment's settings; `others` are arguments of the class."""
        return cls(
            CardStage(catalogue, settings.allowed_lateness, partition_of),
            row_rules(settings),
            record_rules(settings, schemas),
            topics,
            partition_of=partition_of,
            forward_moved=settings.moved == "forward",
            state_settings=state_settings(settings),
            rows_room_bytes=rows_room_bytes(settings),
            **others,
        )

    def compute(
        self,
        partition: int,
        records: Sequence[SourceRecord],
        state: RowReader,
        until_ms: float = math.inf,
    ) -> Computed:
        """Outputs and new rows of consecutive source records, up to an event time."""
        rows = BlockRows(self._rules, state, self._room)
        block = _Block(partition, self._topics, self._record_rules, self._stage.catalogue)
        prefix = BatchPrefix(until_ms)
        taken = next_ms = needs = None
        for index, record in enumerate(records):
            if record.value is None and self._erases(record, partition, rows, block):
                continue
            try:
                transaction = self._parse(record)
                event_time_ms = transaction.event_time_ms
                within = prefix.reaches(event_time_ms, self._event_times(records, index + 1))
            except DeadRecordError as dead:
                named = dead.card_id is not None
                if not named or rows.advance(rows.read(record.key), record.offset):
                    block.dead(record, dead)
                continue
            except NotReadableYetError as unread:
                taken, needs = index, unread.schema
                break
            if not within:
                taken, next_ms = index, event_time_ms
                break
            row = rows.read(record.key)
            if not rows.advance(row, record.offset):
                block.counts["replayed"] += 1
                continue
            decided = None if self._conflicts is None else self._conflicts(partition, record.offset)
            outcome = self._stage.apply(transaction, row, partition, conflicts=decided)
            if isinstance(outcome, Enriched):
                terminal = transaction.terminal_id or transaction.card_id
                block.enriched(record, outcome, self._partition_of(terminal.encode()))
            elif isinstance(outcome, Duplicate):
                block.duplicate(record, transaction)
            elif isinstance(outcome, Refund):
                block.refund(record, transaction)
            else:
                block.moved(record, outcome, forward=self._forward_moved)
        if taken == 0:
            return Computed(taken=0, next_ms=next_ms, needs=needs)
        self._count(block)
        position = StatePosition.read(state, self._settings)
        last = records[-1 if taken is None else taken - 1]
        # a replay starts below it; recovery would take a lower position for that of a zombie
        position.advance(max(position.last_offset, last.offset), self._settings)
        return Computed(
            block.outputs(),
            [*rows.groups(), [position.encode()]],
            prefix.first_ms,
            prefix.newest_ms,
            taken,
            next_ms,
            needs,
        )

    def _count(self, block: "_Block") -> None:
        self.counts += block.counts
        if block.reasons:
            self.reasons.update(block.reasons)

    def _erases(
        self, record: SourceRecord, partition: int, rows: BlockRows, block: "_Block"
    ) -> bool:
        """Forget a card if a record orders that; whether it does.

        Another partition than the card's has a row of it where a misrouted or refused record came to it. The card's own
        partition alone orders the scoring stage to forget it.
        """
        if erased_card(record) is None:
            return False
        home = self._partition_of(record.key) == partition
        there = home or rows.read(record.key).last_offset >= 0
        if there and rows.delete(record.key, record.offset) and home:
            block.erase(record)
        return True

    def _event_times(self, records: Sequence[SourceRecord], start: int) -> Iterator[int | None]:
        for record in records[start : start + LOOK_AHEAD]:
            try:
                yield self._parse(record).event_time_ms
            except DeadRecordError:
                yield None

    def _parse(self, record: SourceRecord) -> Transaction:
        return parse_transaction(
            record.value, record.key, record.timestamp, self._record_rules, record.headers
        )


class _Block:
    """Outputs of one block, by destination, in source order."""

    def __init__(
        self, partition: int, topics: Topics, rules: RecordRules, catalogue: Catalogue
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: list[str] = []
        self._catalogue = catalogue
        self._partition = partition
        self._rules = rules
        self._topics = topics
        self._source = topics.transactions.name
        self._outputs: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)
        self._items: defaultdict[int, list[bytes]] = defaultdict(list)

    def dead(self, record: SourceRecord, dead: DeadRecordError) -> None:
        """Dead-letter the original bytes, with the reason."""
        rules = self._rules
        letter = dead_letter(
            self._source, self._partition, record, dead, rules.max_bytes, rules.privacy
        )
        self._outputs[self._topics.dead_letters.name, self._partition].append(letter)
        self.counts["dead"] += 1
        self.reasons.append(dead.reason)

    def duplicate(self, record: SourceRecord, transaction: Transaction) -> None:
        """Add an entry to `duplicates`."""
        value = duplicate_message(
            self._source, self._partition, record, transaction, self._rules.currency
        )
        destination = (self._topics.duplicates.name, self._partition)
        self._outputs[destination].append((record.key, value, []))
        self.counts["duplicate"] += 1

    def refund(self, record: SourceRecord, transaction: Transaction) -> None:
        """Send a refund to its topic."""
        value = refund_message(self._source, self._partition, record, transaction)
        self._outputs[self._topics.refunds.name, self._partition].append((record.key, value, []))
        self.counts["refund"] += 1

    def erase(self, record: SourceRecord) -> None:
        """Send an erase record to every partition of `enriched`, after the items that precede it."""
        self._send_items()
        value = erase_message(self._source, self._partition, record.offset, record.key.decode())
        for partition in range(self._topics.enriched.partitions):
            self._outputs[self._topics.enriched.name, partition].append((None, value, []))
        self.counts["erased"] += 1

    def moved(self, record: SourceRecord, moved: Misrouted, *, forward: bool) -> None:
        """Forward a misrouted record to the card's partition, with its origin in a header."""
        heavy = sum(len(name) + len(raw or b"") for name, raw in record.headers) > _HEADER_BYTES
        if not forward or heavy:
            message = (
                f"the record is in partition {self._partition}, its card's is {moved.partition}"
            )
            if heavy:
                message += (
                    f", and with more than {_HEADER_BYTES} bytes of headers it is not forwarded"
                )
            self.dead(record, DeadRecordError("moved", message))
            return
        origin = source_position(self._source, self._partition, record.offset)
        headers = [*record.headers, ("origin", origin)]
        destination = (self._source, moved.partition)
        self._outputs[destination].append((record.key, record.value, headers))
        self.counts["moved"] += 1

    def enriched(self, record: SourceRecord, enriched: Enriched, partition: int) -> None:
        """Send a transaction to its terminal's partition."""
        transaction = enriched.transaction
        item = EnrichedItem(
            record.offset,
            record.timestamp,
            transaction.transaction_id,
            transaction.card_id,
            transaction.terminal_id,
            transaction.minor,
            transaction.event_time_ms,
            transaction.body,
            enriched.features,
            enriched.flags,
            [*self._catalogue.own.codes("terminal", transaction.own)] if transaction.own else [],
        )
        self._items[partition].append(encode_item(item))
        self.counts["enriched"] += 1

    def outputs(self) -> Outputs:
        """All outputs, with the enriched items packed into messages."""
        self._send_items()
        return self._outputs

    def _send_items(self) -> None:
        for partition, items in self._items.items():
            destination = self._outputs[self._topics.enriched.name, partition]
            pack: list[bytes] = []
            filled = 0
            for item in items:
                if pack and filled + len(item) > _PACK_BYTES:
                    destination.append((None, self._message(pack), []))
                    pack, filled = [], 0
                pack.append(item)
                filled += len(item)
            destination.append((None, self._message(pack), []))
        self._items.clear()

    def _message(self, items: list[bytes]) -> bytes:
        return enriched_message(self._source, self._partition, items, self._catalogue.schema)
