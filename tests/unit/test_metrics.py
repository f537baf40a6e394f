"""Latency recorder, sink status, lag, and the names of every metric."""

import asyncio
import random
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.blocks.core.alignment import SlowestPartition, Watermark
from app.domain.changes_in_force import EarlierModel, InForce
from app.metrics.counters import DecisionCounts, SinkStatus
from app.metrics.latency_histogram import FINE_BOUNDS_MS, LATENCY_BOUNDS_MS, LatencyHistogram
from app.metrics.log_ends import LogEnds
from app.metrics.prometheus import WorkerMetrics
from app.metrics.waiting_partitions import read_waits
from app.metrics.worker_reading import (
    PartitionReading,
    StandbyReading,
    WorkerReading,
    copied_partitions,
    is_of_labels,
    read_copies,
    read_flow,
    read_state_bytes,
    read_tasks,
    records_behind,
    source_partitions,
)
from app.notify.metrics import NotifierMetrics
from app.stages.parked_label_retries import ParkedSummary
from app.stages.scoring_models import ModelNeeded
from tests.builders import T0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_quantiles_are_near_the_true_ones() -> None:
    seeded = random.Random(1)
    values = [seeded.lognormvariate(3, 1.2) for _ in range(20_000)]
    latency = LatencyHistogram(Clock())
    for start in range(0, len(values), 100):
        latency.observe_many(values[start : start + 100])
    for q in (0.5, 0.9, 0.99):
        true = sorted(values)[int(q * len(values))]
        assert latency.quantile(q) == pytest.approx(true, rel=0.1)
    assert sum(latency.counts()) == len(values)
    assert latency.total_ms == pytest.approx(sum(values))


def test_fine_bounds_are_finer_where_a_live_stream_is() -> None:
    assert list(FINE_BOUNDS_MS) == sorted(set(FINE_BOUNDS_MS))
    below = [bound for bound in FINE_BOUNDS_MS if bound <= 10_000]
    steps = [high / low for low, high in zip(below, below[1:], strict=False)]
    assert max(steps) == pytest.approx(10 ** (1 / 20))
    assert FINE_BOUNDS_MS[-1] == LATENCY_BOUNDS_MS[-1]
    latency = LatencyHistogram(Clock(), FINE_BOUNDS_MS)
    latency.observe_many([50.0] * 99 + [1e9])
    assert latency.quantile(0.5) == pytest.approx(50, rel=0.06)
    assert latency.quantile(1.0) == FINE_BOUNDS_MS[-1]
    assert len(latency.counts()) == len(FINE_BOUNDS_MS) + 1


def test_quantiles_forget_and_counts_do_not() -> None:
    clock = Clock()
    latency = LatencyHistogram(clock)
    latency.observe_many([10_000.0] * 100)
    clock.now += 60
    latency.observe_many([5.0] * 100)
    median = latency.quantile(0.9)
    assert median is not None
    assert median > 5_000  # the last period still counts
    clock.now += 60
    latency.observe_many([5.0])
    newest = latency.quantile(0.99)
    assert newest is not None
    assert newest < 10
    clock.now += 10_000
    assert latency.quantile(0.5) is None
    assert sum(latency.counts()) == 201


@pytest.mark.parametrize("value", [-5.0, 0.0, 0.3])
def test_what_took_no_time(value: float) -> None:
    latency = LatencyHistogram()
    latency.observe_many([value])
    assert latency.quantile(0.5) == LATENCY_BOUNDS_MS[0]


def test_what_took_for_ever() -> None:
    latency = LatencyHistogram()
    latency.observe_many([1e12])
    assert latency.quantile(0.5) == LATENCY_BOUNDS_MS[-1]
    assert latency.counts()[-1] == 1


def test_an_empty_block_is_nothing() -> None:
    latency = LatencyHistogram()
    latency.observe_many([])
    assert latency.quantile(0.99) is None


def test_the_sink_waits_until_it_writes() -> None:
    sink = SinkStatus(lambda: 77.5)
    assert sink.written_at == 0
    sink.waiting("no Cassandra at x")
    assert (sink.reason, sink.failures) == ("no Cassandra at x", 1)
    sink.written(20)
    assert (sink.reason, sink.rows, sink.failures) == (None, 20, 1)
    assert sink.written_at == 77.5


@pytest.mark.parametrize(
    ("done", "end", "lag"),
    [(10, 17, 7), (17, 17, 0), (18, 17, 0), (None, 17, None), (5, None, None)],
)
def test_lag(done: int | None, end: int | None, lag: int | None) -> None:
    assert PartitionReading("cards", 0, 0, 0, 0, done, end).lag == lag


