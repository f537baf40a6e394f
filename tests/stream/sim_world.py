"""One simulated deployment and its schedule: everything that happens is drawn from one seed."""

import asyncio
import traceback
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock
from zlib import crc32

import numpy as np
import orjson
from faust.types import TP

from app.blocks.core import alignment as alignment_module
from app.blocks.core import event_loop_turns as pulse_module
from app.blocks.core.event_loop_turns import compute_together
from app.blocks.faust import block_table as table_module
from app.blocks.faust import pipeline as pipeline_module
from app.domain.alert_policy import CAUSES, AlertPolicy
from app.domain.changes import (
    AnyChange,
    ChallengerChange,
    ListChange,
    LoadChange,
    ModelChange,
    RuleChange,
    ThresholdChange,
)
from app.domain.features import Catalogue
from app.domain.features.own_features import NOTHING, parse_own
from app.domain.json_text import load_object
from app.domain.label_outcomes import TerminalStage
from app.domain.rules.language import check
from app.domain.rules.policy import rule_fields
from app.domain.transaction import NotReadableYetError
from app.domain.transaction_outcomes import CardStage
from app.errors import StateError
from app.settings import load_settings
from app.stages import card_stage as cards_module
from app.stages import change_forwarding as control_module
from app.stages import scoring_stage as scoring_module
from app.stages.sink_stage import SinkHandler
from app.topics import Topics
from app.windows.window_row import RowRules
from app.wire.control_records import encode_change
from app.wire.erase_records import erase_record
from app.wire.input_records import RecordRules
from app.wire.label_records import LabelItem, labels_message
from tests.builders import T0, tx
from tests.stream.sim_kafka import Broker, Log, Record
from tests.stream.sim_loop import SimLoop
from tests.stream.sim_worker import (
    CARDS,
    EXPECTED_HALTS,
    TERMINALS,
    FakeBatch,
    Stage,
    Worker,
    sim_halt,
    start_cards,
    start_scoring,
    start_sink,
)

SECOND = 1_000
WINDOWS = (5 * SECOND, 20 * SECOND, 60 * SECOND)
LATENESS = 10 * SECOND
FUTURE_SKEW = 5 * SECOND
LABEL_DELAY, LABEL_WAIT, MAX_WAITING = 15 * SECOND, 20 * SECOND, 2
STATE_SETTINGS = "windows=5s,20s,60s allowed_lateness=10s"
#: A window that ends while a schedule lasts.
ALERTS = AlertPolicy(CAUSES, 10 * SECOND, (500, 1_000, 5_000))
#: Between partitions of a backfill, and when it begins: before anything is in the future.
SKEW = 20 * SECOND
LONG_AGO = T0 - 10_000 * SECOND
#: A schedule is stuck when nothing is committed for so many steps. Their number alone proves nothing: what waits for a
#: time, as a schema does, may get few turns among commits and looks at positions.
MAX_STEPS = 120_000

topics = Topics(load_settings({"topic_prefix": "", "app_id": "sim"}))
catalogue = Catalogue(WINDOWS, 2, "UTC")
#: What workers compute whose settings have one more window.
wider = Catalogue((SECOND, *WINDOWS), 2, "UTC")
#: What a deployment adds: each stage keeps a field of its own.
OWN = parse_own("""
fields.kind = {type = "text", default = "none"}
fields.parts = {type = "integer", default = 1}
features.card_kinds = {of = "card", compute = "distinct", field = "kind", windows = ["5s", "1m"]}
features.card_same_kind = {of = "card", compute = "share", field = "kind", windows = ["20s"]}
features.terminal_ones = {of = "terminal", compute = "count", field = "parts", equals = 1, windows = ["20s"]}
""")
own_lists = tuple(Catalogue(each.windows, 2, "UTC", own=OWN) for each in (catalogue, wider))
record_rules = RecordRules("EUR", 2, FUTURE_SKEW, refunds=True)


@cache
def partition_of(partitions: int) -> Any:
    """As a partitioner: a function of the key."""
    return cache(lambda key: crc32(key) % partitions)


class FakeModel:
    """A score that depends on the row and the model, not on the row's company."""

    threshold = 0.5
    anomaly_threshold = 0.9

    baseline: dict[str, float] = {}

    def __init__(self, name: str, names: tuple[str, ...] = catalogue.names) -> None:
        self.hash, self.version = name, f"{name}-1"
        self._columns = [names.index(each) for each in catalogue.names]

    def anomalies(self, rows: np.ndarray) -> np.ndarray | None:
        """Two of three models have them."""
        return None if self.hash == "cleo" else 1 - self.score(rows)

    def score(self, rows: np.ndarray) -> np.ndarray:
        seed = crc32(self.hash.encode())
        return np.array([crc32(row[self._columns].tobytes(), seed) / (1 << 32) for row in rows])

    def reasons(self, rows: np.ndarray) -> list[list[str]]:
        return [[f"{self.hash} says so of {row[0]}"] for row in rows]


class BrokenModel(FakeModel):
    """Some rows make it raise, of some it says nothing that is a score."""

    def score(self, rows: np.ndarray) -> np.ndarray:
        scores = super().score(rows)
        if (scores < 0.2).any():
            msg = "a row that it does not like"
            raise ValueError(msg)
        scores[scores < 0.3] = np.nan
        scores[scores > 0.9] = 7
        return scores


