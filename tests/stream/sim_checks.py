"""What must hold at the end of any schedule, against one pass over the log without any trouble."""

from collections import defaultdict
from typing import Any

import orjson

from app.blocks.core.row_precedence import DELETED_KEY, Deletions, follows, row_offset
from app.blocks.faust.block_table import _STALE_KEY as STALE_KEY
from app.domain.changes import AnyChange
from app.domain.changes_in_force import InForce
from app.domain.refusal_reasons import LOST
from app.domain.transaction import DeadRecordError
from app.stages.card_stage import CardsHandler
from app.stages.drift_limit import LOOK_AHEAD
from app.stages.known_topics import TOPICS_KEY
from app.stages.reserved_rows import (
    IN_FORCE_KEY,
    POSITION_KEY,
    StatePosition,
    in_force_row,
    read_in_force,
)
from app.stages.scoring_stage import ScoringHandler
from app.windows.row_format import head_key, segment_key
from app.windows.window_row import WindowRow
from app.wire.control_records import ChangeMessage, decode_message, parse_change
from app.wire.dead_letters import UNTIL
from app.wire.enriched_records import EnrichedBatch, encode_item
from app.wire.erase_records import EraseMessage, erased_card
from app.wire.input_records import parse_transaction
from app.wire.label_records import LabelBatch
from tests.fakes import Rows as MemoryRows
from tests.stream.sim_worker import CARDS, OFFSET_KEY, TERMINALS, Rows
from tests.stream.sim_world import (
    ALERTS,
    STATE_SETTINGS,
    World,
    topics,
)

Source = tuple[int, int]


def stored(seed: int) -> bool:
    """Whether predictions are stored in the schedule of a seed, where nothing else is said."""
    return seed % 4 == 3


def play(seed: int, **changes: Any) -> tuple[World, list[str]]:
    """Play one schedule; returns what is wrong, first what ended it early.

    Args:
        seed: decides everything.
        changes: to the plan that the seed draws (see `World`).
    """
    world = World(seed, **changes)
    world.run()
    return world, world.failures or check(world)


def check(world: World) -> list[str]:
    """Every way in which the end of a schedule differs from what it must be."""
    problems = Problems(world)
    expected = Expected(world)
    problems.outputs(expected)
    problems.places()
    problems.lost()
    problems.apart()
    problems.alerts()
    problems.stored()
    problems.models()
    problems.erased()
    for stage, states in ((CARDS, expected.cards), (TERMINALS, expected.terminals)):
        for partition, state in states.items():
            problems.state(stage, partition, state)
    return problems.found


class Expected:
    """One pass over the source log, and one over `enriched`, by the same domain code."""

    def __init__(self, world: World) -> None:
        self.outputs: dict[str, dict[Any, Any]] = defaultdict(dict)
        self.cards: dict[int, MemoryRows] = {}
        self.terminals: dict[int, MemoryRows] = {}
        for partition, records in world.source_records().items():
            state = self.cards[partition] = MemoryRows()
            for features in world.lists if records else ():
                # rows do not depend on which windows are read from them
                made, state = state, MemoryRows()
                handler = world.cards_handler(CardsHandler, features=features)
                computed = handler.compute(partition, records, state)
                state.write_groups(computed.groups)
                collect(self.outputs, computed.outputs)
                assert not made.rows or made.rows == state.rows
            self.cards[partition] = state
        for partition, records in world.broker.topic(topics.enriched.name).items():
            state = self.terminals[partition] = MemoryRows()
            in_force = bound(world, partition)
            if in_force is not None:
                state.rows |= [in_force_row(in_force, -1)]
            if records:
                handler = world.scoring_handler(ScoringHandler, lambda: 0)
                computed = handler.compute(partition, records, state)
                state.write_groups(computed.groups)
                collect(self.outputs, computed.outputs)


def bound(world: World, partition: int) -> InForce | None:
    """What a partition began with: the first worker's setting, which no later one replaced."""
    changelog = world.broker.log(topics.terminals_changelog.name, partition)
    for record in changelog.records:
        if record.key == IN_FORCE_KEY and row_offset(record.value or b"") == -1:
            return read_in_force(record.value)
    return None


def known_change(value: bytes | None) -> AnyChange | None:
    """A change; None where a record is none, which is dead-lettered."""
    try:
        return parse_change(value)
    except DeadRecordError:
        return None