def test_lag_of_a_stage_is_known_when_that_of_each_partition_is() -> None:
    known = PartitionReading("cards", 0, 0, 0, 0, 10, 17)
    unknown = PartitionReading("scoring", 0, 0, 0, 0, 10, None)
    reading = WorkerReading(partitions=[known, known, unknown])
    assert (reading.lag("cards"), reading.lag("scoring"), reading.lag("sink")) == (14, None, 0)


class Partition(SimpleNamespace):
    topic: str
    partition: int

    def __hash__(self) -> int:
        return hash((self.topic, self.partition))

    def __lt__(self, other: Any) -> bool:
        return (self.topic, self.partition) < (other.topic, other.partition)


def app_with(tps: list[Partition], partitions: dict[int, Any]) -> Any:
    """What `read_flow` reads of an app."""
    pipeline = SimpleNamespace(
        records_done=30, handler=SimpleNamespace(counts={"dead": 2}, reasons={"moved": 2}),
        partitions=partitions, lost=Counter({0: 5, 7: 1}), budget=SimpleNamespace(used=4_000),
    )  # fmt: skip
    return SimpleNamespace(
        pipelines={"tx": pipeline},
        assignor=SimpleNamespace(assigned_actives=lambda: set(tps)),
        alignment=SimpleNamespace(watermark=lambda tp: Watermark(7_000, 9_000, 2_000)),
        consumer=SimpleNamespace(
            _committed_offset={tps[0]: 40},
            block_start=dict.fromkeys(tps, 3),
            unstable=lambda tp: (90, 12, 1.5) if tp == tps[0] else None,
        ),
    )


def test_reading_the_flow() -> None:
    tps = [Partition(topic="tx", partition=0), Partition(topic="tx", partition=1)]
    changelog = Partition(topic="changelog", partition=0)
    busy = SimpleNamespace(records_done=9, waiting=1, in_flight=2, needs=None, next_offset=60)
    app = app_with([*tps, changelog], {0: busy})
    assert source_partitions(app) == set(tps)
    reading = read_flow(app, {"tx": "cards"}, {tps[0]: 100, tps[1]: 5})
    assert reading.outcomes == {("cards", "dead"): 2}
    assert reading.refused == {("cards", "moved"): 2}
    assert reading.lost == {("cards", 0): 5, ("cards", 7): 1}  # of a partition that has gone, too
    assert reading.records == {"cards": 30}
    first, second = reading.partitions
    # with blocks in flight only what is committed is known to be done
    assert (first.done, first.lag, first.records_waiting, first.blocks_in_flight) == (40, 60, 1, 2)
    assert (first.event_time_ms, first.held_ms, first.ahead_ms) == (7_000, 9_000, 2_000)
    assert (first.lost, second.lost, reading.waiting_bytes) == (5, 0, {"cards": 4_000})
    assert (first.open_since, first.open_offsets, first.open_seconds) == (90, 12, 1.5)
    assert (second.open_since, second.open_offsets) == (None, 0)
    # a partition without a block yet starts where it starts
    assert (second.done, second.lag) == (3, 2)
    busy.in_flight = 0
    assert read_flow(app, {}, {tps[0]: 100}).partitions[0].lag == 40


def test_how_far_warm_copies_follow() -> None:
    copied = {0: 40, 1: 7}
    table = SimpleNamespace(
        name="cards",
        changelog_topic=SimpleNamespace(get_topic_name=lambda: "changelog"),
        copied=copied.__getitem__,
    )
    here, there = (Partition(topic="changelog", partition=number) for number in (0, 1))
    followed = {here, there, Partition(topic="another app's", partition=0)}
    app = SimpleNamespace(
        tables={"cards": table}, assignor=SimpleNamespace(assigned_standbys=lambda: followed)
    )
    copies = copied_partitions(app)
    assert copies == {here: table, there: table}
    assert read_copies(copies, {here: 42}) == [
        StandbyReading("cards", 0, 40, 42),
        StandbyReading("cards", 1, 7, None),
    ]
    assert [copy.lag for copy in read_copies(copies, {here: 42, there: 6})] == [2, 0]