models = {name: FakeModel(name) for name in ("ada", "bea", "cleo")}
#: Those that may score beside the one that decides: more than there may be at a time.
challengers = {**models, "dora": BrokenModel("dora"), "eva": FakeModel("eva")}
#: Those that may be promoted although they give some rows no score; and of half of those rows neither has one.
faulty = ("dora", "gail")
everybody = {**challengers, "gail": BrokenModel("gail")}


@cache
def models_on(names: tuple[str, ...]) -> dict[str, FakeModel]:
    """The same, as a worker has them that computes these features."""
    return {name: type(model)(name, names) for name, model in everybody.items()}


#: How often RocksDB makes a file by itself, of writes that it has not logged.
FLUSHES = 0.2


@dataclass(frozen=True)
class Plan:
    """What a seed decides before anything happens."""

    partitions: int
    workers: int
    records: int
    depth: int
    block_records: int
    batch_bytes: int
    row_batch_bytes: int
    pack_bytes: int
    rules: RowRules
    model_names: tuple[str, ...]
    lose: float
    crash_after_store: float
    holes: bool
    in_order: bool
    rates: dict[str, float]
    labels: float
    #: How far partitions may run apart; None: they are not paced, and their records are live.
    skew_ms: int | None = None
    #: Schemas of the records, which a worker knows once it has obtained them; 0: records need none.
    schemas: int = 0
    #: How often what a worker has sent itself has to be fetched after all; 1: nothing is passed on.
    lose_passed: float = 0.0
    #: How often a transaction marker follows a record, now and then with an aborted batch.
    markers: float = 0.0
    #: How often retention deletes what nobody has read, beside all else that happens.
    retention: float = 0.0
    #: How often a worker starts with one more window.
    wider: float = 0.0
    #: Whether the deployment adds fields and features.
    own: bool = False
    #: How often something changes what decides; None: as the seed draws.
    changes: float | None = None
    #: How often a card is erased.
    erasures: float = 0.0
    #: How often a model is promoted that gives some rows no score, of all that are.
    faulty: float = 0.3
    #: Whether workers have every model loaded when they start.
    models_here: bool = False
    #: Memory for the blocks of one pipeline; None: as much as they take.
    waiting_bytes: int | None = None
    #: Records after which a pulse gives the loop a turn.
    pulse_records: int = 200
    #: See `SimLoop.late_pulses`.
    late_pulses: float = 0
    #: Whether predictions are stored.
    stored: bool = False
    #: How often Kafka forgets the newest commit of a partition; needs `skew_ms`, which makes workers repeat them.
    forgets: float = 0
    #: How often a partition has no leader that reports its end to a worker.
    leaderless: float = 0

    @property
    def terminal_rules(self) -> RowRules:
        """Terminals look further back, and know labels."""
        horizon = self.rules.horizon_ms + LABEL_DELAY
        return replace(self.rules, horizon_ms=horizon, max_waiting=MAX_WAITING, label_bytes=50)

    @classmethod
    def drawn(cls, rng: Random) -> "Plan":
        segment_entries = rng.choice((1, 2, 3, 4))
        names = list(models)[: rng.choice((1, 1, 2, 3))]
        chaos = {
            "crash": rng.choice((0, 1, 3, 6)),
            "freeze": rng.choice((0, 0, 1, 3)),
            "rebalance": rng.choice((0, 1, 2)),
            "refuse": rng.choice((0, 0, 0, 0.5)),
            "produce": rng.choice((5, 20, 100)),
            "network": rng.choice((20, 60, 150)),
            "acknowledge": rng.choice((20, 60, 150)),
            "commit": rng.choice((1, 5, 20)),
            "restart": rng.choice((5, 20)),
            "late": rng.choice((1, 5, 20)),
            "thaw": rng.choice((2, 10)),
            "notice": rng.choice((2, 10)),
        }
        block_records = rng.choice((1, 3, 8, 20))
        # small, so that a block's rows need several batches, but enough for all rows of one key
        max_entries = rng.choice((3, 6, 12, 1000))
        row_batch_bytes = {1: 3000, 3: 3000, 8: 3500, 20: 5000}[block_records]
        if segment_entries <= 2:
            row_batch_bytes *= 3
        if 2 * segment_entries > max_entries:  # no segments: a head is all there is of a key
            row_batch_bytes = 1000
        return cls(
            partitions=rng.choice((1, 2, 2, 3)),
            workers=rng.choice((1, 2, 2, 3)),
            records=rng.randint(10, 60),
            depth=rng.choice((1, 2, 4)),
            block_records=block_records,
            row_batch_bytes=row_batch_bytes,
            batch_bytes=rng.choice((3500, 5000, 9000)),
            pack_bytes=rng.choice((1, 500, 2000)),
            rules=RowRules(
                WINDOWS[-1] + LATENESS,
                max_entries,
                crc32(STATE_SETTINGS.encode()),
                segment_entries,
            ),
            model_names=tuple(names),
            lose=rng.choice((0, 0, 0.05, 0.2)),
            crash_after_store=rng.choice((0, 0, 0.01, 0.05)),
            holes=rng.random() < 0.1,
            in_order=rng.random() < 0.2,
            rates=chaos,
            labels=rng.choice((0, 0.3, 1)),
        )


