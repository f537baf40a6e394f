"""What a worker can tell about itself at one moment, read from its pipelines when somebody asks."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.metrics.counters import DecisionCounts, LabelCounts, SinkStatus
from app.metrics.latency_histogram import LatencyHistogram


@dataclass(frozen=True)
class PartitionReading:
    """One source partition that this worker holds.

    Attributes:
        stage: which agent reads it.
        partition: its number.
        records_done: records finished since it was assigned.
        records_waiting: records that are here and not computed.
        blocks_in_flight: blocks that are computed and not durable.
        done: offset after the last record known to be done.
        end: offset after the newest record, None while Kafka does not say.
        event_time_ms: newest event time done, of a source that keeps in step; None before any.
        held_ms: event time that it is held back at, None while it is not.
        ahead_ms: how far that is ahead of the slowest partition, None while it is not held.
        needs: the schema that its next record waits for, None while it does not.
        lost: offsets that were deleted before they were read, since this worker started.
        open_since: first offset of the open Kafka transaction that it waits for, None without one.
        open_offsets: offsets from there to the log's end.
        open_seconds: for how long it has been seen open.
        waits_for: the slowest partition, which it is held back for; None while it is not held.
        stalled: whether it waits for a server, and holds back nobody meanwhile.
    """

    stage: str
    partition: int
    records_done: int
    records_waiting: int
    blocks_in_flight: int
    done: int | None
    end: int | None
    event_time_ms: int | None = None
    held_ms: int | None = None
    ahead_ms: int | None = None
    needs: str | None = None
    lost: int = 0
    open_since: int | None = None
    open_offsets: int = 0
    open_seconds: float = 0.0
    waits_for: str | None = None
    stalled: bool = False

    @property
    def lag(self) -> int | None:
        """Records still to do, None while that cannot be told."""
        if self.done is None or self.end is None:
            return None
        return max(0, self.end - self.done)


@dataclass(frozen=True)
class StandbyReading:
    """One warm copy: a table's partition that this worker follows for another one.

    Attributes:
        table: its name.
        partition: its number.
        done: offset after the last changelog record that is in the copy.
        end: offset after the changelog's newest record, None while Kafka does not say.
    """

    table: str
    partition: int
    done: int
    end: int | None

    @property
    def lag(self) -> int | None:
        """Changelog records that the copy lacks, None while that cannot be told."""
        return None if self.end is None else max(0, self.end - self.done)


@dataclass
class WorkerReading:
    """Everything that a worker tells about itself at one moment.

    Attributes:
        outcomes: (stage, outcome) -> transactions or labels (see `is_of_labels`), computed since start.
        refused: (stage, reason) -> records that were dead-lettered, computed since start.
        lost: (stage, partition) -> offsets that were deleted before they were read, since start: of all partitions
            that this worker has had.
        records: stage -> records of the topic that it reads, finished since start. A record of `enriched` holds
            many transactions.
        partitions: the source partitions that it holds.
        copies: the warm copies that it keeps.
        parked: labels that wait for their transactions, by partition.
        waits: who waits for what, a line each.
        state_bytes: (table, partition) -> bytes on disk.
        kafka_answers: whether Kafka told the ends of the partitions just now.
        reasons: why it is not ready, empty when it is.
        waiting_bytes: stage -> memory of the records that it has fetched and not acknowledged.
        sink: rows of scored transactions written, and whether they wait.
        refunds: the same of refunds.
        alerts: the same of alerts.
        raised: alerts by severity, since start.
        fell_back: transactions that the model that decides gave no score, since start.
        reverts: the guard's reverts that took effect on this worker, by cause, since start.
        unscored: transactions without a score by a challenger, by its name and version, since start.
        latency: append to row.
        event_latency: event time to row.
        model: (version, hash) of the model that scores what is new in the partitions held here; None while it is
            bound to none.
        started_at: epoch seconds.
        tasks: asyncio tasks by event loop: `worker`, and `consumer`, which fetches.
        threads: threads of Python.
        rebalances: rebalances of the group since start.
        decisions: what was decided, and with which scores.
        score_answers: HTTP status -> answers of POST /score since start.
        labels: what labels said.
        drift: by model, as `app.quality.drift_live.live_drift` has it.
    """

    outcomes: dict[tuple[str, str], int] = field(default_factory=dict)
    refused: dict[tuple[str, str], int] = field(default_factory=dict)
    lost: dict[tuple[str, int], int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    waiting_bytes: dict[str, int] = field(default_factory=dict)
    partitions: list[PartitionReading] = field(default_factory=list)
    copies: list[StandbyReading] = field(default_factory=list)
    parked: list[Any] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    state_bytes: dict[tuple[str, int], int] = field(default_factory=dict)
    kafka_answers: bool = False
    reasons: list[str] = field(default_factory=list)
    sink: SinkStatus = field(default_factory=SinkStatus)
    refunds: SinkStatus = field(default_factory=SinkStatus)
    alerts: SinkStatus = field(default_factory=SinkStatus)
    raised: dict[str, int] = field(default_factory=dict)
    unscored: dict[str, int] = field(default_factory=dict)
    fell_back: int = 0
    reverts: dict[str, int] = field(default_factory=dict)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    event_latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    model: tuple[str, str] | None = None
    started_at: float = 0.0
    tasks: dict[str, int] = field(default_factory=dict)
    threads: int = 0
    rebalances: int = 0
    decisions: DecisionCounts = field(default_factory=DecisionCounts)
    score_answers: dict[int, int] = field(default_factory=dict)
    labels: LabelCounts = field(default_factory=LabelCounts)
    drift: Mapping[str, Any] = field(default_factory=dict)

    def lag(self, stage: str) -> int | None:
        """Records that a stage still has to do in the partitions held here, None while unknown."""
        lags = [one.lag for one in self.partitions if one.stage == stage]
        return None if None in lags else sum(lag for lag in lags if lag is not None)


def is_of_labels(stage: str, outcome: str) -> bool:
    """Whether an outcome counts labels; all others count transactions."""
    return stage == "labels" or outcome in {"labelled", "expired"}


def read_flow(app: Any, stages: Mapping[str, str], ends: Mapping[Any, int]) -> WorkerReading:
    """What the pipelines of a running app have done; what concerns servers is left to the caller.

    Args:
        app: the block app.
        stages: topic -> name of the stage that reads it.
        ends: end offset by topic and partition, as far as it is known.
    """
    outcomes: Counter[tuple[str, str]] = Counter()
    refused: dict[tuple[str, str], int] = {}
    lost: dict[tuple[str, int], int] = {}
    records: dict[str, int] = {}
    waiting_bytes: dict[str, int] = {}
    raised: Counter[str] = Counter()
    unscored: Counter[str] = Counter()
    fell_back = 0
    reverts: Counter[str] = Counter()
    for topic, pipeline in app.pipelines.items():
        stage = stages.get(topic, topic)
        records[stage] = pipeline.records_done
        waiting_bytes[stage] = pipeline.budget.used
        for outcome, number in getattr(pipeline.handler, "counts", {}).items():
            outcomes[stage, outcome] += number
        for reason, number in getattr(pipeline.handler, "reasons", {}).items():
            refused[stage, reason] = number
        lost |= {(stage, partition): number for partition, number in pipeline.lost.items()}
        raised.update(getattr(pipeline.handler, "raised", {}))
        challengers = getattr(pipeline.handler, "challengers", None)
        unscored.update(challengers.failures if challengers else {})
        champion = getattr(pipeline.handler, "champion", None)
        fell_back += champion.failures if champion else 0
        reverts.update(champion.tallies.reverts if champion else {})
    partitions = [
        _read_partition(app, stages.get(tp.topic, tp.topic), tp, ends.get(tp))
        for tp in sorted(source_partitions(app))
    ]
    return WorkerReading(
        outcomes=dict(outcomes),
        refused=refused,
        lost=lost,
        records=records,
        waiting_bytes=waiting_bytes,
        raised=dict(raised),
        unscored=dict(unscored),
        fell_back=fell_back,
        reverts=dict(reverts),
        partitions=partitions,
    )


def read_tasks(app: Any) -> dict[str, int]:
    """Tasks that are not done, by event loop; to be asked in the worker's own."""
    loops = {"worker": asyncio.get_running_loop(), "consumer": app.consumer.thread_loop}
    return {name: len(asyncio.all_tasks(loop)) for name, loop in loops.items()}


