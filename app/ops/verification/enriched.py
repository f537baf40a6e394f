"""`enriched`: terminal features by the oracle, and what stands there compared with what is expected."""

from collections import defaultdict
from typing import Any

import msgspec
import numpy as np
import orjson

from app.domain.changes_in_force import InForce
from app.domain.transaction import DeadRecordError
from app.ops.reference import TerminalReference, WaitingLabel
from app.ops.verification.ledger import (
    PREDICTED,
    ExpectedOutcome,
    FeatureList,
    FoundIn,
    RecordFault,
    SourcePage,
    decision_of,
)
from app.ops.verification.partition_count_phases import Phase
from app.ops.verification.verify_run import VerifyRun
from app.wire.control_records import ChangeMessage, decode_message
from app.wire.enriched_records import EnrichedBatch, EnrichedItem
from app.wire.erase_records import EraseMessage, card_named_in
from app.wire.label_records import LabelBatch

#: What decides before the first change.
_NOTHING = InForce()


class EnrichedReader:
    """Reads one partition of `enriched`.

    Args:
        case: the run; its ledger's `features` and `flags` are completed.
        phase: which `enriched`.
        partition: the partition.
        first_kept_ms: see `VerifyRun.known_from`.
        begins_with: what decides on its first message.
        oracle: the terminals; None: those of this partition alone.
    """

    def __init__(
        self,
        case: VerifyRun,
        phase: Phase,
        partition: int,
        first_kept_ms: int,
        begins_with: InForce = _NOTHING,
        oracle: TerminalReference | None = None,
    ) -> None:
        self._case = case
        self._ledger = case.ledger
        self._where = phase.enriched.name
        self._partition = partition
        self._begins = phase.kept[partition] < 0  # whether the log of this partition is whole
        self._in_force = begins_with
        if not self._begins:
            # right unless a change follows, see `_change`
            end = phase.control_end
            self._in_force = case.in_force_before(None if end is None else (0, end))
        self._ruled, self._decides = len(case.ledger.rule_sets), -1
        case.ledger.rule_sets.append(self._in_force.rules)
        if not self._begins or self._in_force.model:
            self._decides = len(case.ledger.decisions)
            case.ledger.decisions.append(decision_of(self._in_force))
        self._done = phase.done[partition]
        self._known_from = case.known_from(first_kept_ms)
        self._oracle = oracle or TerminalReference(case.rules)
        self._names = case.ledger.catalogue.names[case.ledger.card_features :]
        names = case.ledger.flag_names
        self._card_bits = np.uint64(
            case.ledger.mask([name for name in names if ":terminal" not in name])
        )

    def take(self, records: list[Any]) -> None:
        """Messages in offset order."""
        items = defaultdict[tuple[int, int], list[tuple[int, EnrichedItem]]](list)
        fresh = defaultdict[int, list[tuple[Any, ...]]](list)
        for record in records:
            waiting = FoundIn.WAITING if record.offset >= self._done else 0
            try:
                batch = decode_message(record.value)
            except (msgspec.DecodeError, TypeError):
                position = f"{self._where}/{self._partition}/{record.offset}"
                self._case.findings.stray(self._where, "record", position)
                continue
            if not isinstance(batch, EnrichedBatch):
                self._other(batch, record.offset)
                continue
            listed = self._ledger.list_of.get(batch.schema)
            if listed is None:
                self._case.findings.stray(self._where, "feature schema", batch.schema)
                continue
            for item in batch.items:
                source = (batch.topic, batch.partition, item.offset)
                found = self._ledger.find(*source)
                if found is not None:
                    items[batch.partition, listed].append((found[1], item))
                elif self._ledger.is_foreign(*source):
                    self._case.findings.stray(self._where, "source", "/".join(map(str, source)))
                if self._oracle.is_replay(self._partition, source):
                    continue
                conflicting = "conflicting" in item.flags
                verdict = self._oracle.apply(
                    item.terminal_id,
                    item.event_time_ms,
                    0 if conflicting or "late" in item.flags else 1,
                    item.transaction_id,
                    item.received_at,
                    minor=item.minor,
                    high="high_amount" in item.flags,
                    conflicting=conflicting,
                    record=orjson.loads(item.body) if self._case.rules.own.fields else None,
                )
                if found is not None:
                    known = item.event_time_ms >= self._known_from
                    mask = self._ledger.mask(verdict.flags)
                    values = [verdict.features[name] for name in self._names]
                    fresh[batch.partition].append(
                        (
                            found[1],
                            waiting,
                            known,
                            mask,
                            listed,
                            values,
                            self._decides,
                            self._ruled,
                        )  # fmt: skip
                    )
        self._case.labels.given_up |= self._oracle.given_up
        for (partition, listed), compared in items.items():
            self._compare(self._ledger.pages[partition], self._ledger.lists[listed], compared)
        for partition, noted in fresh.items():
            self._note(self._ledger.pages[partition], noted)

    def _other(self, batch: LabelBatch | ChangeMessage | EraseMessage, offset: int) -> None:
        if isinstance(batch, LabelBatch):
            self._label(batch)
        elif isinstance(batch, ChangeMessage):
            self._change(batch, offset)
        else:
            self._erase(batch)

    def _change(self, message: ChangeMessage, offset: int) -> None:
        """From here on something else decides; before the first model is named, the log does not say what does."""
        try:
            change = message.change
        except DeadRecordError:
            self._case.findings.stray(
                self._where, "change", f"{self._where}/{self._partition}/{offset}"
            )
            return
        if not self._begins:  # what precedes this was decided by all changes before it
            self._begins = True
            self._in_force = self._case.in_force_before((message.partition, message.offset))
            self._ledger.rule_sets[self._ruled] = self._in_force.rules
            self._ledger.decisions[self._decides] = decision_of(self._in_force)
        rules = self._in_force.rules
        self._in_force = self._in_force.after(change, message.partition, message.offset)
        if self._in_force.rules is not rules:
            self._ruled = len(self._ledger.rule_sets)
            self._ledger.rule_sets.append(self._in_force.rules)
        if self._in_force.model:
            decision = decision_of(self._in_force)
            if decision not in self._ledger.decisions:
                self._ledger.decisions.append(decision)
            self._decides = self._ledger.decisions.index(decision)

    def _erase(self, message: EraseMessage) -> None:
        source = message.topic, message.partition, message.offset
        known = self._case.erasures.get(source[1:])
        if known is not None and known.card_id == message.card_id:
            known.forwarded.add(self._partition)
        elif self._ledger.find(*source) is not None or self._ledger.is_foreign(*source):
            self._case.findings.stray(self._where, "erase record", "/".join(map(str, source)))
        if not self._oracle.is_replay(self._partition, source):
            self._oracle.erase(message.card_id)

    def _label(self, batch: LabelBatch) -> None:
        for item in batch.items:
            source = (batch.topic, batch.partition, item.offset)
            self._case.labels.item(batch.topic, batch.partition, item)
            if not batch.looked_up and self._oracle.is_replay(self._partition, source):
                continue
            label = WaitingLabel(
                item.transaction_id, item.event_time_ms, item.is_fraud, item.labelled_at_ms,
                item.received_at, source, card_named_in(item.body),
            )  # fmt: skip
            self._oracle.label(item.terminal_id, label)

    def _note(self, page: SourcePage, noted: list[tuple[Any, ...]]) -> None:
        """Keep the terminals' features and flags of items that are no replays."""
        rows, waiting, known, masks, listed, values, decides, ruled = map(
            list, zip(*noted, strict=True)
        )
        page.decides[rows] = decides
        page.ruled[rows] = ruled
        twice = np.flatnonzero(page.seen[rows] & FoundIn.ITEM)
        for row in (rows[index] for index in twice):
            self._differs(page, row, "partition", self._partition, "another one")
        page.features[rows, self._ledger.card_features :] = values
        page.terminal_known[rows] = known
        page.listed[rows] = listed
        page.flags[rows] |= np.array(masks, np.uint64)
        page.seen[rows] |= np.array(waiting, np.uint8) | FoundIn.ITEM

    def _compare(
        self, page: SourcePage, features: FeatureList, compared: list[tuple[int, EnrichedItem]]
    ) -> None:
        """Items against their source records; replays too: they must say the same."""
        rows = [row for row, _ in compared]
        expected = page.features[np.ix_(np.array(rows), features.columns[: features.card])]
        bits = self._card_bits & features.flags
        right = np.isin(page.fate[rows], PREDICTED)
        right &= page.identity[rows] == [
            hash((item.card_id, item.event_time_ms, item.transaction_id)) for _, item in compared
        ]
        right &= page.detail[rows] == [hash((item.terminal_id, item.minor)) for _, item in compared]
        try:
            right &= (expected == [item.features for _, item in compared]).all(axis=1)
            masks = np.array([self._ledger.mask(item.flags) for _, item in compared], np.uint64)
            right &= (page.flags[rows] & bits) == masks
        except (ValueError, KeyError):  # features are missing, or a flag is unknown
            right[:] = False
        homes = [self._case.home(item.terminal_id or item.card_id) for _, item in compared]
        right &= np.array(homes) == self._partition
        for index in np.flatnonzero(~right):
            self._explain(page, features, *compared[index], homes[index])

    def _explain(
        self, page: SourcePage, features: FeatureList, row: int, item: EnrichedItem, home: int
    ) -> None:
        fate = ExpectedOutcome(page.fate[row])
        if fate not in PREDICTED:
            self._differs(page, row, "fate", "enriched", fate.name.lower())
            return
        if home != self._partition:
            self._differs(page, row, "partition", self._partition, home)
        if page.identity[row] != hash((item.card_id, item.event_time_ms, item.transaction_id)):
            self._differs(page, row, "transaction", item.transaction_id, "another one")
        if page.detail[row] != hash((item.terminal_id, item.minor)):
            stored = [item.terminal_id, item.minor]
            self._differs(page, row, "terminal and amount_minor", stored, "others")
        if fate == ExpectedOutcome.UNKNOWN:
            page.faults[row] |= RecordFault.UNVERIFIABLE
            return
        expected = page.features[row, features.columns[: features.card]].tolist()
        self._case.findings.compare_features(
            page, row, self._where, features.names, item.features, expected
        )
        flags = self._ledger.names(int(page.flags[row] & self._card_bits & features.flags))
        if tuple(item.flags) != flags:
            self._differs(page, row, "flags", item.flags, list(flags))

    def _differs(self, page: SourcePage, row: int, what: str, stored: Any, recomputed: Any) -> None:
        self._case.findings.differs(page, row, self._where, what, stored, recomputed)
