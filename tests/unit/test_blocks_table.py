"""Recovery and healing of a table on a store of plain dicts: only Faust's constructor is left out."""

import asyncio
import struct
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from faust.types import TP

from app.blocks.faust import block_table as table_module
from app.errors import ForeignWriterError
from app.ops.state_comparison import parked_keys
from app.ops.temporary_stores import open_store
from app.settings import load_settings
from app.stages.label_stage import LabelsHandler
from app.stages.parked_labels import parked_row, row_key
from app.stages.partition_start import check_labels
from app.topics import Topics
from app.wire.erase_records import erase_record
from tests.builders import T0
from tests.fakes import Rows
from tests.stream.sim_worker import OFFSET_KEY, FakeBatch, TableData, sim_table

LOG = TP("c", 0)


def raw(offset: int, body: bytes = b"") -> bytes:
    return offset.to_bytes(8, "big", signed=True) + body


class Process:
    """One life of a worker with one table; its disk is given."""

    def __init__(self, disk: dict[Any, Any], log: list[tuple[bytes, bytes | None]]) -> None:
        self.disk, self.log = disk, log
        self.memory: dict[Any, Any] = {}
        self.dead = False
        self.buffers: dict[Any, list[Any]] = {}
        recovery = SimpleNamespace(buffers=self.buffers)
        self.app = SimpleNamespace(
            consumer=self, consumer_generation_id=1, tables=SimpleNamespace(recovery=recovery)
        )
        self.world = SimpleNamespace(maybe_crash=lambda worker: None, flushes=lambda: False)
        self.table = sim_table(self, "rows", "c", 500)  # type: ignore[arg-type]
        self.table.append = self.append

    def check_store(self, *_: Any) -> None:
        pass

    async def append(self, partition: int, rows: list[tuple[bytes, bytes | None]]) -> int:
        self.log.extend(rows)
        return len(self.log) - len(rows)

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, 0)

    @property
    def store(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = self.memory[("rows", 0)]
        return found

    def read(self, offsets: Iterable[int]) -> None:
        """Recovery reads these changelog records, as one block."""
        self.table.apply_changelog_batch([self.event(offsets)])

    def event(self, offsets: Iterable[int]) -> Any:
        """These changelog records, as one block."""
        chunk = [SimpleNamespace(key=self.log[o][0], value=self.log[o][1]) for o in offsets]
        message = SimpleNamespace(partition=0, offset=list(offsets)[-1])
        return SimpleNamespace(value=chunk, message=message)

    async def recover(self) -> None:
        await self.table.on_rebalance({LOG}, set(), {LOG}, 1)
        at = self.table.data.persisted_offset(LOG) or 0
        if self.log[at:]:
            self.read(range(at, len(self.log)))
        await self.complete()

    async def complete(self) -> None:
        await self.table.on_recovery_completed({LOG}, set())


@pytest.fixture(autouse=True)
def _batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module.rocksdict, "WriteBatch", FakeBatch)


async def test_rows_and_offset_are_recovered() -> None:
    process = Process({}, [(b"a", raw(1)), (b"b", raw(2)), (b"a", raw(3)), (b"b", None)])
    await process.recover()
    assert process.store == {b"a": raw(3), OFFSET_KEY: b"3"}
    assert process.table.ready_generation == 1
    assert process.table.changelog_next == {0: 4}


async def test_a_crash_in_recovery_takes_rows_and_offset_alike() -> None:
    disk: dict[Any, Any] = {}
    Process(disk, [(b"a", raw(1))]).read([0])
    assert disk == {("rows", 0): {}}


async def test_what_recovery_wrote_is_on_disk_before_anything_is_logged_behind_it() -> None:
    disk: dict[Any, Any] = {}
    process = Process(disk, [(b"a", raw(1)), (b"b", raw(2))])
    process.read([0, 1])  # as a standby
    process.table.store(0, [(b"c", raw(3))], 2)
    assert disk[("rows", 0)] == {b"a": raw(1), b"b": raw(2), b"c": raw(3), OFFSET_KEY: b"2"}