def owner_rows(world: World, stage: str, partition: int) -> Rows:
    """The store of the worker that has a partition at the end."""
    source = next(s.source for s in world.stages if s.name == stage)
    for worker in world.workers.values():
        if not worker.dead and any(
            tp.topic == source and tp.partition == partition for tp in worker.assignment
        ):
            rows: Rows = worker.memory.get((stage, partition), {})
            return rows
    return {}


def collect(outputs: dict[str, dict[Any, Any]], computed: Any) -> None:
    """Sort outputs by topic and by what they are of; keep the first of each."""
    for (topic, partition), records in computed.items():
        for key, value, headers in records:
            for name, content in named(topic, partition, key, value, headers):
                outputs[topic].setdefault(name, content)


def named(topic: str, partition: int, key: Any, value: Any, headers: Any) -> list[tuple[Any, Any]]:
    """What an output is of, and its content but for `scored_at`."""
    if topic in (topics.predictions.name, topics.late_transactions.name):
        fields = orjson.loads(value)
        del fields["scored_at"]
        source = (fields["source_partition"], fields["source_offset"])
        return [(source, (partition, key, orjson.dumps(fields)))]
    if topic == topics.enriched.name:
        batch = decode_message(value)
        if isinstance(batch, LabelBatch | ChangeMessage):
            return []  # of the schedule, not of the first stage
        if isinstance(batch, EraseMessage):
            name = f"{partition} of {batch.partition}/{batch.offset}"
            return [(("erase", name), (partition, value))]
        return [
            ((batch.partition, item.offset, batch.schema), (partition, encode_item(item)))
            for item in batch.items
        ]
    if topic in (topics.duplicates.name, topics.refunds.name, topics.alerts.name):
        fields = orjson.loads(value)
        return [((fields["source_partition"], fields["source_offset"]), (partition, key, value))]
    if topic == topics.dead_letters.name:
        parts = dict(headers)
        if parts["reason"].decode() == LOST:
            return []  # of the log, not of a record: see `Problems.lost`
        source = (int(parts["partition"]), int(parts["offset"]))
        if parts["topic"].decode() != topics.transactions.name:
            source = (parts["topic"].decode(), *source)
        return [(source, (partition, key, value, tuple(headers)))]
    origin = dict(headers).get("origin")  # a moved record, sent on to another source partition
    if origin is None:
        return []
    _, moved_from, offset = origin.decode().split("/")
    return [((int(moved_from), int(offset)), (partition, key, value, tuple(headers)))]


def difference(have: Any, want: Any) -> str:
    """Where two outputs part."""
    if have is None or want is None:
        return f"there is {have}, expected {want}"
    here, there = repr(have), repr(want)
    at = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), 0)
    start = max(0, at - 60)
    return f"there is ...{here[start : at + 60]}, expected ...{there[start : at + 60]}"