class World:
    """A deployment: group, workers, disks, and what is still to be produced.

    Attributes:
        failures: what must not happen; the first one ends the schedule.
        deleted: what retention took before anybody read it: partition, first offset, the one after the last.
        seen: how often what happened.
    """

    def __init__(self, seed: int, rates: dict[str, float] | None = None, **changes: Any) -> None:
        self.seed = seed
        self.rng = Random(seed)
        drawn = Plan.drawn(self.rng)
        rates = {**drawn.rates, **(rates or {})}
        # drawn apart, so that it leaves the other schedules of a seed as they are
        apart = Random(f"skew {seed}")
        skew_ms = apart.choice((None, None, SKEW, 4 * SKEW))
        self._apart = log_rng = Random(f"log {seed}")
        more = {
            "skew_ms": skew_ms,
            "lose_passed": Random(f"passed {seed}").choice((0, 0, 0.3, 1)),
            "markers": log_rng.choice((0, 0, 0.3, 1)),
            "retention": log_rng.choice((0, 0, 5, 20)),
            "own": Random(f"own {seed}").choice((False, False, True)),
            "wider": Random(f"wider {seed}").choice((0, 0, 0.5, 1)),
            "models_here": Random(f"models {seed}").random() < 0.5,
            "schemas": Random(f"schemas {seed}").choice((0, 0, 2, 5)),
            "waiting_bytes": log_rng.choice((None, None, 2_000, 20_000)),
            "pulse_records": Random(f"pulse {seed}").choice((1, 5, 200, 200)),
            "late_pulses": Random(f"late pulses {seed}").choice((0, 0.9, 0.995)),
            "erasures": Random(f"erasures {seed}").choice((0, 0, 0.05, 0.2)),
            "leaderless": Random(f"leaderless {seed}").choice((0, 0, 0.3, 0.8)),
        }
        self.plan = plan = replace(drawn, rates=rates, **{**more, **changes})
        if plan.own:
            rules = replace(plan.rules, own=len(OWN.stage_fields("card")))
            self.plan = plan = replace(plan, rules=rules)
        self.own = OWN if plan.own else NOTHING
        self.lists = own_lists if plan.own else (catalogue, wider)
        self.record_rules = replace(record_rules, own=self.own.fields)
        self._starts = Random(f"starts {seed}")
        self._leaders = Random(f"leaders {seed}")
        self.loop = SimLoop(self.rng)
        self.loop.in_order = plan.in_order
        self.loop.late_pulses = plan.late_pulses
        self.broker = Broker(self.rng)
        self.topics = topics
        self.state_settings = STATE_SETTINGS
        self.models = tuple(everybody)
        self.depth = plan.depth
        self.block_records = plan.block_records
        self.failures: list[str] = []
        self.seen: Counter[str] = Counter()
        self.partition_of = partition_of(plan.partitions)
        self.stages = (
            Stage(
                CARDS, topics.transactions.name, topics.cards_changelog.name, self._cards, start_cards
            ),
            Stage(
                TERMINALS, topics.enriched.name, topics.terminals_changelog.name,
                self._scoring, start_scoring,
            ),
        )  # fmt: skip
        if plan.stored:
            self.stages += (
                Stage(
                    "sink",
                    topics.predictions.name,
                    "",
                    lambda w: SinkHandler(w.sink, w.sink.early.take),
                    start_sink,
                ),
            )
        self.rows: dict[tuple[int, int], dict[str, Any]] = {}
        self.to_produce = workload(self.rng, plan, self.partition_of)
        if plan.skew_ms:
            self.to_produce = run_apart(apart, self.to_produce)
        self._labels = LabelSource(seed, self)
        self._changes = ChangeSource(seed, self)
        self._erasing = Random(f"erasing {seed}")
        self._cards_sent: list[bytes] = []
        self.disks: dict[str, dict[Any, Any]] = {f"w{i}": {} for i in range(plan.workers)}
        self.workers: dict[str, Worker] = {}
        self.members: list[Worker] = []
        self.alive: list[Worker] = []
        self.deleted: list[tuple[int, int, int]] = []
        self.generation = 0
        self.joining = False
        self.chaos = True
        for partition in range(plan.partitions):
            for stage in self.stages:
                self.broker.log(stage.source, partition)
                if stage.changelog:
                    self.broker.log(stage.changelog, partition)
            if plan.retention:  # of a group that was here before
                self.broker.committed[TP(topics.transactions.name, partition)] = 0
        while plan.skew_ms and self._produce():  # a backfill: all of it is there
            pass

    def partitions_of(self, topic: str) -> list[TP]:
        """The partitions of a topic."""
        return [TP(topic, partition) for partition in range(self.plan.partitions)]

    # ---------------------------------------------------------------- parts

    def _cards(self, worker: Worker) -> Any:
        return self.cards_handler(
            cards_module.CardsHandler, worker.schemas, self.lists[worker.wider]
        )

    def cards_handler(
        self, kind: Any, schemas: set[int] | None = None, features: Catalogue | None = None
    ) -> Any:
        """The first stage, as agents/cards.py puts it together.

        Args:
            kind: its class.
            schemas: those that are here; None: all are.
            features: that it computes.
        """

        def decode(value: bytes | None, headers: Any = ()) -> Any:
            schema = crc32(value or b"") % (self.plan.schemas or 1)
            if self.plan.schemas and schemas is not None and schema not in schemas:
                raise NotReadableYetError(schema)
            return load_object(value, headers)

        return kind(
            CardStage(features or self.lists[0], LATENESS, self.partition_of),
            self.plan.rules,
            replace(self.record_rules, decode=decode),
            self._topics_here(),
            partition_of=self.partition_of,
            forward_moved=self.seed % 4 != 0,
            state_settings=STATE_SETTINGS,
        )

    def _topics_here(self) -> Topics:
        """The topics, with as many partitions as the plan says."""
        here = copy(topics)
        here.enriched = replace(topics.enriched, partitions=self.plan.partitions)
        return here

    def _scoring(self, worker: Worker) -> Any:
        return self.scoring_handler(
            scoring_module.ScoringHandler, worker.loop.time, wide=worker.wider, here=worker.models
        )

    def threshold_of(self, model: str) -> float | None:
        """What a worker's setting says, beside its model."""
        return None if self.seed % 2 else {"ada": 0.2, "bea": 0.8}.get(model)

    def scoring_handler(
        self, kind: Any, seconds: Any, *, wide: bool = False, here: set[str] | None = None
    ) -> Any:
        """The second stage, as agents/scoring.py puts it together.

        Args:
            kind: its class.
            seconds: the time.
            wide: whether its settings have one more window.
            here: models that the worker has loaded; None: all are.
        """

        def loaded(name: str) -> FakeModel | None:
            known = models_on(self.lists[wide].names)
            return known[name] if here is None or name in here else None

        return kind(
            TerminalStage(self.lists[wide], LABEL_WAIT, MAX_WAITING),
            self.plan.terminal_rules,
            topics,
            model=loaded,
            clock_ms=lambda: int(seconds() * 1000),
            reasons_from=0.5,
            threshold=None,
            state_settings=STATE_SETTINGS,
            alerts=ALERTS,
        )

    # ---------------------------------------------------------------- what workers tell

    def fail(self, message: str) -> None:
        """Something happened that must not."""
        self.failures.append(message)

    def store(self, rows: Sequence[bytes]) -> None:
        """Cassandra takes rows of predictions."""
        for row in rows:
            fields = orjson.loads(row)
            del fields["scored_at"]
            self.rows[fields["source_partition"], fields["source_offset"]] = fields

    def halted(self, worker: Worker, where: str, error: BaseException) -> None:
        """A worker stopped itself."""
        self.seen[f"halt {type(error).__name__}"] += 1
        behind = isinstance(error, StateError) and "its state contains it only" in str(error)
        if not behind and not isinstance(error, EXPECTED_HALTS):
            trace = "".join(traceback.format_exception(error)[-6:])
            self.fail(f"{worker.name} stopped in {where}: {error!r}\n{trace}")

    def maybe_crash(self, worker: Worker) -> None:
        """Right after a write of the store, which is a bad moment to be killed."""
        if self.chaos and self.rng.random() < self.plan.crash_after_store:
            self.seen["crash after store"] += 1
            worker.kill()

    def flushes(self) -> bool:
        """Whether RocksDB makes a file of what it holds in memory."""
        return self.rng.random() < FLUSHES

    def group_accepts(self, worker: Worker) -> bool:
        """Whether the group takes a commit of this worker."""
        return (
            worker in self.members
            and not worker.zombie
            and worker.app.consumer_generation_id == self.generation
        )

    # ---------------------------------------------------------------- the group

    def reported_end(self, tp: TP) -> int | None:
        """Offset after the last record of a partition, if it has a leader that reports it now."""
        if self.plan.leaderless and self._leaders.random() < self.plan.leaderless:
            self.seen["no end"] += 1
            return None
        return self.broker.log(tp.topic, tp.partition).end

    def rebalance(self) -> None:
        """The group starts anew with whoever is alive."""
        self.members = [w for w in self.workers.values() if not w.dead and not w.zombie]
        self.joining = bool(self.members)
        for worker in self.members:
            worker.revoke()

    def _assign(self) -> None:
        self.joining = False
        self.generation += 1
        self.seen["rebalance"] += 1
        pairs = [
            (stage.name, partition)
            for stage in self.stages
            for partition in range(self.plan.partitions)
        ]
        owner = {pair: self.rng.choice(self.members) for pair in pairs}
        follower = {pair: self.rng.choice(self.members) for pair in pairs}
        for worker in self.members:
            active = [pair for pair in pairs if owner[pair] is worker]
            standby = (
                [pair for pair in pairs if follower[pair] is worker is not owner[pair]]
                if self.seed % 3 == 0
                else []
            )
            worker.assign(self.generation, active, standby)

    # ---------------------------------------------------------------- what happens

    def _produce(self) -> bool:
        if not self.to_produce:
            return False
        partition, now_ms, key, value, hole = self.to_produce.pop()
        self.broker.now_ms = max(self.broker.now_ms, now_ms)
        log = self.broker.log(topics.transactions.name, partition)
        if hole:
            log.skip(hole)
        log.append(self.broker.now_ms, key, value)
        self.mark(log)
        self._erase(key)
        self._labels.send()
        self._changes.send()
        return True

    def _erase(self, key: bytes) -> None:
        """Erase a card, one that was there more likely than not."""
        self._cards_sent.append(key)
        rng = self._erasing
        if rng.random() >= self.plan.erasures:
            return
        erased, value, headers = erase_record(rng.choice(self._cards_sent).decode(), "e1")
        partitions = list(range(self.plan.partitions))
        if rng.random() < 0.1:  # the command was interrupted; or it is no erase record: refused
            partitions = [rng.choice(partitions)]
            headers = rng.choice((headers, []))
        for partition in partitions:
            log = self.broker.log(topics.transactions.name, partition)
            log.append(self.broker.now_ms, erased, value, headers)
            self.mark(log)
        self.seen["erased"] += 1

    @property
    def changes(self) -> list[Record]:
        """The records of `control`."""
        return self._changes.log

    def mark(self, log: Log) -> None:
        """The end of a transaction, and perhaps one that is aborted, with its own marker."""
        rng = self._apart
        if rng.random() < self.plan.markers:
            log.skip(1)
            if rng.random() < 0.1:
                log.skip(1 + rng.randint(1, 4))

    def _retain(self) -> bool:
        """Retention deletes records that nobody has read.

        Where something was read and is not committed, which of it is done depends on who was killed: left alone.
        """
        topic = topics.transactions.name
        partition = self._apart.randrange(self.plan.partitions)
        log = self.broker.log(topic, partition)
        committed = self.broker.committed.get(TP(topic, partition))
        if log.end <= log.fetched or committed != log.fetched:
            return False
        before = self._apart.randint(log.fetched + 1, log.end)
        self.deleted.append((partition, log.fetched, before))
        log.delete(before)
        log.fetched = before
        self.seen["deleted"] += 1
        return True

    def _forget(self) -> bool:
        return self._forget_of(self._apart.randrange(self.plan.partitions))

    def _forget_of(self, partition: int) -> bool:
        """Kafka forgets the newest commit of a partition of `transactions`; its owner is not told.

        Where records were deleted since the commit before, they would be called lost although they were read: left
        alone.
        """
        tp = TP(topics.transactions.name, partition)
        before = self.broker.before.get(tp)
        if before is None or before[0] < self.broker.log(*tp).start:
            return False
        self.broker.committed[tp], self.broker.notes[tp] = before
        self.seen["forgotten"] += 1
        return True

    def source_records(self) -> dict[int, list[Record]]:
        """The records of `transactions` that somebody could read."""
        return {
            partition: [
                record
                for record in records
                if not any(
                    number == partition and begin <= record.offset < end
                    for number, begin, end in self.deleted
                )
            ]
            for partition, records in self.broker.topic(topics.transactions.name).items()
        }

    def _some_worker(self) -> Worker | None:
        alive = self.alive
        return alive[int(self.rng.random() * len(alive))] if alive else None

    def count_alive(self) -> None:
        """Called whenever a worker starts or dies."""
        self.alive = [w for w in self.workers.values() if not w.dead]

    def _restart(self) -> bool:
        for name, disk in self.disks.items():
            worker = self.workers.get(name)
            if worker is not None and not worker.dead:
                continue
            if self.chaos and self.rng.random() < 0.2:
                disk = self.disks[name] = {}  # noqa: PLW2901  a new disk
                self.seen["wiped"] += 1
            model = self.rng.choice(self.plan.model_names)
            wide = self._starts.random() < self.plan.wider
            self.seen["wider"] += wide
            self.workers[name] = Worker(self, name, disk, model, wider=wide)
            self.count_alive()
            self.rebalance()
            return True
        return False

    def _bad_moment(self, worker: Worker) -> bool:
        """Half of the time, wait until rows are on their way to the changelog."""
        return worker.recovering or self.rng.random() < 0.5 or worker.producer.writes("changelog")

    def _crash(self) -> bool:
        worker = self._some_worker()
        if worker is None or not self._bad_moment(worker):
            return False
        self.seen["crash"] += 1
        worker.kill()
        return True

    def _freeze(self) -> bool:
        worker = self._some_worker()
        recovering = [w for w in self.alive if w.recovering]
        if recovering and self.rng.random() < 0.5:
            worker = recovering[0]
        if worker is None or worker.stopped or worker.zombie or not self._bad_moment(worker):
            return False
        self.seen["freeze"] += 1
        worker.stop()
        return True

    def _thaw(self) -> bool:
        for worker in self.workers.values():
            if worker.stopped:
                worker.go_on()
                return True
        return False

    def _notice(self) -> bool:
        """The group notices who is gone; or a zombie notices that it is one."""
        for worker in self.workers.values():
            if worker.dead and worker in self.members:
                self.rebalance()
                return True
            if worker.stopped and not worker.zombie and worker in self.members:
                worker.zombie = True
                self.seen["zombie"] += 1
                self.rebalance()
                return True
            if worker.zombie and not worker.stopped and self.rng.random() < 0.3:
                worker.zombie = False
                self.rebalance()
                return True
        return False

    def _group(self) -> bool:
        if not self.joining:
            return False
        self.members = [w for w in self.members if not w.dead and not w.zombie]
        if not self.members or not all(w.joined for w in self.members):
            return False
        self._assign()
        return True

    def _io(self) -> bool:
        worker = self._some_worker()
        if worker is None:
            return False
        dice = self.rng.random()
        if dice < 0.3:
            return worker.producer.advance()
        if dice < 0.55:
            return worker.producer.acknowledge()
        if worker.stopped:
            return False
        if dice < 0.75:
            return worker.fetch()
        if dice < 0.97:
            return worker.deliver(self.plan.lose if self.chaos else 0)
        return worker.look() if dice < 0.973 else worker.follow()

    def _refuse(self) -> bool:
        worker = self._some_worker()
        refused = worker is not None and worker.producer.refuse()
        self.seen["refused"] += refused
        return refused

    def _commit(self) -> bool:
        worker = self._some_worker()
        committed = worker is not None and not worker.stopped and worker.commit()
        if committed and self.chaos and self._apart.random() < self.plan.retention / 40:
            for _ in range(4):  # now or hardly ever all that was read is committed
                self._retain()
        return committed

    def _spurious(self) -> bool:
        self.rebalance()
        return True

    def done(self) -> bool:
        """Everything that was produced is committed."""
        if self.to_produce or self.broker.late or self.joining:
            return False
        owned = {tp for w in self.workers.values() if not w.dead for tp in w.assignment}
        if len(owned) < len(self.stages) * self.plan.partitions:
            return False
        committed = self.broker.committed
        return all(
            committed.get((topic, p), 0) == log.end
            for (topic, p), log in self.broker.logs.items()
            if topic in {stage.source for stage in self.stages}
        )

    # ---------------------------------------------------------------- the schedule

    def run(self) -> None:
        """Play the schedule to its end; look at `failures` then."""
        asyncio._set_running_loop(self.loop)
        try:
            with (
                mock.patch.object(pipeline_module, "halt", sim_halt),
                mock.patch.object(table_module, "halt", sim_halt),
                mock.patch.object(table_module.rocksdict, "WriteBatch", FakeBatch),
                mock.patch.object(cards_module, "_PACK_BYTES", self.plan.pack_bytes),
                mock.patch.object(pulse_module, "_RECORDS", self.plan.pulse_records),
                self._repeats(),
                mock.patch.object(pulse_module, "compute_together", self._together),
            ):
                self._play()
                for error in self.loop.escaped:
                    self.fail(f"a callback has raised {error}")
                self.loop.finish()
        finally:
            asyncio._set_running_loop(None)

    def _repeats(self) -> Any:
        """Positions are repeated where Kafka forgets commits.

        Elsewhere not: time jumps from timer to timer here, and they would be most of all commits.
        """
        if self.plan.forgets:
            return mock.patch.object(alignment_module, "_REPEAT_SECONDS", 1.0)
        return mock.patch.object(
            alignment_module.EventTimeAlignment, "_repeat_later", lambda _: None
        )

    def _together(self, handler: Any, works: Any) -> Any:
        if len(works) > 1 and hasattr(handler, "compute_many"):
            self.seen["together"] += 1
        return compute_together(handler, works)

    def _play(self) -> None:
        rates = self.plan.rates
        actions = [
            (self._io, 400.0),
            (self._group, 40.0),
            (self._produce, rates["produce"]),
            (self._commit, rates["commit"]),
            (self._restart, rates["restart"]),
            (self.broker.land_late, rates["late"]),
            (self._thaw, rates["thaw"]),
            (self._notice, rates["notice"]),
            (self.loop.run_timer, 10.0),
        ]
        trouble = [
            (self._crash, rates["crash"]),
            (self._freeze, rates["freeze"]),
            (self._spurious, rates["rebalance"]),
            (self._refuse, rates["refuse"]),
            (self._retain, self.plan.retention),
            (self._forget, self.plan.forgets),
        ]
        self._steps(actions + trouble, self.rng.choice((200, 600, 1800)))
        self.chaos = False
        for worker in self.workers.values():
            if worker.stopped or worker.zombie:
                worker.kill()
        self._steps(actions, MAX_STEPS, until_done=True)
        self._count()
        if not self.failures and self.plan.forgets:  # nothing follows that would be committed
            for partition in range(self.plan.partitions):
                self._forget_of(partition)
            self._steps(actions, MAX_STEPS, until_done=True)
        if not self.failures:  # what a zombie left last is healed by the next recovery
            self.rebalance()
            self._steps(actions, MAX_STEPS, until_done=True)

    def _count(self) -> None:
        """Each partition has counted the records that it has done since it was assigned, each of them once."""
        sources = self.source_records()
        for worker in self.alive:
            for topic, pipeline in worker.app.pipelines.items():
                for number, partition in pipeline.partitions.items():
                    tp = TP(topic, number)
                    log = self.broker.log(topic, number).records
                    records = sources[number] if topic == topics.transactions.name else log
                    start = worker.consumer.block_start.get(tp)
                    if start is None:  # it is being given up
                        continue
                    there = sum(start <= one.offset < partition.done_offset for one in records)
                    if partition.records_done != there:
                        self.fail(f"{tp} counts {partition.records_done} records of {there}")

    def _steps(self, actions: list[Any], limit: int, *, until_done: bool = False) -> None:
        random, run_one, ready = self.rng.random, self.loop.run_one, self.loop.ready
        functions = [function for function, rate in actions if rate]
        weights: list[float] = []
        total = 0.0
        for _, rate in actions:
            if rate:
                total += rate
                weights.append(total)
        committed, left = self._committed(), limit
        while left > 0:
            left -= 40
            for function in self.rng.choices(functions, cum_weights=weights, k=40):
                runs = int(random() * 4)
                while ready and runs:
                    run_one()
                    runs -= 1
                function()
            if self.failures or (until_done and self.done()):
                return
            if until_done and (now := self._committed()) > committed:
                committed, left = now, limit
        if until_done:
            self.fail(f"stuck: {self._where()}")

    def _committed(self) -> int:
        return sum(self.broker.committed.values())

    def _where(self) -> str:
        ends = {key: log.end for key, log in self.broker.logs.items()}
        return f"committed {self.broker.committed}, ends {ends}, seen {dict(self.seen)}"