def test_sizes_of_folders(tmp_path: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.sst").write_bytes(b"12345")
    (tmp_path / "a" / "sub").mkdir()
    tables = [("cards", 0, tmp_path / "a"), ("cards", 1, tmp_path / "missing")]
    assert read_state_bytes(tables) == {("cards", 0): 5, ("cards", 1): 0}


async def test_ends_are_asked_for_once_however_many_ask() -> None:
    asked: list[tuple] = []
    answer = asyncio.Event()

    async def ask(*tps: str) -> dict[str, int]:
        asked.append(tps)
        await answer.wait()
        return dict.fromkeys(tps, 7)

    ends = LogEnds(ask)
    both = asyncio.gather(ends.read(["a"]), ends.read(["a"]))
    await asyncio.sleep(0.01)
    answer.set()
    assert await both == [({"a": 7}, True)] * 2
    assert await ends.read(["a"]) == ({"a": 7}, True)
    assert asked == [("a",)]


async def test_ends_that_kafka_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.metrics.log_ends._TIMEOUT_SECONDS", 0.02)
    monkeypatch.setattr("app.metrics.log_ends._MAX_AGE_SECONDS", 0.0)
    up = asyncio.Event()

    async def ask(*tps: str) -> dict[str, int]:
        await up.wait()
        return dict.fromkeys(tps, 7)

    ends = LogEnds(ask)
    assert await ends.read(["a"]) == ({}, False)
    assert await ends.read(["a"]) == ({}, False)  # the first question is still open: no second one
    up.set()
    assert await ends.read(["a"]) == ({"a": 7}, True)

    async def fail(*_: str) -> dict[str, int]:
        raise OSError

    assert await LogEnds(fail).read(["a"]) == ({}, False)


async def test_ends_of_long_ago_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.metrics.log_ends._MAX_AGE_SECONDS", 0.0)
    answers = [True, False, False]

    async def ask(*tps: str) -> dict[str, int]:
        if not answers.pop(0):
            raise OSError
        return dict.fromkeys(tps, 7)

    ends = LogEnds(ask)
    assert await ends.read(["a"]) == ({"a": 7}, True)
    assert await ends.read(["a"]) == ({"a": 7}, False)  # one missing answer says little
    monkeypatch.setattr("app.metrics.log_ends._STALE_SECONDS", 0.0)
    assert await ends.read(["a"]) == ({}, False)  # a lag worked out from it would stand still


async def test_what_a_stage_has_still_to_do() -> None:
    class Key(tuple):
        topic = property(lambda self: self[0])
        partition = property(lambda self: self[1])

    held = [Key(("p", n)) for n in range(3)]
    ends = {held[0]: 100, held[1]: 50, held[2]: 7}

    async def highwaters(*asked: Any) -> dict[Any, int]:
        return {tp: ends[tp] for tp in asked}

    pipeline = SimpleNamespace(
        topic="p",
        partitions={0: SimpleNamespace(done_offset=40), 1: SimpleNamespace(done_offset=50)},
    )
    app = SimpleNamespace(
        assignor=SimpleNamespace(assigned_actives=lambda: {*held, Key(("other", 0))}),
        pipelines={"p": pipeline, "other": None},
        consumer=SimpleNamespace(highwaters=highwaters, block_start={held[2]: 5}),
    )
    assert await records_behind(app, pipeline) == 60 + 0 + 2


def full_reading() -> WorkerReading:
    sink, latency = SinkStatus(), LatencyHistogram()
    sink.written(3)
    latency.observe_many([1.0, 20.0, 300.0])
    event_latency = LatencyHistogram(bounds_ms=FINE_BOUNDS_MS)
    event_latency.observe_many([2.0, 21.0, 301.0, 1e12])
    return WorkerReading(
        outcomes={("cards", "dead"): 3},
        refused={("cards", "in_the_future"): 3},
        lost={("cards", 7): 4},
        score_answers={200: 5, 504: 1},
        records={"cards": 6},
        partitions=[
            PartitionReading("cards", 0, 6, 1, 2, 10, 17, 7_500, 9_500, 2_000),
            PartitionReading("cards", 1, 6, 0, 0, 10, None),
        ],
        copies=[StandbyReading("cards", 2, 40, 42), StandbyReading("cards", 3, 40, None)],
        parked=[ParkedSummary(0, 0), ParkedSummary(1, 7, T0, "who")],
        state_bytes={("cards", 0): 2048},
        kafka_answers=True,
        reasons=["not yet"],
        sink=sink,
        latency=latency,
        event_latency=event_latency,
        model=('odd"\\name\n', "ab"),
        tasks={"worker": 40, "consumer": 5},
        threads=9,
        rebalances=2,
    )


def test_the_exposition_parses_and_follows_the_conventions() -> None:
    text = WorkerMetrics().text(full_reading()).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    ours = {name: f for name, f in families.items() if name.startswith("fraudstream_")}
    assert len(ours) >= 14
    for name, family in ours.items():
        assert family.documentation, name
        assert re.fullmatch(r"[a-z_]+", name)
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), name
    values = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in ours.values()
        for sample in family.samples
    }
    assert values["fraudstream_outcomes_total", "dead", "cards"] == 3
    assert values["fraudstream_dead_letters_total", "in_the_future", "cards"] == 3
    lost = {
        key[1]: value for key, value in values.items() if key[0] == "fraudstream_lost_records_total"
    }
    assert lost == {"0": 0, "1": 0, "7": 4}  # one that has gone keeps its count, and 0 is told, too
    assert values["fraudstream_consumer_lag_messages", "0", "cards"] == 7
    assert ("fraudstream_consumer_lag_messages", "1", "cards") not in values  # unknown, not 0
    assert values["fraudstream_event_time_seconds", "0", "cards"] == 7.5
    assert values["fraudstream_held", "0", "cards"] == 1
    assert values["fraudstream_event_time_ahead_seconds", "0", "cards"] == 2
    assert ("fraudstream_held", "1", "cards") not in values
    assert values["fraudstream_parked_labels", "0"] == 0
    assert values["fraudstream_parked_labels", "1"] == 7
    assert values["fraudstream_parked_label_oldest_seconds", "0"] == 0
    assert values["fraudstream_parked_label_oldest_seconds", "1"] > 86_400
    assert values["fraudstream_standby_lag_messages", "2", "cards"] == 2
    assert ("fraudstream_standby_lag_messages", "3", "cards") not in values
    assert values["fraudstream_sink_rows_total",] == 3
    assert values["fraudstream_ready",] == 0
    assert values["fraudstream_tasks", "worker"] == 40
    assert values["fraudstream_tasks", "consumer"] == 5
    assert values["fraudstream_threads",] == 9
    assert values["fraudstream_rebalances_total",] == 2
    assert values["fraudstream_append_to_row_seconds_count",] == 3
    assert values["fraudstream_append_to_row_seconds_sum",] == pytest.approx(0.321)
    assert values["fraudstream_event_to_row_seconds_count",] == 4
    assert values["fraudstream_sink_last_row_timestamp_seconds",] > 1.7e9
    assert "process_resident_memory_bytes" in families


