"""The labels stage in a deployment of its own: real pipelines, handlers, tables and retries, and schedules of trouble.

Transactions are a set of ids that grows while the schedule runs, as Cassandra would know them. At the end each label
is in exactly one place: applied at its terminal, dead-lettered, or parked.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import orjson
from faust.types import TP

from app.blocks.core.interfaces import SentOutputs
from app.errors import NotAnsweringError
from app.stages import label_stage as labels_module
from app.stages import parked_label_retries as retries_module
from app.stages.parked_labels import PREFIX, copied_offset, offset_of
from app.stages.partition_start import check_labels
from app.wire.control_records import decode_message
from app.wire.erase_records import erase_record
from app.wire.label_records import LabelBatch
from tests.builders import T0
from tests.stream.sim_worker import Rows, Stage, Worker
from tests.stream.sim_world import World, topics

LABELS = "labels"
SECOND = 1_000
#: A card that labels name whose transactions never come.
CARD = "erased"
ENRICHED, LETTERS, SOURCE = topics.enriched.name, topics.dead_letters.name, topics.labels.name
Offset = tuple[int, int]


class LabelWorld(World):
    """A deployment with one stage: see agents/labels.py.

    Attributes:
        known: transactions in Cassandra, by id.
        stored: labels in Cassandra: partition and offset.
        names: what the label at a partition and offset speaks of; None for what is no label.
        erased: labels that name a card which is erased behind them.
    """

    def __init__(self, seed: int, **changes: Any) -> None:
        super().__init__(seed, **{"skew_ms": None, "labels": 0, "model_names": ("ada",), **changes})
        rng = self._rng = Random(f"parked {seed}")
        self.stages = (
            Stage(
                LABELS, SOURCE, topics.labels_changelog.name, self._handler, _start, self._attach
            ),
        )  # fmt: skip
        for partition in range(self.plan.partitions):
            self.broker.log(SOURCE, partition)
            self.broker.log(topics.labels_changelog.name, partition)
        self.known: dict[str, list[dict[str, Any]]] = {}
        self.stored: set[Offset] = set()
        self.names: dict[Offset, str | None] = {}
        # copies are sent again while nobody reads them: later still, and there were ever more of them
        self.loop.late_pulses = min(self.plan.late_pulses, 0.8)
        self.erased: set[Offset] = set()
        self._naming: set[Offset] = set()
        self._erasing = Random(f"erased labels {seed}")
        self.whole: set[Offset] = set()
        self.max_parked = rng.choice((2, 1_000, 1_000))
        self.label_wait_ms = rng.choice((5 * SECOND, 10**9, 10**9))
        self.passed_ms = 0
        self._to_learn = [f"tx-{number}" for number in range(rng.randint(1, 12))]
        self._ever = set(self._to_learn)
        rng.shuffle(self._to_learn)
        self.to_produce = [None] * self.plan.records  # type: ignore[list-item]

    # ---------------------------------------------------------------- parts

    def _handler(self, _worker: Worker) -> Any:
        return labels_module.LabelsHandler(
            topics, partition_of=self.partition_of, max_future_skew_ms=10**9,
            max_parked=self.max_parked, look_up=retries_module.look_up_with(self._find),
        )  # fmt: skip

    def _attach(self, worker: Worker, table: Any, pipeline: Any) -> None:
        async def deliver(_partition: int, block: Any) -> SentOutputs:
            sent = await pipeline._sender.send(worker.producer, block.outputs)
            return SentOutputs.of(sent, self._store(worker, block))

        async def send(outputs: Any) -> None:
            await (await pipeline._sender.send(worker.producer, outputs))

        retries = worker.retries = retries_module.LabelRetries(  # type: ignore[attr-defined]
            SOURCE, table, find=self._find, send=send,
            clock_ms=lambda: self.broker.now_ms + self.passed_ms,
            label_wait_ms=self.label_wait_ms, max_future_skew_ms=10**9,
        )  # fmt: skip
        pipeline._deliver = deliver
        table.on_stored, table.on_ready = retries.stored, retries.hold

    async def _store(self, worker: Worker, block: Any) -> None:
        await asyncio.sleep(0.01)
        if not worker.dead:
            self.stored |= {(block.partition, label.offset) for label in block.labels}

    async def _find(self, names: Sequence[str]) -> list[list[dict[str, Any]]]:
        if self.chaos and self._rng.random() < 0.2:
            raise NotAnsweringError("away")
        return [self.known.get(name, []) for name in names]

    # ---------------------------------------------------------------- what happens

    def _produce(self) -> bool:
        if not self.to_produce:
            return self._learn()
        self.to_produce.pop()
        rng = self._rng
        self.broker.now_ms += rng.randrange(2 * SECOND)
        name = f"tx-{rng.randrange(16)}"
        said = {"transaction_id": name, "is_fraud": rng.random() < 0.5, "labelled_at": T0}
        whole = rng.random() < 0.3
        if whole:
            said |= {"card_id": "c", "terminal_id": f"t{rng.randrange(5)}", "event_time": T0}
        partition = rng.randrange(self.plan.partitions)
        named = not whole and self._erasing.random() < 0.3
        if named:
            said |= {"card_id": CARD}
        broken = rng.random() < 0.1
        value = b"{" if broken else orjson.dumps(said)
        offset = self.broker.log(SOURCE, partition).append(self.broker.now_ms, b"k", value)
        self.names[partition, offset] = None if broken else name
        if whole and not broken:
            self.whole.add((partition, offset))
        if named and not broken:
            self._naming.add((partition, offset))
        if self._erasing.random() < max(0.1, self.plan.erasures):
            self._forget(partition)
        if rng.random() < 0.2:
            self._learn()
        return True

    def _forget(self, partition: int) -> None:
        """An erase record: labels before it that are parked go."""
        key, value, headers = erase_record(CARD, "e1")
        self.broker.log(SOURCE, partition).append(self.broker.now_ms, key, value, headers)
        self.erased |= {where for where in self._naming if where[0] == partition}
        self.seen["erased"] += 1

    def _learn(self) -> bool:
        if not self._to_learn:
            return self._retry()
        name = self._to_learn.pop()
        rng = self._rng
        rows = [
            {"card_id": "c", "terminal_id": rng.choice(("t1", "t2", None)), "event_time_ms": T0}
        ]
        if rng.random() < 0.1:
            rows.append({**rows[0], "card_id": "d"})
        self.known[name] = rows
        return True

    def _retry(self) -> bool:
        worker = self._some_worker()
        if worker is None or worker.stopped:
            return False
        self.passed_ms += self._rng.randrange(SECOND)
        self.loop.create_task(self._look(worker), context=worker.context)
        return True

    async def _look(self, worker: Worker) -> None:
        try:
            await worker.retries.look()  # type: ignore[attr-defined]
        except Exception as error:
            worker.halt("retries", error)

    def _io(self) -> bool:
        return self._retry() if self._rng.random() < 0.03 else super()._io()

    def done(self) -> bool:
        """All labels are committed, and no parked one's transaction is known or its time over."""
        if self.to_produce or self._to_learn or self.broker.late or self.joining:
            return False
        owned = {tp for w in self.workers.values() if not w.dead for tp in w.assignment}
        if len(owned) < self.plan.partitions:
            return False
        committed = self.broker.committed
        for partition, records in self.broker.topic(SOURCE).items():
            if records and committed.get(TP(SOURCE, partition), 0) != records[-1].offset + 1:
                return False
        now_ms = self.broker.now_ms + self.passed_ms
        return all(
            ((partition, offset) in self._naming or self.names[partition, offset] not in self.known)
            and now_ms - self._at(partition, offset).timestamp <= self.label_wait_ms
            for partition in range(self.plan.partitions)
            for offset in parked(self.owner_rows(partition))
        )

    def _at(self, partition: int, offset: int) -> Any:
        return self.broker.log(SOURCE, partition).records[offset]

    def owner_rows(self, partition: int) -> Rows:
        """The store of the worker that has a partition."""
        for worker in self.workers.values():
            if not worker.dead and (SOURCE, partition) in worker.assignment:
                rows: Rows = worker.memory.get((LABELS, partition), {})
                return rows
        return {}


