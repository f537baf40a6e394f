"""Second stage: enriched transactions to predictions; terminal rows."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from app.blocks.core.partition import Computed, RowReader
from app.blocks.faust.batches import OutRecord
from app.deployments import SCORED_BY
from app.domain.alerts import AlertPolicy
from app.domain.changes import InForce, LoadChange
from app.domain.features import Catalogue
from app.domain.flags import ANOMALY
from app.domain.privacy import AS_IT_CAME, Privacy
from app.domain.rules import RuleOutcome, RulePolicy, kept_policy, outcome_of
from app.domain.terminal_stage import LabelOutcome, TerminalStage
from app.domain.transaction import DeadRecordError
from app.domain.transaction_outcomes import CONFLICTING, LATE
from app.errors import StateError
from app.settings import Settings
from app.stages.alerts import alert_policy
from app.stages.challengers import CanaryDecision, Challengers
from app.stages.champion import Champion, TalliesByChange
from app.stages.erasing import find_waiting, forget_labels, note_waiting
from app.stages.needed_fallbacks import computed_or_needed
from app.stages.scorers import (
    DecisionInputs,
    Model,
    ModelNeeded,
    ScoringModels,
    judges_of,
    rearranged,
)  # fmt: skip
from app.stages.state import (
    IN_FORCE_KEY,
    MAX_WAITING_LABELS,
    PINS_KEY,
    ROWS_ROOM_BYTES,
    BlockRows,
    ModelOffsets,
    StatePosition,
    in_force_row,
    read_in_force,
    rows_room_bytes,
    terminal_rules,
    terminal_settings,
)
from app.topics import Topics
from app.windows.window_row import RowRules, WindowRow
from app.wire.control_records import ChangeMessage, Message, decode_message
from app.wire.dead_letters import dead_letter
from app.wire.enriched_records import EnrichedBatch, EnrichedItem
from app.wire.erase_records import EraseMessage
from app.wire.input_records import SourceRecord, privacy_of
from app.wire.label_records import LabelBatch, as_label, given_back
from app.wire.output_records import alert_record, prediction_message

#: Topic, partition, transaction, features, flags, feature schema, and rules and lists.
Scored = tuple[str, int, EnrichedItem, list[float], list[str], Catalogue, RulePolicy | None]


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
        self.counts: Counter[str] = Counter()
        self.raised: Counter[str] = Counter()
        self.in_force: dict[int, InForce] = {}
        self._stage = stage
        self._catalogue = stage.catalogue
        self._rules = rules
        self._topics = topics
        self.challengers = Challengers(reasons_from)
        self.champion = Champion(reasons_from, tallies or TalliesByChange())
        self._model = model
        self._challenger = challenger or model
        self._clock_ms = clock_ms
        self._reasons_from = reasons_from
        self._threshold = threshold
        self._settings = state_settings
        self._room = rows_room_bytes
        self._read = read
        self._scored_by = scored_by
        self._privacy = privacy
        self._asked = asked
        self._alerts = alerts
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
        counters = self.counts, self.raised, self.challengers.failures
        return computed_or_needed(
            lambda: self._compute(partition, records, state), state, self.champion.tallies, counters
        )

    def _compute(
        self, partition: int, records: Sequence[SourceRecord], state: RowReader
    ) -> Computed:
        position = StatePosition.read(state, self._settings)
        in_force = bound = self._in_force(state)
        rows = BlockRows(self._rules, state, self._room)
        outputs: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)
        # a message at or below the position is in the state already, and its outputs are durable
        fresh = [record for record in records if record.offset > position.last_offset]
        taken, needs, changed_at = None, None, -1
        decides: DecisionInputs | None = None
        judges: ScoringModels | None = None
        scored: list[Scored] = []
        policy = kept_policy(state.memo, in_force.rules)
        for index, message in enumerate(fresh):
            batch = self._read(message.value)
            if isinstance(batch, ChangeMessage):
                in_force, changed_at = self._change(batch, message, in_force), message.offset
                policy = kept_policy(state.memo, in_force.rules)
                continue
            if isinstance(batch, LabelBatch):
                self._label(batch, message.offset, rows, position, outputs)
                continue
            if isinstance(batch, EraseMessage):
                self.counts[forget_labels(batch, message.offset, rows, position, state)] += 1
                continue
            now = self._deciding(message.offset, in_force, state)
            if now != decides:
                follows = judges_of(now, self._model, self._challenger)
                if isinstance(follows, ModelNeeded):
                    taken, needs = len(records) - len(fresh) + index, follows
                    fresh = fresh[:index]
                    break
                self._score_all(judges, scored, outputs)
                judges, decides, scored = follows, now, []
            scored += self._items(batch, message.offset, rows, position, outputs, policy)
        self._score_all(judges, scored, outputs)
        if not fresh:
            return Computed(outputs, taken=taken, needs=needs)
        position.advance(fresh[-1].offset, self._settings)
        self.in_force[partition] = state.memo["in force"] = in_force
        note_waiting(rows, state)
        changed = [] if in_force is bound else [[in_force_row(in_force, changed_at)]]
        # after all other rows: if it is stored, everything before it is durable
        groups = [*rows.groups(), *changed, [position.encode()]]
        return Computed(outputs, groups, taken=taken, needs=needs)

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
            yield batch.topic, batch.partition, item, item.features, flags, catalogue, policy
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
            self.counts["given up"] += 1

    def _score_all(
        self,
        judges: ScoringModels | None,
        scored: list[Scored],
        outputs: dict[Any, Any],
    ) -> None:
        if judges is None:
            return
        for catalogue, same in groupby(scored, itemgetter(5)):
            self._score(judges, catalogue, list(same), outputs)

    def _score(
        self,
        judges: ScoringModels,
        catalogue: Catalogue,
        scored: list[Scored],
        outputs: dict[Any, Any],
    ) -> None:
        found = np.array([features for _, _, _, features, _, _, _ in scored])

        def features_of(model: Model) -> np.ndarray:
            if catalogue is self._catalogue:
                return found
            return rearranged(found, catalogue.names, self._catalogue.names, model.baseline)

        received = [item.received_at for _, _, item, *_ in scored]
        epoch = self.champion.tallies.of_time(judges.epoch, received)
        judges = judges._replace(epoch=epoch)
        champion = judges.model
        matrix = features_of(champion)
        scores = self.champion.scores(judges, matrix)
        anomalies = self.champion.anomalies(champion, matrix)
        beside: list[dict[str, Any]] = []
        by_others: dict[int, CanaryDecision] = {}
        if judges.beside:
            cards = [item.card_id for _, _, item, *_ in scored]
            beside, by_others = self.challengers.judge(judges, cards, scores, features_of)
        if None in scores:
            left = [n for n, score in enumerate(scores) if score is None]
            by_others |= self.champion.fall_back(judges, left, by_others, features_of)
        scored_at = self._clock_ms()
        predictions, late = self._topics.predictions.name, self._topics.late_transactions.name
        names, schema = catalogue.names, catalogue.schema
        told = [
            index
            for index, score in enumerate(scores)
            if score is not None and score >= self._reasons_from and index not in by_others
        ]
        reasons = self.champion.reasons(champion, matrix[told]) if told else ()
        explained = dict(zip(told, reasons, strict=True))
        for index, (topic, partition, item, features, flags, _, policy) in enumerate(scored):
            model, threshold, why = champion, judges.threshold, explained.get(index, [])
            score, anomaly = scores[index], anomalies[index]
            if index in by_others:
                model, threshold, score, anomaly, why = by_others[index]
            assert score is not None
            flagged_from = model.anomaly_threshold
            if anomaly is not None and flagged_from is not None and anomaly >= flagged_from:
                flags = [*flags, ANOMALY]  # noqa: PLW2901 -- the flags of stages, and the model's
            fraud = score >= threshold
            outcome = outcome_of(policy, names, features, item, score, fraud)
            added = {
                "amount_minor": item.minor,
                "event_time_ms": item.event_time_ms,
                "features": dict(zip(names, features, strict=True)),
                "score": score,
                "is_fraud": fraud,
                "threshold": threshold,
                "model_version": model.version,
                "model_hash": model.hash,
                "feature_schema": schema,
                "reasons": why,
                "anomaly_score": anomaly,
                "flags": flags,
                "rules": outcome.fired,
                "action": outcome.action,
                "source_topic": topic,
                "source_partition": partition,
                "source_offset": item.offset,
                "received_at": item.received_at,
                "scored_at": scored_at,
                SCORED_BY: self._scored_by,
            }
            if beside:
                added |= beside[index]
            value = prediction_message(item.body, added)
            record: OutRecord = (item.card_id.encode(), value, [])
            # the card's own partition: the same number of partitions, the same partitioner
            outputs[predictions, partition].append(record)
            if fraud or flags or added.get("rules"):  # all others raise no alert
                self._alert(item, partition, added, outcome, outputs)
            if LATE in flags:
                outputs[late, partition].append(record)
                self.counts["late"] += 1
            elif CONFLICTING in flags:
                self.counts["conflicting"] += 1
            else:
                self.counts["scored"] += 1

    def _alert(
        self,
        item: EnrichedItem,
        partition: int,
        added: dict[str, Any],
        outcome: RuleOutcome,
        outputs: dict[Any, Any],
    ) -> None:
        """The record for the topic `alerts`: an output like any other, so it is exact under replays."""
        if self._alerts is None or outcome.allowed:
            return
        alert = self._alerts.alert(
            {
                "transaction_id": item.transaction_id,
                "card_id": item.card_id,
                "terminal_id": item.terminal_id,
                **added,
                "rules": outcome.alerting,
                "reasons": [*outcome.reasons, *added["reasons"]],
            }
        )
        if alert is not None:
            outputs[self._topics.alerts.name, partition].append(alert_record(alert))
            self.raised[alert["severity"]] += 1