@pytest.mark.parametrize(("since", "count"), [("append", 3), ("event", 4)])
def test_the_buckets_rise_and_hold_everything(since: str, count: int) -> None:
    text = WorkerMetrics().text(full_reading()).decode()
    (family,) = [
        family
        for family in text_string_to_metric_families(text)
        if family.name == f"fraudstream_{since}_to_row_seconds"
    ]
    buckets = [s for s in family.samples if s.name.endswith("_bucket")]
    bounds = [float(sample.labels["le"]) for sample in buckets]
    counts = [sample.value for sample in buckets]
    assert bounds == sorted(set(bounds))
    assert counts == sorted(counts)
    assert (bounds[-1], counts[-1]) == (float("inf"), count)
    first = dict(zip(bounds, counts, strict=True))[0.001]
    assert first == (since == "append")  # a bound belongs to its bucket


def test_a_worker_that_has_just_started_has_metrics() -> None:
    assert b"fraudstream_build_info" in WorkerMetrics().text(WorkerReading())


def test_decisions_are_counted_by_model_and_outcome_within_bounds() -> None:
    decisions = DecisionCounts()
    for score in (0.0, 0.049, 0.05, 0.5, 0.99, 1.0):
        decisions.add({"model_version": "m@1", "is_fraud": score > 0.5, "score": score})
    decisions.add({"model_version": "m@1", "is_fraud": True, "score": 1.0, "action": "review"})
    assert decisions.counts == {("m@1", "passed"): 4, ("m@1", "flagged"): 2, ("m@1", "review"): 1}
    text = WorkerMetrics().text(WorkerReading(decisions=decisions)).decode()
    assert 'fraudstream_decisions_total{model="m@1",outcome="review"} 1.0' in text
    buckets = dict(re.findall(r'fraudstream_score_bucket{le="([^"]+)"} (\d+)', text))
    assert (buckets["0.05"], buckets["0.1"], buckets["0.95"], buckets["1"]) == ("2", "3", "4", "7")
    assert buckets["1"] == buckets["+Inf"]
    for number in range(200):  # labels have a bound
        decisions.add(
            {
                "model_version": f"n@{number}", "is_fraud": False, "score": 0.1,
                "shadow_scores": {"c@1": 0.2, "d@1": None, f"e@{number}": 0.9}, "shadow_flagged": ["c@1"],
            }
        )  # fmt: skip
    assert len(decisions.counts) <= 65
    assert sum(decisions.counts.values()) == 207
    text = WorkerMetrics().text(WorkerReading(decisions=decisions)).decode()
    for model, outcome, number in (
        ("c@1", "flagged", 200), ("c@1", "passed", 0), ("d@1", "unscored", 200), ("e@0", "passed", 1),
        ("other", "passed", 182),
    ):  # fmt: skip
        line = f'fraudstream_challenger_scores_total{{model="{model}",outcome="{outcome}"}}'
        assert f"{line} {number}.0" in text


