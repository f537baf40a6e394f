"""`fraudstream rebuild`: tables made anew from nothing, and compared with those of the workers.

```text
a worker's store, up to changelog offset E ─┐
changelog, up to E ─► rows ─────────────────┴─ compared key by key
source topic, up to the store's position ─► the stage's handler ─► rows ─ likewise (--from-source)
```

Parked labels are compared with their changelog only: which labels were parked depended on what Cassandra knew when
they arrived, and `labels` does not say that.

Workers may run: a store is read as of one moment, and everything else up to what it says of itself. Of several
stores of a partition those that have come furthest are compared, each: a worker that lost it may have left one.
"""

import math
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.blocks.core.row_precedence import row_offset
from app.errors import NotFoundError
from app.ops.changelog_rows import ChangelogRows
from app.ops.replaying.passes import BLOCK, ReplayStages
from app.ops.state_comparison import (
    OFFSET_KEY,
    PARKED,
    TABLES,
    Difference,
    Rows,
    differences,
    heads,
    keys,
    parked_differences,
    parked_keys,
    read_store,
    stores,
)
from app.ops.temporary_stores import scratch_rows
from app.ops.verification.topic_log import Log, Progress, open_log
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.reserved_rows import (
    IN_FORCE_KEY,
    PINS_KEY,
    POSITION_KEY,
    ModelOffsets,
    StatePosition,
)
from app.stages.scoring_models import UnloadableModel
from app.stages.state_settings import state_settings, terminal_settings
from app.topics import TopicSpec
from app.windows.row_format import head_key
from app.windows.window_row import RowRules
from app.wire.control_records import Message, decode_message
from app.wire.enriched_records import EnrichedBatch


@dataclass(frozen=True)
class Store:
    """A worker's store of one partition of a table.

    Attributes:
        path: where it is.
        rows: what is in it, as of one moment.
    """

    path: Path
    rows: Rows

    @property
    def offset(self) -> int:
        """The changelog offset that it has come to, -1 for a new one."""
        return int(self.rows.get(OFFSET_KEY, b"-1"))


def furthest_stores(folders: Iterable[Path], table: str, partition: int) -> list[Store]:
    """The stores of a partition that have come furthest in its changelog; empty where there is none.

    Which of several that are equally far belongs to the partition's worker cannot be told from disk.

    Args:
        folders: state folders of workers, or folders of such.
        table: whose stores.
        partition: whose stores.

    Raises:
        UnavailableError: a store cannot be read.
    """
    furthest: list[Store] = []
    # a folder may be named beside one that it is in
    for path in sorted(
        {path for folder in folders for path in stores(folder.resolve(), table, partition)}
    ):
        store = Store(path, read_store(path))
        if furthest and store.offset > furthest[0].offset:
            furthest.clear()
        if not furthest or store.offset == furthest[0].offset:
            furthest.append(store)
    return furthest


@dataclass
class Rebuilt:
    """What was compared.

    Attributes:
        rows: keys that were compared, in each store.
        records: changelog records, or source records, that the tables were made of.
        seconds: that reading the records and making the tables took.
        differing: what differs.
        offsets: by table and partition, the changelog offset of the store, or the source offset up to which it
            was made anew.
        in_flight: keys that were changed beyond the store's position just then, and were left out.
        left_out: by table and partition, why it could not be compared.
    """

    rows: int = 0
    records: int = 0
    seconds: float = 0.0
    differing: list[Difference] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds if self.seconds else 0.0


async def rebuild(
    settings: Settings, folders: Sequence[Path], *, from_source: bool, progress: Progress
) -> Rebuilt:
    """Make every partition's tables anew and compare them with the stores that are here.

    Args:
        settings: the deployment's.
        folders: state folders of workers, or folders of such.
        from_source: make them from the source topics instead of the changelogs.
        progress: told what is done, how far it has come, and where it ends.

    Raises:
        NotFoundError: there is no store in any folder.
        UnavailableError: a store cannot be read, or Kafka does not answer.
        SchemaError: topics are missing.
        RowFormatError: a row is damaged.
    """
    every = range(settings.partitions)
    tables = (*TABLES, PARKED)
    if not any(stores(folder, table, n) for folder in folders for table in tables for n in every):
        where = ", ".join(map(str, folders))
        msg = f"there is no worker state in {where}: give its folder with --datadir"
        raise NotFoundError(msg)
    done = Rebuilt()
    async with open_log(settings) as log:
        for table in tables:
            for partition in every:
                kind = _ParkedLabelsRebuild if table == PARKED else _PartitionRebuild
                one = kind(settings, log, table, partition, done, progress)
                await one.compare(folders, from_source=from_source)
    return done


def _without_schema(value: bytes) -> Message:
    """A message on `enriched` for its rows alone: which features its transactions have is no matter."""
    batch = decode_message(value)
    if isinstance(batch, EnrichedBatch):
        batch.schema = ""
    return batch


