"""A simulated worker: the real pipelines, partitions, handlers and tables between simulated Kafka and disk.

What Faust does around them (recovery, seeks, queues, commits) is played in the order in which
faust-streaming 0.15.3 does it, with a chance to be interrupted between any two steps.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest import mock
from unittest.mock import Mock

from faust.tables.table import Table
from faust.types import TP

from app.blocks.core.alignment import EventTimeAlignment, PartitionProgress
from app.blocks.core.offset_metadata import OffsetMetadata
from app.blocks.core.partition import Handler
from app.blocks.faust import block_table as table_module
from app.blocks.faust import pipeline as pipeline_module
from app.blocks.faust.block_app import BlockApp
from app.blocks.faust.early_delivery import EarlyDelivery
from app.blocks.faust.fetched_ranges import Chunk
from app.blocks.faust.rocksdb_options import StoreOptions
from app.errors import ForeignWriterError, StateError
from app.stages.partition_start import bind_model, check_state, check_topics_known
from app.stages.scoring_models import ModelNeeded
from app.wire.dead_letters import loss_letter
from tests.stream.sim_kafka import Broker, Producer, RefusedError
from tests.stream.sim_loop import OWNER, SimLoop

OFFSET_KEY = b"__faust\0offset__"
CARDS, TERMINALS = "cards", "terminals"


class HaltedError(BaseException):
    """Ends the simulated worker's task, where the real one ends its process."""


def sim_halt(where: str, error: BaseException) -> NoReturn:
    """In the place of `app.blocks.faust.fatal_errors.halt`."""
    worker: Worker = OWNER.get()
    worker.halt(where, error)
    raise HaltedError


class FakeBatch:
    """As rocksdict's WriteBatch."""

    def __init__(self, *, raw_mode: bool) -> None:
        self.operations: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        self.operations.append((key, value))

    def delete(self, key: bytes) -> None:
        self.operations.append((key, None))


Rows = dict[bytes, bytes]


class Database:
    """As an opened Rdict of one table partition; writes of a dead worker do not happen.

    What is not logged is on disk once it is flushed, or once RocksDB pleases; a crash before that takes it, and
    leaves what was logged behind it.
    """

    def __init__(self, worker: "Worker", table: str, partition: int) -> None:
        self._worker = worker
        self._table, self._partition = table, partition
        where = (table, partition)
        self._disk: Rows = worker.disk.setdefault(where, {})
        if where not in worker.memory:
            worker.memory[where] = dict(self._disk)
        self._rows: Rows = worker.memory[where]
        self.get = self._rows.get

    def items(self, from_key: bytes = b"") -> list[tuple[bytes, bytes]]:
        return sorted(row for row in self._rows.items() if row[0] >= from_key)

    def write(self, batch: FakeBatch, options: Any = None) -> None:
        if self._worker.dead:
            return
        logged = options is None or not options.disable_wal
        for rows in (self._rows, self._disk) if logged else (self._rows,):
            for key, value in batch.operations:
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
        if not logged and self._worker.world.flushes():
            self.flush()
        self._worker.check_store(self._table, self._partition, self._rows)
        self._worker.world.maybe_crash(self._worker)

    def flush(self) -> None:
        if not self._worker.dead:
            self._disk.clear()
            self._disk.update(self._rows)


class TableData:
    """As Faust's RocksDB store of a table."""

    offset_key = OFFSET_KEY

    def __init__(self, worker: "Worker", table: str) -> None:
        self._worker = worker
        self._table = table

    def _db_for_partition(self, partition: int) -> Database:
        return Database(self._worker, self._table, partition)

    def persisted_offset(self, tp: TP) -> int | None:
        raw = self._db_for_partition(tp.partition).get(OFFSET_KEY)
        return None if raw is None else int(raw)

    async def on_rebalance(self, *_: Any) -> None:
        await asyncio.sleep(0)

    async def on_recovery_completed(self, *_: Any) -> None:
        await asyncio.sleep(0)