async def test_tasks_are_counted_by_event_loop() -> None:
    other = asyncio.new_event_loop()
    app = SimpleNamespace(consumer=SimpleNamespace(thread_loop=other))
    before = read_tasks(app)
    task = asyncio.create_task(asyncio.sleep(60))
    assert read_tasks(app) == {"worker": before["worker"] + 1, "consumer": 0}
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert read_tasks(app) == before
    other.close()


def test_every_metric_is_documented_with_its_unit() -> None:
    families = text_string_to_metric_families(WorkerMetrics().text(full_reading()).decode())
    ours = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in families
        if family.name.startswith("fraudstream_")
    }
    notifier = text_string_to_metric_families(NotifierMetrics({}).text().decode())
    ours |= {
        family.name + ("_total" if family.type == "counter" else "")
        for family in notifier
        if family.name.startswith("fraudstream_")
    }
    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()
    told = re.findall(r"^\| `(fraudstream_\w+)` \| [^|]*\| ([^|]+) \|", page, re.MULTILINE)
    assert {name for name, _ in told} == ours
    assert all(unit.strip() for _, unit in told)


@pytest.mark.parametrize(
    ("stage", "outcome", "of_labels"),
    [
        ("cards", "dead", False),
        ("labels", "dead", True),
        ("scoring", "scored", False),
        ("scoring", "labelled", True),
        ("scoring", "expired", True),
    ],
)
def test_what_an_outcome_counts(stage: str, outcome: str, of_labels: bool) -> None:
    assert is_of_labels(stage, outcome) == of_labels


def test_who_waits_for_what() -> None:
    """Partitions paused for alignment and for whom; a server; parked labels. Nobody else."""
    slowest = SlowestPartition(("labels", 2), 5_000, "3 records wait, 1 blocks in flight")
    marks = {
        ("tx", 0): Watermark(7_000, 9_000, 4_000, slowest),
        ("tx", 1): Watermark(7_000),
        ("tx", 2): Watermark(None, 9_000),
        ("labels", 2): Watermark(5_000, stalled=True),
    }
    held = {"tx": [0, 1, 2], "labels": [2], "predictions": [0]}
    app = SimpleNamespace(
        alignment=SimpleNamespace(
            watermark=marks.__getitem__, aligns=lambda topic: topic != "predictions"
        ),
        pipelines={
            topic: SimpleNamespace(partitions={one: SimpleNamespace(needs=None) for one in numbers})
            for topic, numbers in held.items()
        },
        retries=SimpleNamespace(
            parked=lambda: [ParkedSummary(0, 0), ParkedSummary(1, 7, T0, "tx-4711")], away="away"
        ),
        fraud_topics=SimpleNamespace(labels=SimpleNamespace(name="labels")),
        models=SimpleNamespace(
            waiting={"5eed" * 16: "no Cassandra answers"}, refused={"a" * 64: "not signed"}
        ),
        in_force={0: InForce(fallbacks=(EarlierModel("a" * 64), EarlierModel("b" * 64)))},
    )
    waiting = app.pipelines["predictions"].partitions
    waiting[0] = SimpleNamespace(needs=ModelNeeded("5eed" * 16))
    assert "predictions/0 waits for model 5eed5eed5eed5eed: no Cassandra answers" in read_waits(app)
    waiting[0] = SimpleNamespace(needs=7)  # a schema
    labels, paused, unknown, refused, parked = read_waits(app)
    assert refused == "earlier model aaaaaaaaaaaaaaaa gives no scores here: not signed"
    assert labels == "labels/2 waits for Cassandra, which does not accept labels"
    assert paused == (
        "tx/0 is paused for alignment at event time 1970-01-01T00:00:09.000Z, for labels/2, which is at "
        "1970-01-01T00:00:05.000Z (3 records wait, 1 blocks in flight)"
    )
    assert unknown.startswith("tx/2 is paused")
    assert "7 labels of labels/1 are parked" in parked
    assert parked.endswith("; away")
    assert "4711" not in parked, "probes need no login"
