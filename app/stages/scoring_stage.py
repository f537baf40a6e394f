"""Second stage: enriched transactions to predictions; terminal rows."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.blocks.core.interfaces import Work
from app.blocks.core.partition import Computed, RowReader
from app.domain.alert_policy import AlertPolicy
from app.domain.changes import LoadChange
from app.domain.changes_in_force import InForce
from app.domain.features import Catalogue
from app.domain.label_outcomes import LabelOutcome, TerminalStage
from app.domain.privacy import AS_IT_CAME, Privacy
from app.domain.rules import RulePolicy, kept_policy
from app.domain.transaction import DeadRecordError
from app.errors import StateError
from app.settings import Settings
from app.stages.all_or_nothing import all_or_nothing, computed_or_needed
from app.stages.block_rows import BlockRows, terminal_rules
from app.stages.challenger_scores import Challengers
from app.stages.deployed_alert_policy import alert_policy
from app.stages.erase_waiting_labels import find_waiting, forget_labels, note_waiting
from app.stages.guard_counts import TalliesByChange
from app.stages.model_fallbacks import Champion
from app.stages.reserved_rows import (
    IN_FORCE_KEY,
    PINS_KEY,
    ModelOffsets,
    StatePosition,
    in_force_row,
    read_in_force,
)
from app.stages.row_cache import ROWS_ROOM_BYTES, rows_room_bytes
from app.stages.scoring_models import DecisionInputs, Model, ModelNeeded, judges_of
from app.stages.state_settings import terminal_settings
from app.stages.transaction_scoring import Scored, Segment, TransactionScorer
from app.topics import Topics
from app.windows.waiting_labels import MAX_WAITING_LABELS
from app.windows.window_row import RowRules, WindowRow
from app.wire.control_records import ChangeMessage, Message, decode_message
from app.wire.dead_letters import dead_letter
from app.wire.enriched_records import EnrichedBatch, EnrichedItem
from app.wire.erase_records import EraseMessage
from app.wire.input_records import SourceRecord, privacy_of
from app.wire.label_records import LabelBatch, as_label, given_back


@dataclass(slots=True)
class _BegunBlock:
    """A block whose rows are changed, in memory, and whose transactions are not scored yet.

    Attributes:
        bound: the changes in force before it.
        in_force: those after it.
        changed_at: offset of the newest change; -1 without one.
        newest: offset of the newest message that was not in the state before; None without one.
        taken, needs: see `Computed`.
    """

    partition: int
    state: RowReader
    position: StatePosition
    rows: BlockRows
    bound: InForce
    in_force: InForce = field(init=False)
    changed_at: int = -1
    newest: int | None = None
    taken: int | None = None
    needs: ModelNeeded | None = None
    segments: list[Segment] = field(default_factory=list)
    outputs: defaultdict[tuple[str, int], list[Any]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def __post_init__(self) -> None:
        self.in_force = self.bound

    def computed(self, settings: str) -> Computed:
        """Its outputs and rows, once it is scored."""
        if self.newest is None:
            return Computed(self.outputs, taken=self.taken, needs=self.needs)
        self.position.advance(self.newest, settings)
        changed = (
            [] if self.in_force is self.bound else [[in_force_row(self.in_force, self.changed_at)]]
        )
        # after all other rows: if it is stored, everything before it is durable
        groups = [*self.rows.groups(), *changed, [self.position.encode()]]
        return Computed(self.outputs, groups, taken=self.taken, needs=self.needs)

    def keep(self, in_force: dict[int, InForce]) -> None:
        """Remember what the next block of the partition begins with."""
        if self.newest is not None:
            in_force[self.partition] = self.state.memo["in force"] = self.in_force
            note_waiting(self.rows, self.state)


class ScoringHandler:
    """See `app.blocks.core.partition.Handler`.

    Args:
        stage: computes the terminal's features.
        rules: how long entries are kept.
        topics: where outputs go.
        model: returns the loaded model of a hash; None while it is not loaded: then it is obtained.
        challenger: the same for challengers; None: as `model`.
        clock_ms: the current time, for `scored_at`.
        reasons_from: lowest score for which reasons are stored.
        threshold: replaces the model's own until a change or a row defines one; None: the model's own.
        state_settings: the settings that shape rows.
        rows_room_bytes: see `BlockRows`.
        read: decodes a message of `enriched`; a replay inserts other card features.
        scored_by: the name of this deployment in predictions.
        asked: whether the transaction at a source position is scored, or only counted for others; None: all are
            scored.
        alerts: decides which transactions raise alerts; None: none do.
        tallies: counts the current model's decisions, for the guard.

    Attributes:
        counts: transactions and labels by outcome.
        raised: alerts by severity.
        challengers: computes the challengers' scores.
        champion: computes the current model's scores.
        in_force: by partition, the changes in force after the newest computed record.
    """

    def __init__(
        self,
        stage: TerminalStage,
        rules: RowRules,
        topics: Topics,
        *,
        model: Callable[[str], Model | None],
        clock_ms: Callable[[], int],
        reasons_from: float,
        threshold: float | None,
        state_settings: str,
        challenger: Callable[[str], Model | None] | None = None,
        rows_room_bytes: int = ROWS_ROOM_BYTES,
        read: Callable[[bytes], Message] = decode_message,
        scored_by: str = "fraudstream",
        asked: Callable[[int, EnrichedItem], bool] | None = None,
        privacy: Privacy = AS_IT_CAME,
        alerts: AlertPolicy | None = None,
        tallies: TalliesByChange | None = None,
    ) -> None:
        self.in_force: dict[int, InForce] = {}
        self._stage = stage
        self._catalogue = stage.catalogue
        self._rules = rules
        self._topics = topics
        self.challengers = Challengers(reasons_from)
        self.champion = Champion(reasons_from, tallies or TalliesByChange())
        self._model = model
        self._scorer = TransactionScorer(
            topics,
            stage.catalogue,
            clock_ms=clock_ms,
            reasons_from=reasons_from,
            scored_by=scored_by,
            alerts=alerts,
            champion=self.champion,
            challengers=self.challengers,
        )
        self.counts, self.raised = self._scorer.counts, self._scorer.raised
        self._counters = self.counts, self.raised, self.challengers.failures
        self._challenger = challenger or model
        self._threshold = threshold
        self._settings = state_settings
        self._room = rows_room_bytes
        self._read = read
        self._privacy = privacy
        self._asked = asked
        self.prepare = find_waiting  # see `PreparingHandler`: only an erase record needs it

    @classmethod
    def of(
        cls, settings: Settings, topics: Topics, catalogue: Catalogue, **others: Any
    ) -> "ScoringHandler":
        """The second stage for a deployment's settings; `others` are arguments of the class."""
        return cls(
            TerminalStage(catalogue, settings.label_wait, MAX_WAITING_LABELS),
            terminal_rules(settings),
            topics,
            reasons_from=settings.reasons_from,
            threshold=settings.threshold,
            state_settings=terminal_settings(settings),
            rows_room_bytes=rows_room_bytes(settings),
            scored_by=settings.deployment,
            privacy=privacy_of(settings),
            **{"alerts": alert_policy(settings), **others},
        )

    def compute(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader
    ) -> Computed:
        """Predictions and new rows of consecutive `enriched` messages, up to the first whose model is not loaded."""
        return computed_or_needed(
            lambda: self._compute([Work(partition, records, state)])[0],
            state,
            self.champion.tallies,
            self._counters,
        )

    def compute_many(self, works: Sequence[Work]) -> list[Computed]:
        """See `app.blocks.core.interfaces.JoiningHandler`: the models score all partitions' transactions at once."""
        states = [work.state for work in works]
        return all_or_nothing(
            lambda: self._compute(works), states, self.champion.tallies, self._counters
        )

    def _compute(self, works: Sequence[Work]) -> list[Computed]:
        begun = [self._read_block(*work[:3]) for work in works]
        self._scorer.score([one.segments for one in begun])
        computed = [one.computed(self._settings) for one in begun]
        for one in begun:  # only now: nothing may be kept of blocks that are computed again
            one.keep(self.in_force)
        return computed

    def _read_block(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader
    ) -> "_BegunBlock":
        position = StatePosition.read(state, self._settings)
        in_force = self._in_force(state)
        rows = BlockRows(self._rules, state, self._room)
        begun = _BegunBlock(partition, state, position, rows, in_force)
        # a message at or below the position is in the state already, and its outputs are durable
        fresh = [record for record in records if record.offset > position.last_offset]
        decides: DecisionInputs | None = None
        scored: list[Scored] = []
        policy = kept_policy(state.memo, in_force.rules)
        for index, message in enumerate(fresh):
            batch = self._read(message.value)
            if isinstance(batch, ChangeMessage):
                in_force = self._change(batch, message, in_force)
                begun.in_force, begun.changed_at = in_force, message.offset
                policy = kept_policy(state.memo, in_force.rules)
                continue
            if isinstance(batch, LabelBatch):
                self._label(batch, message.offset, rows, position, begun.outputs)
                continue
            if isinstance(batch, EraseMessage):
                self.counts[forget_labels(batch, message.offset, rows, position, state)] += 1
                continue
            now = self._deciding(message.offset, in_force, state)
            if now != decides:
                follows = judges_of(now, self._model, self._challenger)
                if isinstance(follows, ModelNeeded):
                    begun.needs = follows
                    begun.taken = len(records) - len(fresh) + index
                    fresh = fresh[:index]
                    break
                decides, scored = now, []
                begun.segments.append(Segment(follows, scored))
            scored += self._items(batch, message.offset, rows, position, begun.outputs, policy)
        begun.newest = fresh[-1].offset if fresh else None
        return begun

    def _in_force(self, state: RowReader) -> InForce:
        """The changes in force after the newest record in the state."""
        kept: InForce | None = state.memo.get("in force")
        if kept is None:
            stored = read_in_force(state.get(IN_FORCE_KEY))
            kept = InForce(threshold=self._threshold) if stored is None else stored
        return kept

    def _deciding(self, offset: int, in_force: InForce, state: RowReader) -> DecisionInputs:
        model = in_force.model
        if not model or offset < in_force.first:
            model = ModelOffsets.read(state.get(PINS_KEY)).model_at(offset)
        return DecisionInputs(
            model, in_force.threshold, in_force.challengers, in_force.fallbacks, in_force.since
        )

    def _change(self, message: ChangeMessage, record: SourceRecord, in_force: InForce) -> InForce:
        try:
            change = message.change
        except DeadRecordError as error:
            msg = (
                f"offset {record.offset} of {self._topics.enriched.name} carries a change that this release does not "
                f"know ({error.message}): run the release that made it"
            )
            raise StateError(msg) from None
        changed = in_force.after(change, message.partition, message.offset, message.received_at)
        if changed is not in_force:
            undone = in_force.undone(change, message.partition)
            self.champion.tallies.revert(undone, getattr(change, "cause", ""))
        self.counts["changes" if changed is not in_force else "replayed"] += 1
        if isinstance(change, LoadChange):
            self._challenger(change.hash)  # it is obtained, and no transaction waits for it
        return changed

    def _items(
        self,
        batch: EnrichedBatch,
        offset: int,
        rows: BlockRows,
        position: StatePosition,
        outputs: dict[Any, Any],
        policy: RulePolicy | None,
    ) -> Iterator[Scored]:
        # a transaction keeps the list of features of the worker that processed it first, whatever the present settings
        catalogue = self._catalogue
        schema = batch.schema or position.unnamed
        if schema and schema != catalogue.schema:
            catalogue = catalogue.under(schema)
        seen = position.seen.get(batch.partition, -1)
        for item in batch.items:
            if item.offset <= seen:  # the first stage has sent it before: a replay
                self.counts["replayed"] += 1
                continue
            seen = item.offset
            row = rows.read(item.terminal_id.encode()) if item.terminal_id is not None else None
            if row is not None and not rows.advance(row, offset):
                # cannot and need not be computed again: the row proves that its prediction is durable
                self.counts["replayed"] += 1
                continue
            if row is not None and row.waiting:
                self._give_up(row, item.received_at, outputs)
            features, flags = self._stage.apply(
                row, item.event_time_ms, item.minor, item.flags, item.id8, catalogue, item.own
            )
            if self._asked is not None and not self._asked(batch.partition, item):
                continue
            item.features += features
            flags = item.flags + flags
            yield (
                batch.topic, batch.partition, item, item.features, flags, catalogue, policy,
                outputs,
            )  # fmt: skip
        position.seen[batch.partition] = seen

    def _label(
        self,
        batch: LabelBatch,
        offset: int,
        rows: BlockRows,
        position: StatePosition,
        outputs: dict[Any, Any],
    ) -> None:
        seen = position.labels.get(batch.topic, {}).get(batch.partition, -1)
        for item in batch.items:
            if not batch.looked_up:
                if item.offset <= seen:
                    self.counts["replayed"] += 1
                    continue
                seen = item.offset
            if item.terminal_id is None:  # no feature depends on it
                self.counts["labelled"] += 1
                continue
            row = rows.read(item.terminal_id.encode())
            if not rows.advance(row, offset):
                self.counts["replayed"] += 1
                continue
            became = self._stage.label(row, as_label(batch, item))
            self.counts["labelled"] += became is LabelOutcome.APPLIED
            if row.waiting:
                self._give_up(row, item.received_at, outputs)
        if not batch.looked_up:
            position.labels.setdefault(batch.topic, {})[batch.partition] = seen

    def _give_up(self, row: WindowRow, now_ms: int, outputs: dict[Any, Any]) -> None:
        """Dead-letter labels whose transaction did not arrive."""
        for label in self._stage.given_up(row, now_ms):
            record = given_back(label)
            dead = DeadRecordError(
                "unknown_transaction",
                "no such transaction arrived at its terminal for that time while the label waited",
            )
            letter = dead_letter(
                record.topic, record.partition, record, dead, privacy=self._privacy
            )
            # next to those that agents/labels writes, in the label's own partition
            outputs[self._topics.dead_letters.name, record.partition].append(letter)
            self.counts["expired"] += 1
