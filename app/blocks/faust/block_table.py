"""A Faust table whose rows are written block by block: changelog, store, recovery, healing."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import msgspec
import rocksdict
from faust.tables.table import Table
from faust.types import TP
from mode import Service

from app.blocks.core.row_groups import Row, chunk_groups
from app.blocks.core.row_precedence import DELETED_KEY, Deletions, follows
from app.blocks.faust.block_topic import BlockTopic
from app.blocks.faust.changelog_append import append_rows, hand_over_rows
from app.blocks.faust.fatal_errors import halt
from app.blocks.faust.rocksdb_options import StoreOptions
from app.blocks.faust.unlogged_rows import UnloggedRows
from app.errors import ForeignWriterError

logger = logging.getLogger(__name__)

#: How often a warm copy writes what it has read. Faust does every sixteen blocks, however long those take to come:
#: the copy of a quiet partition would lack them for hours, and nobody could tell it from one that does not follow.
_COPY_SECONDS = 1.0
#: Which rows await healing: in the store only (see `BlockTable._stale_keys`).
_STALE_KEY = b"\0stale"
#: Rows that are read in one go: 4 us each, if they have 1,500 bytes.
_PAGE_ROWS = 250
_READ_ONLY = "only its pipeline may write rows of a block table"


class StoreReader:
    """Reads the stored rows of one partition (see `app.blocks.core.partition.RowReader`)."""

    def __init__(self, table: "BlockTable", partition: int) -> None:
        self.memo: dict[str, Any] = {}
        self._table = table
        self._partition = partition

    def get(self, key: bytes) -> bytes | None:
        """The stored bytes of a row, None when there is none."""
        return self._table.load(self._partition, key)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The stored rows whose keys start with a prefix."""
        return self._table.scan(self._partition, prefix)


