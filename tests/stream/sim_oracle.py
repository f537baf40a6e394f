"""The end of a schedule against the oracle of `fraudstream verify`, which shares no arithmetic with the stream."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from app.domain.rules import Rule, RuleSet
from app.domain.rules.ruleset import RuleField
from app.domain.transaction import DeadRecordError, Transaction
from app.ops.reference import (
    CardReference,
    ReferenceOutcome,
    ReferenceRules,
    TerminalReference,
    WaitingLabel,
    in_share,
)
from app.ops.reference_rules import outcome
from app.wire.control_records import ChangeMessage, decode_message
from app.wire.erase_records import EraseMessage, card_named_in, erased_card
from app.wire.input_records import parse_transaction
from app.wire.label_records import LabelBatch
from tests.stream.sim_checks import bound
from tests.stream.sim_kafka import Record
from tests.stream.sim_world import (
    LABEL_DELAY,
    LABEL_WAIT,
    LATENESS,
    MAX_WAITING,
    WINDOWS,
    World,
    catalogue,
    topics,
)
from tests.stream.sim_world import everybody as models


def compare(world: World) -> list[str]:
    """Every feature and flag that differs from the oracle's."""
    rules = ReferenceRules(
        WINDOWS,
        LATENESS,
        world.plan.rules.max_entries,
        label_delay_ms=LABEL_DELAY,
        label_wait_ms=LABEL_WAIT,
        max_waiting=MAX_WAITING,
        features=world.lists[1].names,
        own=world.own,
    )
    schemas: dict[tuple[int, int], str] = {}
    cards = CardReference(rules)
    terminals = TerminalReference(rules)
    wanted: dict[tuple[int, int], tuple[dict[str, float], list[str]]] = {}
    for partition, records in world.source_records().items():
        for record in records:
            erased = erased_card(record)
            if erased is not None:
                if world.partition_of(record.key) == partition:
                    cards.erase(erased)
                continue
            transaction = parsed(world, record)
            if transaction is None or world.partition_of(record.key) != partition:
                continue
            if transaction.minor < 0:  # a refund is not scored, and nobody sees it
                continue
            verdict = cards.apply(
                transaction.card_id,
                transaction.transaction_id,
                transaction.event_time_ms,
                transaction.minor,
                orjson.loads(transaction.body),
            )
            if verdict.became is not ReferenceOutcome.DUPLICATE:
                wanted[partition, record.offset] = (dict(verdict.features), [*verdict.flags])
    decided: dict[tuple[int, int], Decides] = {}
    ruled: dict[tuple[int, int], RuleSet] = {}
    for partition, records in world.broker.topic(topics.enriched.name).items():
        start = bound(world, partition)
        decides = Decides("", None) if start is None else Decides(start.model, start.threshold)
        beside = Beside()
        newest = -1
        for record in records:
            batch = decode_message(record.value or b"")
            if isinstance(batch, LabelBatch):
                label(terminals, partition, batch)
                continue
            if isinstance(batch, ChangeMessage):
                if batch.offset > newest:
                    newest = batch.offset
                    change = orjson.loads(batch.body)
                    decides = decides.after(change, batch.offset)
                    beside.take(change)
                continue
            if isinstance(batch, EraseMessage):
                erase(world, terminals, partition, batch)
                continue
            for item in batch.items:
                if terminals.is_replay(partition, (batch.topic, batch.partition, item.offset)):
                    continue
                if (batch.partition, item.offset) not in wanted:
                    return [f"oracle: {batch.partition}/{item.offset} must not be on enriched"]
                decided[batch.partition, item.offset] = decides
                ruled[batch.partition, item.offset] = beside.now()
                features, flags = wanted[batch.partition, item.offset]
                schemas[batch.partition, item.offset] = batch.schema
                weight = 0 if "late" in flags or "conflicting" in flags else 1
                verdict = terminals.apply(
                    item.terminal_id,
                    item.event_time_ms,
                    weight,
                    item.transaction_id,
                    item.received_at,
                    minor=item.minor,
                    high="high_amount" in flags,
                    conflicting="conflicting" in flags,
                    record=orjson.loads(item.body),
                )
                features.update(verdict.features)
                flags.extend(verdict.flags)
    for source, schema in schemas.items():
        wanted[source] = begun_under(world, schema, *wanted[source])
    return [
        *differences(world, wanted, decided),
        *by_rules(world, ruled),
        *given_up(world, terminals),
    ]