class _PartitionRebuild:
    """One partition of one table."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        table: str,
        partition: int,
        done: Rebuilt,
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._log = log
        self._table = table
        self._partition = partition
        self._done = done
        self._progress = progress
        self._where = f"{table}/{partition}"
        cards = table == "cards"
        self._rules: RowRules = row_rules(settings) if cards else terminal_rules(settings)
        self._state_settings = state_settings(settings) if cards else terminal_settings(settings)
        topics = log.topics
        self._changelog = {
            "cards": topics.cards_changelog,
            "terminals": topics.terminals_changelog,
            PARKED: topics.labels_changelog,
        }[table]
        self._source = topics.transactions if cards else topics.enriched

    async def compare(self, folders: Sequence[Path], *, from_source: bool) -> None:
        furthest = furthest_stores(folders, self._table, self._partition)
        if not furthest:
            self._done.left_out[self._where] = "there is no store of it here"
        elif from_source:
            await self._from_source(furthest)
        else:
            await self._from_changelog(furthest)

    async def _from_changelog(self, furthest: Sequence[Store]) -> None:
        topic, number, end = self._changelog, self._partition, furthest[0].offset + 1
        if await self._is_stale(end):
            self._done.left_out[self._where] = (
                f"its store here ends at changelog offset {end - 1}, more than FRAUDSTREAM_COMPACTION_LAG ago: "
                "another worker owns the partition"
            )
            return
        state = ChangelogRows()
        (begin,) = (await self._log.begins(topic))[number : number + 1]
        async for records in self._read(topic, begin, end):
            state.take(records)
        self._done.offsets[self._where] = end - 1
        self._compare(furthest, state.rows, math.inf, (POSITION_KEY, PINS_KEY, IN_FORCE_KEY))

    async def _from_source(self, furthest: Sequence[Store]) -> None:
        topic, number = self._source, self._partition
        last = StatePosition.read(_Reader(furthest[0].rows), self._state_settings).last_offset
        (begin,) = (await self._log.begins(topic))[number : number + 1]
        if self._settings.generation > 1:
            self._done.left_out[self._where] = (
                "the number of partitions has changed, so the topics alone do not give its state: rebuild from the "
                "changelog"
            )
            return
        if begin:
            self._done.left_out[self._where] = (
                f"retention has deleted {begin:,} records of {topic.name}/{number}: rebuild from the changelog"
            )
            return
        folder = self._settings.home / "rebuild"
        stages = ReplayStages.of(self._settings)
        with scratch_rows(folder) as state:
            handler: Any = stages.cards()
            if self._table != "cards":
                handler = stages.scoring(
                    _no_model, clock_ms=lambda: 0, asked=lambda *_: False, read=_without_schema
                )
                state.put([[ModelOffsets([(0, "")]).encode()]])
            async for records in self._read(topic, 0, last + 1):
                for start in range(0, len(records), BLOCK):
                    computed = handler.compute(number, records[start : start + BLOCK], state)
                    state.put(computed.groups)
            rows = dict(state.items())
        self._done.offsets[self._where] = last
        # pins tell which model scored what: the source topic does not know
        self._compare(furthest, rows, last, (POSITION_KEY,))

    def _compare(
        self, furthest: Sequence[Store], rows: Rows, last: float, reserved: tuple[bytes, ...]
    ) -> None:
        """Each store with the rows that were made; keys that were changed beyond `last` are left out."""
        for store in furthest:
            where = self._where if len(furthest) == 1 else f"{self._where} in {store.path}"
            self._compare_one(where, store.rows, rows, last, reserved)

    def _compare_one(
        self, where: str, live: Rows, rows: Rows, last: float, reserved: tuple[bytes, ...]
    ) -> None:
        done = self._done
        ahead = {key for key in keys(live) if row_offset(live[head_key(key)]) > last}
        done.in_flight += len(ahead)
        done.rows += heads(live) - len(ahead)
        done.differing += differences(
            where, live, rows, self._rules, reserved=reserved, among=lambda key: key not in ahead
        )

    async def _is_stale(self, end: int) -> bool:
        """Whether the changelog went on long enough after this offset for compaction to have removed rows."""
        ends = await self._log.ends(self._changelog)
        if end >= ends[self._partition]:
            return False
        async for records in self._log.read(
            self._changelog, self._partition, end, ends[self._partition]
        ):
            age_ms = time.time() * 1000 - records[0].timestamp
            return bool(age_ms > self._settings.compaction_lag)
        return False

    async def _read(self, topic: TopicSpec, begin: int, end: int) -> AsyncIterator[list[Any]]:
        done, began = self._done, time.perf_counter()
        async for records in self._log.read(topic, self._partition, begin, end):
            yield records
            done.records += len(records)
            self._progress(f"rebuilding {self._where}", records[-1].offset + 1 - begin, end - begin)
        done.seconds += time.perf_counter() - began


def _no_model(model_hash: str) -> UnloadableModel:
    return UnloadableModel(model_hash, "nothing is scored here")


class _ParkedLabelsRebuild(_PartitionRebuild):
    """One partition of the table of parked labels."""

    async def _from_source(self, furthest: Sequence[Store]) -> None:
        self._done.left_out[self._where] = "parked labels are compared with their changelog only"

    def _compare_one(
        self, where: str, live: Rows, rows: Rows, last: float, reserved: tuple[bytes, ...]
    ) -> None:
        self._done.rows += len(parked_keys(live))
        self._done.differing += parked_differences(where, live, rows)


class _Reader:
    """Rows as a handler reads them."""

    def __init__(self, rows: Rows) -> None:
        self.memo: dict[str, Any] = {}
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)