async def test_reading_a_record_again_changes_nothing() -> None:
    process = Process({}, [(b"a", raw(1)), (b"a", raw(2))])
    await process.recover()
    process.read([1])
    process.read([0])
    assert process.store[b"a"] == raw(2)
    assert process.store[OFFSET_KEY] == b"1"


async def test_a_zombies_row_loses_and_is_healed() -> None:
    log: list[Any] = [(b"a", raw(5)), (b"b", raw(5)), (b"a", raw(2, b"old"))]
    process = Process({}, log)
    await process.recover()
    assert process.store[b"a"] == raw(5)
    assert log[3:] == [(b"a", raw(5))], "compaction would have kept the old one"
    assert process.store[OFFSET_KEY] == b"3"
    assert table_module._STALE_KEY not in process.store
    await Process({}, log).recover()
    assert len(log) == 4


async def test_a_row_that_is_written_again_needs_no_healing() -> None:
    log: list[Any] = [(b"a", raw(5)), (b"a", raw(2)), (b"a", raw(7))]
    await Process({}, log).recover()
    assert len(log) == 3


async def test_a_kill_between_recovery_and_healing_is_made_up_for() -> None:
    disk: dict[Any, Any] = {}
    log: list[Any] = [(b"a", raw(5)), (b"a", raw(2, b"old"))]
    killed = Process(disk, log)
    await killed.table.on_rebalance({LOG}, set(), {LOG}, 1)
    killed.read([0, 1])
    killed.table.data._db_for_partition(0).flush()
    process = Process(disk, log)  # the offset is persisted: nothing is read again
    await process.table.on_rebalance({LOG}, set(), {LOG}, 1)
    await process.complete()
    assert log[2:] == [(b"a", raw(5))]


async def test_what_a_standby_has_read_is_healed_when_it_takes_over() -> None:
    log: list[Any] = [(b"a", raw(5)), (b"a", raw(2, b"old"))]
    process = Process({}, log)
    process.read([0])
    process.read([1])
    await process.recover()
    assert log[2:] == [(b"a", raw(5))]


async def test_a_warm_copy_is_written_before_there_are_many_blocks() -> None:
    process = Process({}, [(b"a", raw(1)), (b"b", raw(2)), (b"a", raw(3))])
    process.table.ready_generation = 1
    assert process.table.copied(0) == 0
    buffer = process.buffers[process.table] = [process.event([0, 1]), process.event([2])]
    process.table.write_copies()
    assert (process.store[b"a"], process.table.copied(0)) == (raw(3), 3)
    assert buffer == []
    process.table.write_copies()  # nothing came
    assert process.table.copied(0) == 3


async def test_while_tables_recover_copies_are_left_to_recovery() -> None:
    process = Process({}, [(b"a", raw(1))])
    buffer = process.buffers[process.table] = [process.event([0])]
    process.table.write_copies()
    assert (len(buffer), process.table.copied(0)) == (1, 0)


async def test_a_copy_that_cannot_be_written_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    halted: list[tuple[str, BaseException]] = []
    monkeypatch.setattr(table_module, "halt", lambda *given: halted.append(given))
    process = Process({}, [(b"a", raw(1)), (b"a", b"no row")])
    process.read([0])
    process.table.ready_generation = 1
    process.buffers[process.table] = [process.event([1])]
    process.table.write_copies()
    ((where, error),) = halted
    assert (where, type(error)) == ("the standby replicas of rows", struct.error)


async def test_an_empty_store_expects_its_record_where_the_changelog_begins() -> None:
    log: list[Any] = []
    process = Process({}, log)
    await process.recover()
    log.append((b"a", raw(1)))  # a zombie's, behind the end that recovery saw
    with pytest.raises(ForeignWriterError):
        await process.table.write(0, [(b"b", raw(1))])


async def test_rows_on_their_way_when_the_partition_is_given_up_are_not_stored() -> None:
    process = Process({}, [])
    await process.recover()
    process.table.changelog_next.clear()
    await process.table.write(0, [(b"b", raw(1))])
    assert process.log == [(b"b", raw(1))]
    assert ("rows", 0) not in process.memory or b"b" not in process.store