class BlockTable(Table):
    """Rows are bytes that start with `last_offset`; keys are bytes.

    Args:
        batch_bytes: largest changelog batch.
        store: how its RocksDB stores are set up.

    Attributes:
        ready_generation: the consumer generation for which recovery is complete, None before.
        changelog_next: by partition, the offset at which our next changelog record must land.
        on_stored: told of rows that this worker has written to the changelog and stored.
        on_ready: told which partitions this worker has, once they are recovered; none of them when a rebalance begins.
    """

    on_stored: Callable[[int, list[Row]], None] | None = None
    on_ready: Callable[[list[int]], None] | None = None
    #: The producer that has appended to the changelog, and so knows its partitions.
    _known_to: Any = None

    def __init__(
        self, app: Any, *, changelog: str, batch_bytes: int, store: StoreOptions, **kwargs: Any
    ) -> None:
        self._changelog_name = changelog
        self._batch_bytes = batch_bytes
        self._store_options = store
        self._unlogged = UnloggedRows(self._database)
        self.ready_generation: int | None = None
        self.changelog_next: dict[int, int] = {}
        self._pending_generation: int | None = None
        self._stale: dict[int, set[bytes]] = {}
        self._deleted: dict[int, Deletions] = {}
        # counts blocks; with 1 Faust goes on reading active changelogs for ever
        kwargs.setdefault("recovery_buffer_size", 16)
        super().__init__(app, key_type=bytes, value_type=bytes, **kwargs)

    def _new_store(self) -> Any:
        store = super()._new_store()
        store.rocksdb_options = self._store_options
        return store

    def _changelog_topic_name(self) -> str:
        return self._changelog_name

    def _new_changelog_topic(self, **_: Any) -> BlockTopic:
        return BlockTopic(
            self.app,
            topics=[self._changelog_name],
            partitions=self.partitions,
            compacting=True,
            acks=False,
            maxsize=1024,
            allow_empty=True,
        )

    # ------------------------------------------------------------------ rows

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(_READ_ONLY)

    def __delitem__(self, key: Any) -> None:
        raise TypeError(_READ_ONLY)

    def _set_key(self, key: Any, value: Any) -> None:
        raise TypeError(_READ_ONLY)

    def _del_key(self, key: Any) -> None:
        raise TypeError(_READ_ONLY)

    def _database(self, partition: int) -> Any:
        # never keep it: a revoked store is closed by dropping its last reference
        return self.data._db_for_partition(partition)

    def load(self, partition: int, key: bytes) -> bytes | None:
        """The stored bytes of a row, None when there is none."""
        raw: bytes | None = self._database(partition).get(key)
        return raw

    def scan(self, partition: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The stored rows whose keys start with a prefix.

        Read in one go: an open iterator would keep a revoked store.
        """
        return list(self._rows_from(partition, prefix, prefix))

    def page(self, partition: int, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
        """Some of them, from a key on: as many as can be read without anybody noticing."""
        return list(islice(self._rows_from(partition, prefix, start), _PAGE_ROWS))

    def _rows_from(
        self, partition: int, prefix: bytes, start: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        rows = self._database(partition).items(from_key=start)
        return takewhile(lambda row: row[0].startswith(prefix), rows)

    def store(self, partition: int, rows: list[Row], changelog_offset: int) -> None:
        """Write rows and the changelog offset they end at, all or nothing."""
        self._unlogged.flush(partition)
        self._database(partition).write(self._batch(rows, changelog_offset))
        if self.on_stored is not None:
            self.on_stored(partition, rows)

    def _batch(self, rows: Iterable[Row], changelog_offset: int) -> Any:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, raw in rows:
            if raw is None:
                batch.delete(key)
            else:
                batch.put(key, raw)
        batch.put(self.data.offset_key, str(changelog_offset).encode())
        return batch

    def reader(self, partition: int) -> "StoreReader":
        """The stored rows of one partition."""
        return StoreReader(self, partition)

    async def write(self, partition: int, rows: list[Row]) -> None:
        """Append rows to the changelog, then store them: before the partition's first block only.

        Raises:
            ForeignWriterError: another worker wrote this partition's changelog.
        """
        generation = self._pending_generation
        base = await self.append(partition, rows)
        expected = self.changelog_next.get(partition)
        # Given up while the rows were on their way: whoever has the partition now recovers them. If that is this
        # worker again, they may be where it expects its own, and older than what it has recovered.
        if expected is None or generation != self._pending_generation:
            return
        if base != expected:
            msg = (
                f"changelog of {self.name}/{partition} continued at {base}: another worker wrote it"
            )
            raise ForeignWriterError(msg)
        self.changelog_next[partition] = base + len(rows)
        self.store(partition, rows, base + len(rows) - 1)

    def append(self, partition: int, rows: list[Row]) -> "asyncio.Future[int]":
        """Append rows to the changelog in one batch; resolves to the offset of the first once durable."""
        producer = self.app.producer._producer
        if self._known_to is producer:
            return hand_over_rows(producer, self._changelog_name, partition, rows)
        return asyncio.ensure_future(self._append_first(producer, partition, rows))

    async def _append_first(self, producer: Any, partition: int, rows: list[Row]) -> int:
        offset = await append_rows(producer, self._changelog_name, partition, rows)
        self._known_to = producer
        return offset

    # ------------------------------------------------------------------ warm copies

    @Service.task
    async def _write_copies_now_and_then(self) -> None:
        while not self.should_stop:
            await self.sleep(_COPY_SECONDS)
            self.write_copies()

    def write_copies(self) -> None:
        """Write what the copies of others' partitions have read; not while recovery does that."""
        buffer = self.app.tables.recovery.buffers.get(self)
        if self.ready_generation is None or not buffer:
            return
        try:
            self.apply_changelog_batch(buffer)
        except Exception as error:
            halt(f"the standby replicas of {self.name}", error)
        buffer.clear()

    def copied(self, partition: int) -> int:
        """Offset after the last changelog record in the store; asks for the store, so only of partitions held here."""
        persisted = self.data.persisted_offset(TP(self._changelog_name, partition))
        return 0 if persisted is None else int(persisted) + 1

    # ------------------------------------------------------------------ recovery

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Bring blocks of changelog records into the store: the highest row offset wins.

        Without RocksDB's log: what a crash takes is read from the changelog again.
        """
        pending: dict[int, tuple[dict[bytes, bytes | None], int]] = {}
        for event in batch:
            partition = event.message.partition
            rows, last = pending.get(partition, ({}, -1))
            stored = self._database(partition).get
            stale = self._stale_keys(partition)
            deletions = self._deletions(partition)
            for record in event.value:
                key, raw = record.key, record.value
                current = rows[key] if key in rows else stored(key)
                if follows(key, raw, current, deletions):
                    rows[key] = raw
                    if key == DELETED_KEY:
                        deletions = self._deleted[partition] = Deletions.read(raw)
                    if stale:
                        stale.discard(key)
                else:
                    stale.add(key)
            pending[partition] = (rows, max(last, event.message.offset))
        for partition, (rows, last) in pending.items():
            persisted = self.data.persisted_offset(TP(self._changelog_name, partition))
            end = max(last, -1 if persisted is None else persisted)
            batch_of_rows = self._batch([*rows.items(), self._stale_row(partition)], end)
            self._unlogged.write(partition, batch_of_rows)

    def _stale_keys(self, partition: int) -> set[bytes]:
        """Keys whose newest row an older one follows in the changelog, until they are healed.

        They are stored, in a row that never goes to the changelog: a worker that is killed between
        recovery and healing, or follows as a standby, would not read those records again.
        """
        stale = self._stale.get(partition)
        if stale is None:
            raw = self.load(partition, _STALE_KEY)
            keys = msgspec.msgpack.decode(raw[8:], type=set[bytes]) if raw else set()
            stale = self._stale[partition] = keys
        return stale

    def _deletions(self, partition: int) -> Deletions:
        """What was deleted for good, as far as the changelog was read."""
        found = self._deleted.get(partition)
        if found is None:
            found = self._deleted[partition] = Deletions.read(self.load(partition, DELETED_KEY))
        return found

    def _stale_row(self, partition: int) -> Row:
        keys = self._stale[partition]
        # eight bytes in front, as every row has
        return _STALE_KEY, bytes(8) + msgspec.msgpack.encode(sorted(keys)) if keys else None

    async def on_rebalance(
        self, assigned: Any, revoked: Any, newly_assigned: Any, generation_id: int = 0
    ) -> None:
        """Not ready from here on, until this generation's recovery is complete."""
        self.ready_generation = None
        self._pending_generation = generation_id
        self._stale.clear()
        self._deleted.clear()
        self.changelog_next.clear()
        if self.on_ready is not None:
            self.on_ready([])
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Remember where the changelog ends, heal what a zombie left, and be ready."""
        try:
            generation = self._pending_generation
            await super().on_recovery_completed(active_tps, standby_tps)
            first = await self.app.consumer.earliest_offsets(*active_tps) if active_tps else {}
            for tp in active_tps:
                persisted = self.data.persisted_offset(tp)
                # nothing persisted: nothing was read, so nothing may stand before our first record
                self.changelog_next[tp.partition] = (
                    first[tp] if persisted is None else persisted + 1
                )
                # now: with the first block it would make that one late
                self._unlogged.flush(tp.partition)
                await self._heal(tp.partition)
            if generation == self._pending_generation:
                self.ready_generation = generation
                if self.on_ready is not None:
                    self.on_ready([tp.partition for tp in active_tps])
        except Exception as error:  # Faust would swallow it (asyncio.wait) and go on unready
            halt(f"recovery of {self.name}", error)

    async def _heal(self, partition: int) -> None:
        """Append again the rows that an older one follows in the changelog: compaction would keep that one."""
        keys = sorted(self._stale_keys(partition))
        if not keys:
            return
        logger.warning(
            "%s/%s: correcting %s rows that a frozen worker had overwritten",
            self.name,
            partition,
            len(keys),
        )
        groups = [[(key, self.load(partition, key))] for key in keys]
        for chunk in chunk_groups(groups, self._batch_bytes):
            await self.write(partition, chunk)
        self._stale[partition].clear()
        if partition in self.changelog_next:
            persisted = self.changelog_next[partition] - 1
            self.store(partition, [self._stale_row(partition)], persisted)

    def discard_stale(self, ends: Mapping[int, int], *, foreign: bool) -> list[int]:
        """Delete stores that are no state of their changelog: they are rebuilt.

        One is ahead of it when it was deleted and made anew, or when a broker lost its last records. One of
        another changelog may be ahead of this one or behind it.
        Only before the worker joins the group: stores are opened and closed here, which another worker that has
        them forbids.

        Args:
            ends: by partition, the offset after the changelog's last record.
            foreign: they are of another changelog.

        Returns:
            The partitions whose stores were deleted.
        """
        deleted = []
        for partition, end in ends.items():
            path = Path(self.data.partition_path(partition))
            if not path.is_dir():
                continue
            persisted = self.data.persisted_offset(TP(self._changelog_name, partition))
            self.data._dbs.clear()  # the last reference closes a store
            if persisted is not None and (foreign or persisted >= end):
                shutil.rmtree(path)
                deleted.append(partition)
        return deleted