class Beside:
    """Rules and lists as the changes say, without the code of the stream."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._versions: dict[str, int] = {}
        self._listed: dict[str, int | None] = {}

    def take(self, change: dict[str, Any]) -> None:
        name = change.get("name", "")
        if change["change"] == "rule" and not change.get("expression"):
            self._rules.pop(name, None)
        elif change["change"] == "rule":
            version = self._versions[name] = self._versions.get(name, 0) + 1
            action = change.get("action", "review")
            fields = tuple(RuleField(*each) for each in change.get("fields", ()))
            self._rules[name] = Rule(name, version, change["expression"], action, "", fields)
        elif change["change"] == "list":
            for each in change["ids"]:
                key = f"{name}/{change['subject']}/{each}"
                if change.get("remove"):
                    self._listed.pop(key, None)
                else:
                    self._listed[key] = change.get("until_ms")

    def now(self) -> RuleSet:
        rules = tuple(self._rules[name] for name in sorted(self._rules))
        return RuleSet(rules, {}, dict(self._listed))


def by_rules(world: World, ruled: dict[tuple[int, int], RuleSet]) -> Any:
    """Predictions with other rules or another action than those of their offset."""
    for records in world.broker.topic(topics.predictions.name).values():
        for record in records:
            fields = orjson.loads(record.value or b"")
            source = (fields["source_partition"], fields["source_offset"])
            want = outcome(ruled.get(source, RuleSet()), fields)
            if want != (fields["rules"], fields["action"]):
                yield f"oracle: {source} has {fields['rules']} {fields['action']}, not {want}"


def begun_under(
    world: World, schema: str, features: dict[str, float], flags: list[str]
) -> tuple[dict[str, float], list[str]]:
    """What a transaction has that a worker with one more window began, or one without."""
    begun = world.lists[0].under(schema)
    gone = {f for each in world.lists[1].flags.values() for f in each}
    gone -= {f for each in begun.flags.values() for f in each}
    return {n: features[n] for n in begun.names}, [f for f in flags if f not in gone]


def erase(
    world: World, terminals: TerminalReference, partition: int, message: EraseMessage
) -> None:
    """An erase record, but for one that was seen before."""
    source = (message.topic, message.partition, message.offset)
    if not terminals.is_replay(partition, source):
        terminals.erase(
            message.card_id, lambda terminal: world.partition_of(terminal.encode()) == partition
        )


def label(terminals: TerminalReference, partition: int, batch: LabelBatch) -> None:
    """Labels of one message, but for those that were seen before."""
    for item in batch.items:
        source = (batch.topic, batch.partition, item.offset)
        if batch.looked_up or not terminals.is_replay(partition, source):
            waits = WaitingLabel(
                item.transaction_id,
                item.event_time_ms,
                item.is_fraud,
                item.labelled_at_ms,
                item.received_at,
                source,
                card_named_in(item.body),
            )
            terminals.label(item.terminal_id, waits)


def given_up(world: World, terminals: TerminalReference) -> Any:
    """Dead letters of labels that are missing or too many."""
    found = set()
    for records in world.broker.topic(topics.dead_letters.name).values():
        for record in records:
            parts = {name: raw.decode() for name, raw in record.headers}
            if parts["topic"] == topics.labels.name:
                found.add((parts["topic"], int(parts["partition"]), int(parts["offset"])))
    for source in found ^ terminals.given_up:
        yield f"oracle: label {source} must be given up: {source in terminals.given_up}"


def parsed(world: World, record: Record) -> Transaction | None:
    """The transaction of a source record, None for a dead one."""
    try:
        return parse_transaction(record.value, record.key, record.timestamp, world.record_rules)
    except DeadRecordError:
        return None


@dataclass(frozen=True)
class Decides:
    """What decides at an offset, followed change by change: the model, its threshold, and who scores beside it."""

    model: str
    threshold: float | None
    #: Share of cards and threshold by model, the oldest first.
    beside: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    #: Models and thresholds of before, the newest first: the first with a score decides where this one gives none.
    earlier: tuple[tuple[str, float | None], ...] = ()
    #: The changes that may be taken back, the newest first: offset, and what decided before it.
    newest: tuple[tuple[int, "Decides"], ...] = ()

    def after(self, change: dict[str, Any], offset: int) -> "Decides":
        """What decides after a change, as it is on the wire."""
        threshold, name = change.get("threshold"), change.get("hash", "")
        others = {one: its for one, its in self.beside.items() if one != name}
        if change["change"] in ("threshold", "model"):
            of_model = change["change"] == "model"
            earlier = self.earlier
            if of_model and name != self.model:
                earlier = ((self.model, self.threshold), *earlier)
            if "reverts" in change:
                undone = self.undone(change["reverts"], of_model=of_model)
                if not undone:
                    return self
                before = self.newest[undone - 1][1]
                as_before = before.model == (name if of_model else self.model)
                newest = self.newest[undone:] if as_before else ()
                earlier = before.earlier if of_model else earlier
            else:
                newest = ((offset, self), *self.newest)[:4]
            if not of_model:
                return replace(self, threshold=threshold, newest=newest)
            earlier = tuple(one for one in earlier if one[0] != name)[:3]
            return Decides(name, threshold, others, earlier, newest)
        if change["change"] != "challenger":
            return self
        share = change.get("share", 0.0)
        if share is None:
            return replace(self, beside=others)
        if name == self.model or len(others) == 3 or (share and any(s for s, _ in others.values())):
            return self
        return replace(self, beside={**self.beside, name: (share, threshold)})

    def undone(self, offset: int, *, of_model: bool) -> int:
        """How many of the newest changes are taken back with one: the newest, or what is newer than a promotion."""
        for number, (one, before) in enumerate(self.newest, 1):
            switched = before.model != self.model
            if one == offset and (number == 1 or (of_model and switched)):
                return number
            if switched:
                break
        return 0

    def judged(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What a prediction has to say of the models."""
        row = np.array([[fields["features"][name] for name in catalogue.names]])
        limits = {self.model: self.threshold, **{name: its[1] for name, its in self.beside.items()}}
        limits = {n: models[n].threshold if each is None else each for n, each in limits.items()}
        scores = {name: alone(name, row) for name in limits}
        decides = self.model
        for name, (share, _) in self.beside.items():
            if share and scores[name] is not None and in_share(fields["card_id"], name, share):
                decides = name
        score, threshold, decided = scores[decides], limits[decides], decides
        for earlier, own in self.earlier:
            if score is None:
                decided, decides, score = "", earlier, alone(earlier, row)
                threshold = models[decides].threshold if own is None else own
        said = {
            "model_hash": decides,
            "threshold": threshold,
            "score": score,
            "is_fraud": score >= threshold,
        }
        if self.beside:
            others = {name: s for name, s in scores.items() if name != decided}
            flagged = [f"{n}-1" for n, s in others.items() if s is not None and s >= limits[n]]
            said["shadow_scores"] = {f"{name}-1": s for name, s in others.items()}
            said["shadow_flagged"] = flagged
        return said