async def _start(worker: Worker, table: Any, partition: int, _start: int) -> None:
    """As agents/labels.py."""
    await check_labels(worker.consumer, table, TP(SOURCE, partition))


def parked(rows: Rows) -> set[int]:
    """Offsets of the labels that are parked."""
    return {offset_of(key) for key in rows if key.startswith(PREFIX)}


def play(seed: int, **changes: Any) -> tuple[LabelWorld, list[str]]:
    """Play one schedule; returns what is wrong, first what ended it early."""
    world = LabelWorld(seed, **changes)
    world.run()
    return world, world.failures or list(_problems(world))


def _problems(world: LabelWorld) -> Any:
    applied = _applied(world)
    letters: dict[Offset, set[str]] = {}
    for records in world.broker.topic(LETTERS).values():
        for record in records:
            said = {name: raw.decode() for name, raw in record.headers}
            letters.setdefault((int(said["partition"]), int(said["offset"])), set()).add(
                said["reason"]
            )
    waiting: set[Offset] = set()
    for partition in range(world.plan.partitions):
        rows = parked(world.owner_rows(partition))
        left: Rows = {}
        for record in world.broker.log(topics.labels_changelog.name, partition).records:
            if record.value is None:
                left.pop(record.key or b"", None)
            else:
                left[record.key or b""] = record.value
        if parked(left) != rows:
            yield f"labels/{partition}: the changelog has {parked(left)}, the store {rows}"
        # a late write of a worker that was killed or frozen brings a row back that had to give way
        late = world.seen["zombie"] or world.seen["halt ForeignWriterError"]
        if len(rows) > world.max_parked and not late:
            yield f"labels/{partition}: {len(rows)} are parked"
        waiting |= {(partition, offset) for offset in rows}
    for where, name in world.names.items():
        why = letters.pop(where, set())
        places = [
            place
            for place, there in (
                ("applied", applied),
                ("dead", why and {where}),
                ("parked", waiting),
            )
            if where in there
        ]
        # A zombie may bring a row back that was removed: its label is looked up again, and applied or dead twice. And
        # a replay may find at once what had to be parked before, so that nothing need give way to it.
        twice = world.seen["zombie"] or "too_many_waiting" in why
        if where in world.erased:
            if "parked" in places:
                yield f"label {where} is parked still, its card was erased"
            continue
        if not places or (len(places) > 1 and not twice):
            yield f"label {where} of {name} is in {places} {why}"
        if where in applied and not why and where not in world.stored:
            yield f"label {where} of {name} is not stored"
        if where in world.whole and "applied" not in places:
            yield f"label {where} of {name} is whole, and in {places}"
        if name is None and why != {"invalid_json"}:
            yield f"label {where} is none, and in {places}"
        if why == {"unknown_transaction"} and world.label_wait_ms > 10**8:
            yield f"label {where} of {name} was given up too early"
    for where, why in letters.items():
        yield f"a dead letter of what is no label: {where} {why}"


def _applied(world: LabelWorld) -> set[Offset]:
    """The labels that the second stage applies: it drops what it has seen, by position."""
    applied: set[Offset] = set()
    for records in world.broker.topic(ENRICHED).values():
        seen: dict[int, int] = {}
        for record in records:
            batch = decode_message(record.value or b"")
            assert isinstance(batch, LabelBatch)
            for item in batch.items:
                if not batch.looked_up:
                    if item.offset <= seen.get(batch.partition, -1):
                        continue
                    seen[batch.partition] = item.offset
                applied.add((batch.partition, item.offset))
    return applied


def copies(world: LabelWorld) -> int:
    """Copies of parked labels that were sent."""
    return sum(
        copied_offset(SOURCE, partition, record) is not None
        for partition, records in world.broker.topic(SOURCE).items()
        for record in records
    )