def workload(
    rng: Random, plan: Plan, partition_of: Any
) -> list[tuple[int, int, bytes, bytes, int]]:
    """Source records, last one first: partition, broker time, key, value, hole before it."""
    cards = [f"c{i}" for i in range(rng.choice((1, 4, 12)))]
    terminals = [f"t{i}" for i in range(rng.choice((1, 3, 10)))]
    step = rng.choice((500, 2_000, 6_000))
    now, out, sent = T0, [], []
    for number in range(plan.records):
        now += rng.randrange(step)
        card = rng.choice(cards)
        at = now - T0
        if rng.random() < 0.25:
            at -= rng.choice((0, 1, 900, 4_000, 9_000, 10_000, 10_001, 30_000, 80_000))
        record = tx(
            number,
            card=card,
            terminal=rng.choice(terminals) if rng.random() < 0.9 else None,
            at=max(at, -50_000),
            amount=rng.choice((rng.randrange(10_000) / 100, f"{rng.randrange(500)}.5", 7)),
        )
        if plan.own:
            record |= ({}, {"kind": "a"}, {"kind": "b", "parts": 2}, {"kind": None, "parts": "x"})[
                number % 41 % 4 if number % 41 else 3
            ]
        key = card.encode()
        dice = rng.random()
        if dice < 0.08 and sent:
            record = rng.choice(sent)
            key = record["card_id"].encode()
        elif dice < 0.12:
            record = dict(record, **rng.choice(DEAD))
        elif dice < 0.14:
            record["event_time"] = now + FUTURE_SKEW + rng.choice((0, 1, 5_000))
        elif dice < 0.16:
            key = b"someone-else"
        elif dice < 0.22 and sent:
            record = reused(rng, rng.choice(sent), record)
            key = record["card_id"].encode()
            sent.append(record)
        else:
            sent.append(record)
        partition = partition_of(key)
        if rng.random() < 0.04:
            partition = rng.randrange(plan.partitions)
        hole = rng.choice((1, 3)) if plan.holes and rng.random() < 0.1 else 0
        value = b"{broken" if rng.random() < 0.02 else orjson.dumps(record)
        out.append((partition, now, key, value, hole))
    out.reverse()
    return out