def sim_table(worker: "Worker", name: str, changelog: str, batch_bytes: int) -> Any:
    """The real BlockTable on simulated storage: only Faust's constructor is left out."""

    def faust_init(self: Any, app: Any, **kwargs: Any) -> None:
        self.app, self.name = app, kwargs["name"]
        self._data = TableData(worker, name)
        self._recover_callbacks = set()

    with mock.patch.object(Table, "__init__", faust_init):
        return table_module.BlockTable(
            worker.app,
            name=name,
            changelog=changelog,
            batch_bytes=batch_bytes,
            store=StoreOptions(1 << 20, 1),
        )


class Message(SimpleNamespace):
    """As Faust's ConsumerMessage of one fetched chunk."""

    tp: TP
    partition: int
    offset: int
    value: Chunk
    generation_id: int


class Consumer:
    """As BlockConsumer: what the pipelines and tables ask of it."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self.block_start: dict[TP, int] = {}
        self.records_end: dict[TP, int] = {}
        self.position: dict[TP, int] = {}
        self.acked: dict[TP, int] = {}
        self.unacked: set[int] = set()
        self.fetched: deque[Message] = deque()

    def finish(self, message: Message) -> None:
        self.abandon(message)
        if not self._worker.dead:
            self.acked[message.tp] = max(message.offset, self.acked.get(message.tp, -1))

    def finish_part(self, message: Message, offset: int) -> None:
        if not self._worker.dead:
            self.acked[message.tp] = max(offset, self.acked.get(message.tp, -1))

    def abandon(self, message: Message) -> None:
        self.unacked.discard(id(message))

    async def seek(self, tp: TP, offset: int) -> None:
        await asyncio.sleep(0)
        self.position[tp] = offset

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        await asyncio.sleep(0)
        return {tp: self._worker.broker.log(tp.topic, tp.partition).end for tp in tps}

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        await asyncio.sleep(0)
        return {tp: self._worker.broker.log(tp.topic, tp.partition).start for tp in tps}

    async def committed_offset(self, tp: TP) -> int | None:
        await asyncio.sleep(0)
        return self._worker.broker.committed.get(tp)

    async def read_progress(self, tps: Iterable[TP]) -> dict[TP, PartitionProgress]:
        broker = self._worker.broker
        self._worker.world.seen["held"] += 1
        await asyncio.sleep(0)
        done = {
            tp: (broker.committed.get(tp, 0), OffsetMetadata.read(broker.notes.get(tp, "")))
            for tp in tps
        }
        await asyncio.sleep(0)
        return {
            tp: PartitionProgress(offset, self._worker.world.reported_end(tp), note)
            for tp, (offset, note) in done.items()
        }

    async def commit(self, notes: dict[TP, tuple[int, OffsetMetadata]]) -> None:
        await asyncio.sleep(0)
        # requests of a worker arrive in the order in which it made them: none undoes a later one
        reached = self._worker.broker.committed
        self._worker.commit_offsets(
            {
                tp: offset
                for tp, (offset, _) in notes.items()
                if offset >= reached.get(tp, 0) and tp in self._worker.assignment
            }
        )

    def is_congested(self, tp: TP) -> bool:
        return any(tp in p.congested() for p in self._worker.app.pipelines.values())


class Stage:
    """How one stage is put together: see agents/cards.py, agents/scoring.py and (no changelog) agents/sink.py."""

    def __init__(
        self,
        name: str,
        source: str,
        changelog: str,
        handler: Callable[["Worker"], Handler],
        on_start: Callable[["Worker", Any, int, int], Awaitable[None]],
        attach: Callable[["Worker", Any, Any], None] = lambda *_: None,
    ) -> None:
        self.name, self.source, self.changelog = name, source, changelog
        self.handler, self.on_start, self.attach = handler, on_start, attach


class Sink:
    """Writes rows to a Cassandra that answers at some time: see agents/sink.py."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self.early = EarlyDelivery(self._begin)

    def pack_many(self, values: Iterable[bytes]) -> list[bytes]:
        """Rows are what predictions are."""
        return list(values)

    async def deliver(self, _partition: int, rows: list[bytes]) -> Awaitable[None]:
        return asyncio.ensure_future(self._write(rows))

    def deliver_now(self, _partition: int, rows: list[bytes]) -> "asyncio.Future[None] | None":
        """It may not have been reached yet."""
        if self._worker.rng.random() < 0.2:
            return None
        return asyncio.ensure_future(self._write(rows))

    def _begin(self, values: Sequence[bytes]) -> "asyncio.Future[None] | None":
        """It may be away."""
        if self._worker.rng.random() < 0.2:
            return None
        self._worker.world.seen["early"] += 1
        return asyncio.ensure_future(self._write(values))

    async def _write(self, rows: Sequence[bytes]) -> None:
        for _ in range(self._worker.rng.randrange(8)):
            await asyncio.sleep(0.01)
        self._worker.world.store(rows)
        if self._worker.rng.random() < 0.5:
            await asyncio.sleep(0.01)