async def records_behind(app: Any, pipeline: Any) -> int:
    """Records that a stage of this worker has not finished, those that are not fetched yet included."""
    done = {tp: pipeline.partitions.get(tp.partition) for tp in source_partitions(app)
            if tp.topic == pipeline.topic}  # fmt: skip
    ends = await app.consumer.highwaters(*done)
    return sum(
        max(
            0,
            ends[tp]
            - (app.consumer.block_start.get(tp, ends[tp]) if one is None else one.done_offset),
        )
        for tp, one in done.items()
    )


def source_partitions(app: Any) -> set[Any]:
    """The partitions that this worker's pipelines read now."""
    return {tp for tp in app.assignor.assigned_actives() if tp.topic in app.pipelines}


def copied_partitions(app: Any) -> dict[Any, Any]:
    """The changelog partitions that this worker follows for others, and their tables."""
    tables = {table.changelog_topic.get_topic_name(): table for table in app.tables.values()}
    standbys = app.assignor.assigned_standbys()
    return {tp: tables[tp.topic] for tp in sorted(standbys) if tp.topic in tables}


def read_copies(copies: Mapping[Any, Any], ends: Mapping[Any, int]) -> list[StandbyReading]:
    """How far warm copies follow.

    Args:
        copies: from `copied_partitions`.
        ends: end offset by changelog partition, as far as it is known.
    """
    return [
        StandbyReading(table.name, tp.partition, table.copied(tp.partition), ends.get(tp))
        for tp, table in copies.items()
    ]