async def test_an_overtaken_recovery_is_not_ready() -> None:
    process = Process({}, [])
    await process.table.on_rebalance({LOG}, set(), {LOG}, 1)
    data: TableData = process.table.data

    async def next_rebalance(*_: Any) -> None:
        process.table._pending_generation = 2

    data.on_recovery_completed = next_rebalance  # type: ignore[method-assign]
    await process.complete()
    assert process.table.ready_generation is None


async def test_rows_of_a_start_that_a_rebalance_has_overtaken_are_not_stored() -> None:
    log: list[tuple[bytes, bytes | None]] = [(b"k", raw(1))]
    process = Process({}, log)
    await process.recover()
    gate, land = asyncio.Event(), process.table.append

    async def late(partition: int, rows: list[tuple[bytes, bytes | None]]) -> int:
        await gate.wait()
        return await land(partition, rows)

    process.table.append = late
    writing = asyncio.create_task(process.table.write(0, [(b"k", raw(2, b"ours"))]))
    await asyncio.sleep(0)
    log.append((b"k", raw(3, b"another worker's")))
    await process.table.on_rebalance({LOG}, set(), {LOG}, 2)
    process.read([1])
    await process.complete()
    gate.set()  # it lands where this worker expects its next record
    await writing
    assert process.store[b"k"] == raw(3, b"another worker's")


def test_nobody_writes_around_the_pipeline() -> None:
    table = Process({}, []).table
    with pytest.raises(TypeError, match="only its pipeline"):
        table[b"a"] = b"x"
    with pytest.raises(TypeError, match="only its pipeline"):
        del table[b"a"]


async def test_a_parked_label_of_an_erased_card_does_not_come_back() -> None:
    """A frozen worker writes it once more, or for the first time where the next one had found its transaction."""

    def label(card: str, offset: int) -> Any:
        said = {"transaction_id": "tx", "is_fraud": True, "labelled_at": T0, "card_id": card}
        return SimpleNamespace(
            offset=offset, timestamp=T0, key=b"tx", value=orjson.dumps(said), headers=[]
        )

    class Consumer:
        async def highwaters(self, *tps: TP) -> dict[TP, int]:
            return dict.fromkeys(tps, 100)

    key, value, headers = erase_record("c1", "e1")
    erased = SimpleNamespace(offset=7, timestamp=T0, key=key, value=value, headers=headers)
    handler = LabelsHandler(
        Topics(load_settings({})), partition_of=lambda _: 0, max_future_skew_ms=10**9
    )
    state = Rows()
    log: list[Any] = []
    for records in ([label("c1", 5), label("c2", 6)], [erased], [label("c1", 8)]):
        for group in handler.compute(0, records, state).groups:
            state.write(group)
            log += group
    kept = {row_key(6), row_key(8)}  # another card's, and one that came since
    assert parked_keys(state.rows) == kept
    log += [parked_row(label("c1", 4)), parked_row(label("c1", 5))]  # the frozen worker's
    process = Process({}, log)
    await process.recover()
    assert parked_keys(process.store) == kept | {row_key(4), row_key(5)}
    await check_labels(Consumer(), process.table, TP("labels", 0))
    assert parked_keys(process.store) == kept
    assert log[-2:] == [(row_key(4), None), (row_key(5), None)]
    again = Process({}, log)
    await again.recover()
    assert parked_keys(again.store) == kept


def test_rows_of_a_prefix_are_read_in_parts(tmp_path: Path) -> None:
    """From RocksDB itself: a part begins at a key, and the rows behind the prefix are not read."""
    rows = {b"h%04d" % number: raw(number) for number in range(601)}
    others = {b"\0position": raw(0), b"g9999": raw(1), b"i": raw(2)}
    process = Process({}, [])
    with open_store(tmp_path / "db") as database:
        for key, value in {**rows, **others}.items():
            database.put(key, value)
        process.table._database = lambda _partition: database
        assert process.table.scan(0, b"h") == list(rows.items())
        found, start = [], b"h"
        while page := process.table.page(0, b"h", start):
            found.append(page)
            start = page[-1][0] + b"\0"
        assert [len(page) for page in found] == [250, 250, 101]
        assert sum(found, []) == list(rows.items())
