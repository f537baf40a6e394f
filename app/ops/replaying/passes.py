"""The two stages once more: the handlers of the live stream, over rows of their own.

Cards go through `transactions` partition by partition, terminals through `enriched`; what a card's features are in
the replay is put into the items on the way. One partition's rows are on disk at a time. Where retention has deleted
what windows look back to, rows begin with a floor, so that predictions are flagged `inexact:...` as live ones are.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.blocks.faust.output_sender import Outputs
from app.domain.features import Catalogue
from app.kafka.partitioner import partition_of
from app.kafka.schema_registry import fetched_schemas
from app.ops.replaying.deciders import ReplayDecisions
from app.ops.replaying.enriched_survey import SourceRecords
from app.ops.temporary_stores import StoredRows
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.card_stage import CardsHandler
from app.stages.deployed_features import catalogue_of
from app.stages.reserved_rows import in_force_row
from app.stages.scoring_models import Model
from app.stages.scoring_stage import ScoringHandler
from app.topics import Topics
from app.windows.window_row import NEVER, RowRules, WindowRow
from app.wire.control_records import ChangeMessage, Message, decode_message
from app.wire.enriched_records import EnrichedBatch, EnrichedItem, decode_enriched
from app.wire.erase_records import erased_card, is_of_erasure
from app.wire.label_records import LabelBatch

#: Records of a block: results do not depend on it.
BLOCK = 1_000


class CardFeatures:
    """What the first stage says of the records of one source partition, by offset; on disk.

    Args:
        sources: which records.
        width: features of a card.
        folder: where the file is made.
    """

    def __init__(self, sources: SourceRecords, width: int, folder: Path) -> None:
        self.sources = sources
        count = len(sources.placed)
        self._known = np.zeros(count, np.bool_)
        self._flags = np.zeros(count, np.uint16)
        self._names: list[tuple[str, ...]] = []
        self._numbers: dict[tuple[str, ...], int] = {}
        shape = (max(1, count), max(1, width))
        path = folder / f"cards-{sources.begin}-{id(self)}.f64"
        self._values = np.memmap(path, np.float64, "w+", shape=shape)
        path.unlink()  # it goes when the last one who has it open does

    def put(self, item: EnrichedItem) -> None:
        """Keep what was computed of one record."""
        row = item.offset - self.sources.begin
        flags = tuple(item.flags)
        number = self._numbers.get(flags)
        if number is None:
            number = self._numbers[flags] = len(self._names)
            self._names.append(flags)
        self._values[row] = item.features
        self._flags[row] = number
        self._known[row] = True

    def fill(self, items: Sequence[EnrichedItem]) -> list[EnrichedItem]:
        """Items with features and flags of the replay; without those of which nothing is known."""
        begin, count = self.sources.begin, len(self._known)
        rows = [item.offset - begin for item in items]
        kept = [
            (row, item)
            for row, item in zip(rows, items, strict=True)
            if 0 <= row < count and self._known[row]
        ]
        values = self._values[[row for row, _ in kept]].tolist()
        for (row, item), features in zip(kept, values, strict=True):
            item.features = features
            item.flags = list(self._names[self._flags[row]])
        return [item for _, item in kept]

    def asked(self, offset: int) -> bool:
        """Whether a record, of which something is known, is asked for."""
        return bool(self.sources.asked[offset - self.sources.begin])

    @property
    def lost(self) -> int:
        """Records that are asked for and of which nothing is known."""
        return int(np.count_nonzero(self.sources.asked & ~self._known))


@dataclass(frozen=True)
class ReplayStages:
    """Both stages as a deployment has them.

    Attributes:
        settings: those of the replay.
        topics: where results go.
        catalogue: the features that are computed.
    """

    settings: Settings
    topics: Topics
    catalogue: Catalogue

    @classmethod
    def of(cls, settings: Settings) -> "ReplayStages":
        """The stages of a deployment."""
        return cls(settings, Topics(settings), catalogue_of(settings))

    def cards(self, **others: Any) -> CardsHandler:
        """The first stage."""
        home = partition_of(self.settings.partitions)
        schemas = fetched_schemas(self.settings)
        return CardsHandler.of(self.settings, self.topics, self.catalogue, home, schemas, **others)

    def scoring(self, model: Callable[[str], Model], **others: Any) -> ScoringHandler:
        """The second stage; `model` gives the loaded model of a hash."""
        return ScoringHandler.of(
            self.settings, self.topics, self.catalogue, model=model, alerts=None, **others
        )


class _Since:
    """A state that knows nothing up to an event time: rows begin as if all before it had left them.

    Args:
        rows: an empty state.
        rules: of its rows.
        floor_ms: the event time.
    """

    def __init__(self, rows: StoredRows, rules: RowRules, floor_ms: int) -> None:
        new = WindowRow.read(b"", rules, lambda _: None)
        new.floor_ms = floor_ms
        ((self._head, self._new),) = new.encode()
        self._rows = rows
        self.memo, self.put = rows.memo, rows.put

    def get(self, key: bytes) -> bytes | None:
        raw = self._rows.get(key)
        return self._new if raw is None and key.startswith(self._head) else raw

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return self._rows.scan(prefix)


class CardPass:
    """Works out the cards of one partition of `transactions`.

    Args:
        stages: the replay's.
        sources: which records count: the others were not scored live, and are none for the replay either.
        rows: an empty state.
        folder: for what is kept.
        known_from_ms: see `app.ops.replaying.look_back_bounds.RetainedRange.from_ms`.

    Attributes:
        found: what was computed.
    """

    def __init__(
        self,
        stages: ReplayStages,
        sources: SourceRecords,
        rows: StoredRows,
        folder: Path,
        known_from_ms: int = NEVER,
    ) -> None:
        width = sum(feature.stage == "card" for feature in stages.catalogue.columns)
        self.found = CardFeatures(sources, width, folder)
        self._handler = stages.cards(conflicts=lambda _, offset: offset in sources.conflicting)
        self._enriched = stages.topics.enriched.name
        self._rows = _Since(rows, row_rules(stages.settings), known_from_ms)

    def take(self, partition: int, records: Sequence[Any]) -> None:
        """Records in offset order."""
        begin, placed = self.found.sources.begin, self.found.sources.placed
        wanted = [r for r in records if placed[r.offset - begin] or erased_card(r) is not None]
        for start in range(0, len(wanted), BLOCK):
            block = wanted[start : start + BLOCK]
            computed = self._handler.compute(partition, block, self._rows, math.inf)
            self._rows.put(computed.groups)
            for (topic, _), messages in computed.outputs.items():
                if topic != self._enriched:
                    continue  # dead or duplicate by other rules than the live ones: counted as lost
                for _, value, _ in messages:
                    if is_of_erasure(value):
                        continue
                    for item in decode_enriched(value).items:
                        self.found.put(item)


class TerminalPass:
    """Scores one partition of `enriched`.

    Args:
        stages: the replay's.
        deciding: what decides.
        cards: by source partition, what the first stage said.
        rows: an empty state.
        reach_ms: event time before which nothing decides a feature.
        clock_ms: the time, for `scored_at`.
        known_from_ms: see `app.ops.replaying.look_back_bounds.RetainedRange.terminals_from_ms`.

    Attributes:
        warmed: transactions that were counted for others and not scored.
        scored: those that were.
    """

    def __init__(
        self,
        stages: ReplayStages,
        deciding: ReplayDecisions,
        cards: Sequence[CardFeatures],
        rows: StoredRows,
        *,
        reach_ms: int,
        clock_ms: Any,
        known_from_ms: int = NEVER,
    ) -> None:
        self.warmed = self.scored = 0
        self._cards = cards
        self._schema = stages.catalogue.schema
        self._rows = _Since(rows, terminal_rules(stages.settings), known_from_ms)
        self._reach_ms = reach_ms
        self._dead = stages.topics.dead_letters.name
        self._handler = stages.scoring(
            deciding.model,
            challenger=deciding.challenger,
            clock_ms=clock_ms,
            read=self._read,
            asked=self._is_asked,
        )
        self._deciding = deciding
        rows.put([[in_force_row(deciding.begins, -1)]])

    def take(self, partition: int, records: Sequence[Any]) -> Outputs:
        """Results of consecutive messages, by topic and partition."""
        computed = self._handler.compute(partition, records, self._rows)
        self._rows.put(computed.groups)
        # a label that waited in vain did so live, and has its dead letter
        return {to: found for to, found in computed.outputs.items() if to[0] != self._dead}

    @property
    def counts(self) -> Counter[str]:
        """What the handler counted."""
        return self._handler.counts

    def _read(self, value: bytes) -> Message:
        batch = decode_message(value)
        if isinstance(batch, EnrichedBatch):
            batch.items = self._cards[batch.partition].fill(batch.items)
            batch.schema = self._schema  # whatever the features were live
        elif isinstance(batch, ChangeMessage):
            return self._deciding.read(batch)
        elif isinstance(batch, LabelBatch):
            # its transaction is not looked at: it would wait for it
            batch.items = [item for item in batch.items if item.event_time_ms >= self._reach_ms]
        return batch

    def _is_asked(self, partition: int, item: EnrichedItem) -> bool:
        asked = self._cards[partition].asked(item.offset)
        self.scored += asked
        self.warmed += not asked
        return asked