class Worker:
    """One process. Its disk outlives it."""

    def __init__(
        self,
        world: Any,
        name: str,
        disk: dict[tuple[str, int], Rows],
        model: str,
        *,
        wider: bool = False,
    ) -> None:
        self.world, self.name, self.disk, self.model = world, name, disk, model
        self.wider = wider  # its settings have one more window
        self.memory: dict[tuple[str, int], Rows] = {}
        self.rng: Random = world.rng
        self.loop: SimLoop = world.loop
        self.broker: Broker = world.broker
        self.dead = False
        self.stopped = False  # as by SIGSTOP
        self.zombie = False  # no member of the group any more, and does not know
        self.joined = False
        self.recovering = False
        self.parked: list[Any] = []
        self.assignment: list[TP] = []
        self.standbys: dict[TP, int] = {}
        self.producer = Producer(self.broker)
        self.sink = Sink(self)
        self.schemas: set[int] = set()
        self.models: set[str] = set(world.models) if world.plan.models_here else set()
        self.consumer = Consumer(self)
        self.flow_active = False
        self.app: Any = SimpleNamespace(
            consumer=self.consumer,
            consumer_generation_id=-1,
            flow_control=SimpleNamespace(is_active=lambda: self.flow_active),
            producer=SimpleNamespace(_producer=self.producer),
            pipelines={},
            pass_on=self._pass_on,
            begin_early=lambda outputs: BlockApp.begin_early(self.app, outputs),
            rebalancing_count=0,
            should_stop=False,
            loss_record=lambda tp, begin, end: {
                (world.topics.dead_letters.name, tp.partition): [
                    loss_letter(tp.topic, tp.partition, begin, end)
                ]
            },
        )
        skew_ms = world.plan.skew_ms
        sources = world.partitions_of(world.topics.transactions.name)
        self.alignment = EventTimeAlignment(sources, skew_ms, self.consumer) if skew_ms else None
        self.app.alignment = self.alignment
        self.queues: dict[str, asyncio.Queue[Message]] = {}
        self.tables: dict[str, Any] = {}
        self._rebalance: asyncio.Task[None] | None = None
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self)
        self.context.run(self._start)

    def _start(self) -> None:
        for stage in self.world.stages:
            table, sink = None, self.sink
            if stage.changelog:
                table = self.tables[stage.name] = sim_table(
                    self, stage.name, stage.changelog, self.world.plan.row_batch_bytes
                )
            pipeline = pipeline_module.Pipeline(
                self.app,
                SimpleNamespace(topics=[stage.source]),
                stage.handler(self),
                table=table,
                depth=self.world.depth,
                block_records=self.world.block_records,
                batch_bytes=self.world.plan.row_batch_bytes,
                waiting_bytes=self.world.plan.waiting_bytes,
                deliver=sink.deliver if table is None else None,
                deliver_now=sink.deliver_now if table is None else None,
                early=sink.early if table is None else None,
                on_start=self._on_start(stage, table),
                obtain=self._obtain,
            )
            # outputs need larger batches than rows, which shall need several
            pipeline._sender = pipeline_module.OutputSender(
                self.world.plan.batch_bytes, self._pass_on, self.app.begin_early
            )
            stage.attach(self, table, pipeline)
            queue = self.queues[stage.source] = asyncio.Queue()
            self.loop.create_task(self._agent(pipeline, queue), context=self.context)

    def _on_start(self, stage: Stage, table: Any) -> Callable[[int, int], Awaitable[None]]:
        async def on_start(partition: int, start: int) -> None:
            await stage.on_start(self, table, partition, start)

        return on_start

    async def _obtain(self, needed: Any) -> None:
        """A registry that answers at some time; what is here may be let go again, as from a full cache."""
        for _ in range(self.rng.randrange(6)):
            await asyncio.sleep(0.5)
        here = self.models if isinstance(needed, ModelNeeded) else self.schemas
        if here and self.rng.random() < 0.1:
            here.pop()
        here.add(needed.hash if isinstance(needed, ModelNeeded) else needed)
        self.world.seen["model" if here is self.models else "schema"] += 1

    async def _agent(self, pipeline: Any, queue: asyncio.Queue[Message]) -> None:
        try:
            while True:
                message = await queue.get()
                await pipeline.process(SimpleNamespace(message=message, value=message.value))
        except Exception as error:
            self.halt("agent", error)

    def _pass_on(self, destination: tuple[str, int]) -> Callable[[list[Any]], None] | None:
        """As BlockApp passes on."""
        take = BlockApp.pass_on(self.app, destination)
        if take is None:
            return None

        def passed(records: list[Any]) -> None:
            if self.dead:
                return
            if self.rng.random() < self.world.plan.lose_passed:
                return
            self.world.seen["passed"] += 1
            log = self.broker.log(*destination)
            log.fetched = max(log.fetched, records[-1].offset + 1)
            take(records)

        return passed

    # ---------------------------------------------------------------- life and death

    def kill(self) -> None:
        """As by SIGKILL: no effect of its code reaches the world any more."""
        if self.dead:
            return
        self.dead = True
        self.world.count_alive()
        self.stopped = False
        self.loop.ready += self.parked
        self.parked = []
        for task in list(self.loop.tasks.get(self, ())):
            task.cancel()
        self.producer.die()

    def halt(self, where: str, error: BaseException) -> None:
        """The worker found what it cannot explain."""
        if not self.dead:
            self.world.halted(self, where, error)
            self.kill()

    def stop(self) -> None:
        """As by SIGSTOP."""
        self.stopped = self.producer.stopped = True

    def go_on(self) -> None:
        """As by SIGCONT."""
        self.stopped = self.producer.stopped = False
        self.loop.ready += self.parked
        self.parked = []

    # ---------------------------------------------------------------- what the network does

    def fetch(self) -> bool:
        """Fetch a chunk of one partition."""
        if not self.flow_active:
            return False
        consumer = self.consumer
        if not self.assignment:
            return False
        tp = self.assignment[int(self.rng.random() * len(self.assignment))]
        if consumer.is_congested(tp):
            return False
        chunk = self._chunk(tp, consumer.position[tp])
        if chunk.begin == chunk.end:
            return False
        consumer.position[tp] = chunk.end
        consumer.fetched.append(self._message(tp, chunk))
        return True

    def _chunk(self, tp: TP, position: int) -> Chunk:
        """As app/blocks/faust/fetched_ranges.py brings it: with what follows its last record, or without."""
        log = self.broker.log(tp.topic, tp.partition)
        if position < log.start:
            self.world.seen["out of range"] += 1
            return Chunk((), position, log.start, lost=True)
        limit = 1 + int(self.rng.random() * self.world.block_records)
        records, end = log.fetch(position, limit)
        if end - position > len(records):
            self.world.seen["holes"] += 1
            if records and self.rng.random() < 0.3:
                end = records[-1].offset + 1
        return Chunk(records, position, end)

    def _message(self, tp: TP, chunk: Chunk) -> Message:
        return Message(
            topic=tp.topic,
            partition=tp.partition,
            tp=tp,
            offset=chunk.end - 1,
            value=chunk,
            generation_id=self.app.consumer_generation_id,
        )

    def deliver(self, lose: float) -> bool:
        """A fetched chunk gets to its agent, or, as around seeks and rebalances, is lost."""
        fetched = self.consumer.fetched
        if not fetched or not self.flow_active:
            return False
        message = fetched.popleft()
        if self.app.pipelines[message.topic].has(message.partition, message.value.end):
            self.world.seen["fetched for nothing"] += 1
            return True
        if self.rng.random() < lose:
            self.world.seen["lost"] += 1
            return True
        self.consumer.unacked.add(id(message))
        self.queues[message.topic].put_nowait(message)
        return True

    def look(self) -> bool:
        """As BlockConsumer looks for lost blocks: seek back where nothing came of what was fetched."""
        consumer = self.consumer
        if not self.flow_active or consumer.fetched:
            return False
        for tp, start in consumer.block_start.items():
            offset = self.app.pipelines[tp.topic].awaits(tp.partition, start)
            if offset is not None and consumer.position[tp] > offset:
                consumer.position[tp] = offset
                self.world.seen["looked"] += 1
                return True
        return False

    def commit(self) -> bool:
        """Commit what is acknowledged; the group refuses those who are no members."""
        if not self.consumer.acked or not self.world.group_accepts(self):
            return False
        self.commit_offsets({tp: offset + 1 for tp, offset in self.consumer.acked.items()})
        self.consumer.acked.clear()
        return True

    def commit_offsets(self, offsets: dict[TP, int]) -> None:
        """Commits carry notes; the group refuses those who are no members."""
        if self.dead or not self.world.group_accepts(self):
            return
        for tp, offset in offsets.items():
            self.broker.commit(tp, offset, BlockApp.metadata_of(self.app, tp).write(offset))

    def follow(self) -> bool:
        """A standby reads on."""
        if not self.standbys or not self.flow_active:
            return False
        tp = self.rng.choice(sorted(self.standbys))
        begin = self.standbys[tp]
        records, end = self.broker.log(tp.topic, tp.partition).fetch(begin, self.rng.randint(1, 6))
        if not records:
            return False
        self.standbys[tp] = end
        self._apply(tp, [Chunk(records, begin, end)])
        return True

    def _apply(self, tp: TP, chunks: Iterable[Chunk]) -> None:
        table = next(t for t in self.tables.values() if t._changelog_name == tp.topic)
        events = [
            SimpleNamespace(value=chunk, message=self._message(tp, chunk)) for chunk in chunks
        ]
        self.context.copy().run(table.apply_changelog_batch, events)

    # ---------------------------------------------------------------- rebalance

    def revoke(self) -> None:
        """The group starts anew: give up what we have, then join."""
        self.joined = False
        self.app.rebalancing_count += 1
        if self._rebalance is not None:
            self._rebalance.cancel()
        self._rebalance = self.loop.create_task(self._revoke(), context=self.context)

    async def _revoke(self) -> None:
        consumer = self.consumer
        consumer.block_start.clear()
        self.flow_active = False
        consumer.fetched.clear()
        for queue in self.queues.values():
            while not queue.empty():
                consumer.abandon(queue.get_nowait())
        for pipeline in self.app.pipelines.values():
            pipeline.give_up_held()
        for _ in range(self.rng.randrange(12)):
            if not consumer.unacked:
                break
            await asyncio.sleep(0.5)
        if self.rng.random() < 0.5:
            self.commit()
        for pipeline in self.app.pipelines.values():
            pipeline.reset()
        consumer.acked.clear()
        consumer.unacked.clear()
        self.assignment = []
        self.standbys = {}
        await asyncio.sleep(0)
        self.joined = True

    def assign(self, generation: int, active: list[Any], standby: list[Any]) -> None:
        """The group has decided: (stage, partition) pairs that are ours, and those we follow."""
        self._rebalance = self.loop.create_task(
            self._recover(generation, active, standby), context=self.context
        )

    async def _recover(self, generation: int, active: list[Any], standby: list[Any]) -> None:
        try:
            await self._recover_tables(generation, active, standby)
        except Exception as error:
            self.halt("recovery", error)

    async def _recover_tables(self, generation: int, active: list[Any], standby: list[Any]) -> None:
        self.app.consumer_generation_id = generation
        self.recovering = True
        stages = {stage.name: stage for stage in self.world.stages}
        # lists, because a set's order would change from run to run
        ours, followed = (
            [
                TP(stages[name].changelog, partition)
                for name, partition in pairs
                if name in self.tables
            ]
            for pairs in (active, standby)
        )
        for table in self.tables.values():
            await table.on_rebalance(ours, [], [], generation)
        for tp in ours:
            await self._recover_partition(tp)
        for stage in self.world.stages:
            if not stage.changelog:
                continue
            await self.tables[stage.name].on_recovery_completed(
                [tp for tp in ours if tp.topic == stage.changelog],
                [tp for tp in followed if tp.topic == stage.changelog],
            )
        self.standbys = {tp: self._persisted(tp) or 0 for tp in followed}
        if self.app.consumer_generation_id != generation:
            return
        sources = [TP(stages[name].source, partition) for name, partition in active]
        if self.rng.random() < 0.3:
            await asyncio.sleep(0.01)  # the group is asked for the committed offsets
        committed = self.broker.committed
        start = {tp: committed.get(tp, self.broker.log(*tp).start) for tp in sources}
        notes = {tp: OffsetMetadata.read(self.broker.notes.get(tp, "")) for tp in sources}
        self.consumer.records_end.update(
            {tp: notes[tp].records_end_at(offset) for tp, offset in start.items()}
        )
        await asyncio.sleep(0)
        self.consumer.position = dict(start)
        self.consumer.block_start.update(start)
        self.flow_active = True
        opening = [self.app.pipelines[tp.topic].open(tp.partition) for tp in sources]
        self.loop.create_task(
            self._open(opening, self.app.rebalancing_count, sources), context=self.context
        )

    async def _open(self, opening: list[Any], rebalance: int, sources: list[TP]) -> None:
        """As BlockApp does, once recovery is over; nothing is fetched before."""
        opened = self.app.on_partitions_open = Mock()
        await BlockApp._opened(self.app, opening, rebalance)
        if opened.called:
            self.assignment = sources
            self.recovering = False

    def _persisted(self, tp: TP) -> int | None:
        table = next(t for t in self.tables.values() if t._changelog_name == tp.topic)
        offset: int | None = table.data.persisted_offset(tp)
        return offset

    async def _recover_partition(self, tp: TP) -> None:
        log = self.broker.log(tp.topic, tp.partition)
        end = log.end
        position = self._persisted(tp) or 0  # Faust seeks to the persisted offset, not behind it
        while position < end:
            chunks = []
            for _ in range(self.rng.randint(1, 3)):
                records = log.read(position, min(self.rng.randint(1, 9), end - position))
                if not records:
                    break
                chunks.append(Chunk(records, position, records[-1].offset + 1))
                position = records[-1].offset + 1
            if not chunks:
                break
            self._apply(tp, chunks)
            await asyncio.sleep(0)

    # ---------------------------------------------------------------- watching

    def check_store(self, table: str, partition: int, rows: Rows) -> None:
        """A store never claims more of the changelog than there is."""
        stage = next(stage for stage in self.world.stages if stage.name == table)
        end = self.broker.log(stage.changelog, partition).end
        if int(rows[OFFSET_KEY]) >= end:
            msg = f"the store of {table}/{partition} is at {rows[OFFSET_KEY]!r}, its changelog ends at {end}"
            self.world.fail(msg)


EXPECTED_HALTS = (ForeignWriterError, RefusedError)
TOPIC_IDS = {"transactions": "one", "sim-enriched": "two"}


def refused(names: list[str]) -> StateError:
    """No topic of a schedule is ever another."""
    return StateError(f"other topics: {names}")


async def start_sink(*_: Any) -> None:
    """It has no state."""


async def start_cards(worker: Worker, table: Any, partition: int, start: int) -> None:
    """As agents/cards.py."""
    tp = TP(worker.world.topics.transactions.name, partition)
    await check_topics_known(table, partition, TOPIC_IDS, refused, changelog=table._changelog_name)
    await check_state(worker.consumer, table, tp, start, worker.world.state_settings)


async def start_scoring(worker: Worker, table: Any, partition: int, start: int) -> None:
    """As agents/scoring.py."""
    tp = TP(worker.world.topics.enriched.name, partition)
    await check_topics_known(table, partition, TOPIC_IDS, refused, changelog=table._changelog_name)
    end = await check_state(worker.consumer, table, tp, start, worker.world.state_settings)
    # as its setting says, which another worker of the deployment may have otherwise

    async def begins_with() -> str:
        return worker.model

    await bind_model(table, partition, end, begins_with, worker.world.threshold_of(worker.model))