def _read_partition(app: Any, stage: str, tp: Any, end: int | None) -> PartitionReading:
    partition = app.pipelines[tp.topic].partitions.get(tp.partition)
    # offsets are committed every second; nothing else remembers what is done while blocks are in flight
    done = app.consumer._committed_offset.get(tp) or app.consumer.block_start.get(tp)  # noqa: SLF001
    lost = app.pipelines[tp.topic].lost[tp.partition]
    since, offsets, seconds = app.consumer.unstable(tp) or (None, 0, 0.0)
    log: dict[str, Any] = {
        "lost": lost,
        "open_since": since,
        "open_offsets": offsets,
        "open_seconds": seconds,
    }
    if partition is None:
        return PartitionReading(stage, tp.partition, 0, 0, 0, done, end, **log)
    if not partition.in_flight:
        done = partition.next_offset
    mark = None if app.alignment is None else app.alignment.watermark(tp)
    event_time: tuple[int | None, int | None, int | None] = (None, None, None)
    if mark is not None:
        event_time = mark.position_ms, mark.held_ms, mark.ahead_ms
        slowest = mark.slowest
        log["waits_for"] = None if slowest is None else f"{slowest.tp[0]}/{slowest.tp[1]}"
        log["stalled"] = mark.stalled
    return PartitionReading(
        stage,
        tp.partition,
        partition.records_done,
        partition.waiting,
        partition.in_flight,
        done,
        end,
        *event_time,
        None if partition.needs is None else str(partition.needs),
        **log,
    )


def read_state_bytes(tables: Iterable[tuple[str, int, Path]]) -> dict[tuple[str, int], int]:
    """Bytes on disk by (table, partition). It reads folders: run it off the event loop.

    Args:
        tables: name, partition and folder of each store.
    """
    return {(name, partition): _folder_bytes(folder) for name, partition, folder in tables}


def _folder_bytes(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())
    except OSError:  # not there yet, or RocksDB removed a file in between
        return 0