def alone(name: str, row: np.ndarray) -> float | None:
    """A model's score of one row; None where it gives none."""
    try:
        score = float(models[name].score(row)[0])
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None


def odd_by_model(fields: dict[str, Any]) -> float | None:
    """The anomaly score that the named model gives the features of a prediction."""
    row = [fields["features"][name] for name in catalogue.names]
    try:
        odd = models[fields["model_hash"]].anomalies(np.array([row]))
    except ValueError:
        return None
    return None if odd is None else float(odd[0])


def differences(
    world: World, wanted: dict[tuple[int, int], Any], decided: dict[tuple[int, int], Any]
) -> Any:
    """Predictions that are missing, too many or different."""
    seen = set()
    for records in world.broker.topic(topics.predictions.name).values():
        for record in records:
            fields = orjson.loads(record.value or b"")
            source = (fields["source_partition"], fields["source_offset"])
            seen.add(source)
            want = wanted.get(source)
            if want is None:
                yield f"oracle: {source} must not be scored"
                continue
            names = (
                "model_hash",
                "threshold",
                "score",
                "is_fraud",
                "shadow_scores",
                "shadow_flagged",
            )
            said = {name: fields[name] for name in names if name in fields}
            if said != (due := decided[source].judged(fields)):
                yield f"oracle: {source} is decided as {said}, not as {due}"
            odd = odd_by_model(fields)
            want = (want[0], [*want[1], *(["anomaly"] if odd is not None and odd >= 0.9 else [])])
            if fields["anomaly_score"] != odd:
                yield f"oracle: {source} is odd by {fields['anomaly_score']}, not {odd}"
            if (fields["features"], fields["flags"]) != want:
                yield f"oracle: {source} has {fields['features']} {fields['flags']}, not {want}"
    for source in wanted.keys() - seen:
        yield f"oracle: {source} is not scored"