class Problems:
    """Collects what is wrong."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.found: list[str] = []
        self.real: dict[str, dict[Any, Any]] = defaultdict(dict)
        for (topic, partition), log in world.broker.logs.items():
            if topic in (topics.cards_changelog.name, topics.terminals_changelog.name):
                continue
            for record in log.records:
                for name, content in named(
                    topic, partition, record.key, record.value, record.headers
                ):
                    first = self.real[topic].setdefault(name, content)
                    if first != content:
                        self.found.append(
                            f"{topic}: repeated outputs of {name}: {difference(content, first)}"
                        )

    def outputs(self, expected: Expected) -> None:
        """Outputs are those of a single pass: none missing, none more, none different."""
        for topic in sorted({*self.real, *expected.outputs}):
            want, have = expected.outputs[topic], self.real[topic]
            if topic == topics.enriched.name:  # with the features of any worker that began it
                there = {name[:2] for name in have}
                want = {n: output for n, output in want.items() if n in have or n[:2] not in there}
            for name in sorted({*want, *have}, key=str):
                if want.get(name) != have.get(name):
                    self.found.append(
                        f"{topic}: of {name}: {difference(have.get(name), want.get(name))}"
                    )

    def places(self) -> None:
        """Every source record is in exactly one place."""
        ends = (
            topics.predictions, topics.dead_letters, topics.duplicates, topics.refunds, topics.transactions,
        )  # fmt: skip
        for partition, records in self.world.source_records().items():
            for record in records:
                if erased_card(record):
                    continue
                source = (partition, record.offset)
                places = [spec.name for spec in ends if source in self.real[spec.name]]
                if len(places) != 1:
                    self.found.append(f"source {source} is in {places}")

    def alerts(self) -> None:
        """Every prediction that calls for an alert has one, and no other has; its group is that of its time."""
        told = self.real[topics.alerts.name]
        wanted = {}
        for source, (_, _, value) in self.real[topics.predictions.name].items():
            fields = orjson.loads(value)
            allowed = fields["action"] == "approve" and any(
                each.startswith(("allow-list:", "trust@")) for each in fields["rules"]
            )
            called = fields["action"] != "approve" or "anomaly" in fields["flags"]
            if called and not allowed:
                wanted[source] = fields
        if wanted.keys() != told.keys():
            self.found.append(
                f"alerts of {set(told) ^ set(wanted)}: without prediction, or missing"
            )
        for source in wanted.keys() & told.keys():
            alert, at = orjson.loads(told[source][2]), wanted[source]["event_time_ms"]
            if not alert["opened_at"] <= at < alert["opened_at"] + ALERTS.window_ms:
                self.found.append(
                    f"alert of {source} at {at} is in the group of {alert['opened_at']}"
                )

    def stored(self) -> None:
        """Each prediction is a row, and nothing else is one: they may be written before their record, never without."""
        if not self.world.plan.stored:
            return
        wanted = {}
        for _, _, value in self.real[topics.predictions.name].values():
            fields = orjson.loads(value)
            fields.pop("scored_at", None)
            wanted[fields["source_partition"], fields["source_offset"]] = fields
        if self.world.rows != wanted:
            differing = [at for at in wanted if self.world.rows.get(at) != wanted[at]]
            more = self.world.rows.keys() - wanted.keys()
            self.found.append(f"rows of {differing} are missing or differ, of {more} nobody knows")

    def lost(self) -> None:
        """What was deleted unread is accounted for, and nothing else is."""
        told: set[Source] = set()
        for records in self.world.broker.topic(topics.dead_letters.name).values():
            for record in records:
                parts = {name: raw.decode() for name, raw in record.headers}
                if parts["reason"] == LOST:
                    offsets = range(int(parts["offset"]), int(parts[UNTIL]))
                    told |= {(int(parts["partition"]), offset) for offset in offsets}
        deleted = {
            (partition, offset)
            for partition, begin, end in self.world.deleted
            for offset in range(begin, end)
        }
        if told != deleted:
            self.found.append(f"lost: told of {sorted(told)}, deleted were {sorted(deleted)}")

    def apart(self) -> None:
        """On `enriched`, nothing came before what is older by more than the skew, of another source partition."""
        skew_ms = self.world.plan.skew_ms
        if skew_ms is None:
            return
        reached = self._reached()
        for partition, records in self.world.broker.topic(topics.enriched.name).items():
            newest: dict[int, int] = {}
            met: set[Source] = set()
            for batch in map(decode_message, (record.value or b"" for record in records)):
                if not isinstance(batch, EnrichedBatch):
                    continue
                for item in batch.items:
                    source = (batch.partition, item.offset)
                    if source in met:
                        continue
                    met.add(source)
                    if source not in reached:
                        continue
                    newest[batch.partition] = reached[source]
                    ahead = max(newest.values()) - reached[source]
                    if ahead > skew_ms:
                        self.found.append(
                            f"enriched/{partition}: {source} came {ahead} ms too late"
                        )

    def models(self) -> None:
        """What decides on each partition at the end is what the changes say, all of them in their order."""
        for partition in range(self.world.plan.partitions):
            in_force = bound(self.world, partition)
            if in_force is None:
                continue
            for record in self.world.changes:
                change = known_change(record.value)
                if change is not None:
                    in_force = in_force.after(change, 0, record.offset, record.timestamp)
            raw = owner_rows(self.world, TERMINALS, partition).get(IN_FORCE_KEY)
            if read_in_force(raw) != in_force:
                self.found.append(
                    f"terminals/{partition}: {read_in_force(raw)} decides, the changes say {in_force}"
                )

    def erased(self) -> None:
        """No row names a card whose last record is its erasure; what the log has of it is retention's to delete."""
        last: dict[tuple[int, bytes], bool] = {}
        for partition, records in self.world.source_records().items():
            for record in records:
                if record.key:
                    last[partition, record.key] = erased_card(record) is not None
        for (partition, card), gone in last.items():
            rows = owner_rows(self.world, CARDS, partition) if gone else {}
            named = {head_key(card), *(segment_key(card, number) for number in range(200))}
            if found := sorted(named & rows.keys()):
                self.found.append(f"cards/{partition}: {found} are left of an erased card")

    def _reached(self) -> dict[Source, int]:
        """By source record, the newest event time of its partition up to it.

        Records that moved here stand last, long after their time: the few before them look like wrong clocks.
        """
        reached: dict[Source, int] = {}
        for partition, records in self.world.source_records().items():
            newest = 0
            moved = [index for index, record in enumerate(records) if record.headers]
            for record in records[: max(0, moved[0] - LOOK_AHEAD) if moved else None]:
                try:
                    at = parse_transaction(
                        record.value, record.key, record.timestamp, self.world.record_rules
                    ).event_time_ms
                except DeadRecordError:
                    continue
                newest = max(newest, at)
                reached[partition, record.offset] = newest
        return reached

    def state(self, stage: str, partition: int, expected: MemoryRows) -> None:
        """Rows are those of a single pass, wherever they are read from."""
        changelog = next(s.changelog for s in self.world.stages if s.name == stage)
        highest: Rows = {}
        deletions = Deletions()
        last: Rows = {}
        for record in self.world.broker.log(changelog, partition).records:
            assert record.key is not None
            takes = follows(record.key, record.value, highest.get(record.key), deletions)
            for rows, taken in ((highest, takes), (last, True)):
                if taken and record.value is None:
                    rows.pop(record.key, None)
                elif taken:
                    rows[record.key] = record.value
            if takes and record.key == DELETED_KEY:
                deletions = Deletions.read(record.value)
        owner = owner_rows(self.world, stage, partition)
        for where, rows in (("store", owner), ("changelog", highest), ("compacted", last)):
            self._same(f"{stage}/{partition} {where}", MemoryRows(rows), expected)

    def _same(self, where: str, have: MemoryRows, want: MemoryRows) -> None:
        if not want.rows and not have.rows:
            return
        for key in sorted({*have.rows, *want.rows}):
            if key.startswith(b"h"):
                name = key[1:]
                here, there = content(self.world, name, have), content(self.world, name, want)
                if here != there:
                    self.found.append(f"{where}: row {name!r} is {here}, expected {there}")
            elif key == POSITION_KEY:
                here_at = StatePosition.read(have, STATE_SETTINGS)
                there_at = StatePosition.read(want, STATE_SETTINGS)
                if here_at != there_at:
                    self.found.append(f"{where}: position {here_at}, expected {there_at}")
            elif key == IN_FORCE_KEY:
                pair = read_in_force(have.get(key)), read_in_force(want.get(key))
                if pair[0] != pair[1]:
                    self.found.append(f"{where}: {pair[0]} decides, expected {pair[1]}")
            elif key == DELETED_KEY:
                if have.get(key) != want.get(key):
                    self.found.append(f"{where}: other deletions than expected")
            elif key.startswith(b"s") or key in (TOPICS_KEY, OFFSET_KEY, STALE_KEY):
                continue  # segments are read with their heads
            else:
                self.found.append(f"{where}: unknown row {key!r}")


def content(world: World, key: bytes, state: MemoryRows) -> Any:
    """What a row says, segments included."""
    try:
        row = WindowRow.read(key, world.plan.rules, state.get)
        labels = list(row.labels()), row.waiting
        refs = [
            (r.number, r.skip, r.count, r.zeros, r.first, r.last, r.total, r.frauds)
            for r in row.refs
        ]
        parts = [row._segment(ref) for ref in row.refs] + [row.tail]
        aside = [part.aside and part.aside.tolist() for part in parts]
        own = [[column.tolist() for column in part.own] for part in parts]
        return (
            row.last_offset,
            row.newest_ms,
            row.floor_ms,
            refs,
            list(row.entries()),
            labels,
            aside,
            own,
        )
    except Exception as error:
        return repr(error)