def reused(rng: Random, first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A record with the id of an earlier one of its card, and something else that is another's."""
    changed = rng.choice(
        (("amount",), ("event_time",), ("terminal_id",), ("amount", "event_time", "terminal_id"))
    )
    return first | {name: other[name] for name in changed if name in other}


def run_apart(
    rng: Random, produced: list[tuple[int, int, bytes, bytes, int]]
) -> list[tuple[int, int, bytes, bytes, int]]:
    """The same records with event times that rise in each partition, each at its own speed."""
    steps: dict[int, int] = {}
    newest: dict[int, int] = {}
    out = []
    for partition, now, key, value, hole in reversed(produced):
        record = _readable((partition, now, key, value, hole))
        if record is not None and record["event_time"] <= now + FUTURE_SKEW:
            step = steps.setdefault(partition, rng.choice((SECOND, 4 * SECOND, 40 * SECOND)))
            at = newest.get(partition, LONG_AGO) + rng.randrange(2 * step)
            newest[partition] = at
            value = orjson.dumps({**record, "event_time": at})  # noqa: PLW2901
        out.append((partition, now, key, value, hole))
    out.reverse()
    return out


DEAD: tuple[dict[str, Any], ...] = (
    {"amount": -1},  # a refund
    {"amount": -1, "currency": "USD"},
    {"amount": 0.001},
    {"event_time": "yesterday"},
    {"currency": "USD"},
    {"transaction_id": None},
    {"card_id": 7},
)


class LabelSource:
    """Stands for agents/labels: forwards labels in source order, at least once, to where their transactions go."""

    def __init__(self, seed: int, world: World) -> None:
        self._rng = Random(f"labels {seed}")
        self._naming = Random(f"labels that name cards {seed}")
        self._world = world
        self._records = [r for r in map(_readable, world.to_produce) if r is not None]
        self._logs: list[list[LabelItem]] = [[] for _ in range(world.plan.partitions)]

    def send(self) -> None:
        """A label of any transaction, past or to come, right or wrong about it; now and then a replay."""
        rng, world = self._rng, self._world
        if not self._records or rng.random() >= world.plan.labels:
            return
        record = rng.choice(self._records)
        source = crc32(record["transaction_id"].encode()) % world.plan.partitions
        log = self._logs[source]
        terminal = record.get("terminal_id")
        if rng.random() < 0.1:
            terminal = rng.choice((None, "t0"))
        log.append(
            LabelItem(
                len(log),
                world.broker.now_ms,
                record["transaction_id"],
                record["card_id"],
                terminal,
                record["event_time"],
                rng.random() < 0.5,
                T0 + rng.randrange(4) * SECOND,
                orjson.dumps({"card_id": record["card_id"]} if self._naming.random() < 0.7 else {}),
            )
        )
        start = rng.randrange(len(log)) if rng.random() < 0.2 else len(log) - 1
        by_target: dict[int, list[LabelItem]] = {}
        for item in log[start:]:
            target = world.partition_of((item.terminal_id or item.card_id).encode())
            by_target.setdefault(target, []).append(item)
        for target, items in by_target.items():
            value = labels_message(topics.labels.name, source, items)
            log = world.broker.log(topics.enriched.name, target)
            log.append(world.broker.now_ms, None, value)
            world.mark(log)
            world.seen["labels"] += len(items)


#: Of one more window, of a field that some deployments add, of the model's score, and of what all have.
RULES: tuple[tuple[str, str, Any], ...] = (
    ("large", "amount > 50", "decline"),
    ("large", "amount >= 80 or terminal_id == 't2'", "review"),
    ("often", "card_count_20s >= 2 and score < 0.9", "tag"),
    ("wide", "card_count_1s / terminal_count_5s > 0.5", "review"),
    ("own", "kind == 'a' and parts < 2", "review"),
    ("trust", "startswith(terminal_id, 't1')", "allow"),
)


class ChangeSource:
    """Stands for agents/control: its handler, over a log of changes; at least once, and now and then again."""

    def __init__(self, seed: int, world: World) -> None:
        self._rng = Random(f"changes {seed}")
        self._world = world
        self._beside = Random(f"rules {seed}")
        self._guard = Random(f"guard {seed}")
        self._rate = self._rng.choice((0, 0, 0.1, 0.4))
        self._handler = control_module.ControlHandler(
            SimpleNamespace(
                control=topics.control,
                dead_letters=topics.dead_letters,
                enriched=replace(topics.enriched, partitions=world.plan.partitions),
            )
        )
        self.log: list[Record] = []

    def send(self) -> None:
        """Change something, or nothing; a crash in between may leave some partitions to the next time."""
        rng, world = self._rng, self._world
        if rng.random() >= (self._rate if world.plan.changes is None else world.plan.changes):
            return
        value = encode_change(self._drawn()) if rng.random() < 0.95 else b'{"change": "everything"}'
        self.log.append(Record(len(self.log), world.broker.now_ms, b"", value))
        start = rng.randrange(len(self.log)) if rng.random() < 0.3 else len(self.log) - 1
        first = rng.randrange(world.plan.partitions)
        if rng.random() < 0.2:  # it dies before all are acknowledged, and begins again
            self._forward(start, {first})
        self._forward(start, set(range(world.plan.partitions)))

    def _drawn(self) -> AnyChange:
        if self._beside.random() < 0.4:
            return self._of_rules()
        if self._guard.random() < 0.15 and self.log:
            return self._revert()
        rng = self._rng
        # one may be promoted that gives some rows no score
        wrong = self._guard.random() < self._world.plan.faulty
        name = rng.choice(faulty if wrong else list(models))
        threshold = rng.choice((None, 0.3, 0.6))
        beside = rng.choice(list(challengers))
        share = rng.choice((None, 0.0, 0.0, 0.3, 0.7, 1.0))
        return rng.choice(
            (
                ModelChange(model=name, hash=name, threshold=threshold),
                ThresholdChange(threshold=threshold),
                LoadChange(model=name, hash=name),
                *2
                * (
                    ChallengerChange(
                        model=f"{beside}-1", hash=beside, share=share, threshold=threshold
                    ),
                ),
            )
        )

    def _revert(self) -> AnyChange:
        """What a guard proposes of one of the newest changes: by several workers, late, or of one that is none."""
        offset = max(0, len(self.log) - 1 - self._guard.randrange(3))
        threshold = self._guard.choice((None, 0.3))
        if self._guard.random() < 0.4:
            return ThresholdChange(threshold=threshold, reverts=offset, by="guard")
        name = self._guard.choice(list(models))
        return ModelChange(
            model=name, hash=name, threshold=threshold, how="rollback", reverts=offset, by="guard"
        )

    def _of_rules(self) -> AnyChange:
        """A rule or a list entry, now and then gone again; or one that names what not all transactions have."""
        rng = self._beside
        if rng.random() < 0.5:
            name, expression, action = rng.choice(RULES)
            kept = expression if rng.random() < 0.8 else ""
            fields = rule_fields(check(kept), OWN) if kept else ()
            return RuleChange(name=name, expression=kept, action=action, fields=fields)
        subject, ids = rng.choice((("card", "c"), ("terminal", "t")))
        return ListChange(
            name=rng.choice(("block", "allow")),
            subject=subject,
            ids=tuple(f"{ids}{rng.randrange(4)}" for _ in range(2)),
            until_ms=rng.choice((None, T0 + rng.randrange(100) * SECOND)),
            remove=rng.random() < 0.2,
        )

    def _forward(self, start: int, acknowledged: set[int]) -> None:
        world = self._world
        outputs = self._handler.compute(0, self.log[start:], None).outputs  # type: ignore[arg-type]
        for (topic, partition), records in outputs.items():
            if topic == topics.enriched.name and partition in acknowledged:
                log = world.broker.log(topic, partition)
                for key, value, _ in records:
                    log.append(world.broker.now_ms, key, value)
                    world.mark(log)
        world.seen["changes"] += 1


def _readable(produced: tuple[int, int, bytes, bytes, int]) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = orjson.loads(produced[3])
    except orjson.JSONDecodeError:
        return None
    right = {"transaction_id": str, "card_id": str, "event_time": int}
    if all(isinstance(record.get(name), kind) for name, kind in right.items()):
        return record
    return None
