"""What a bench tells: quantiles, table, JSON, plot; and what it refuses."""

import json
import os
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from app.cli.bench import bench, parse_rates
from app.errors import UnavailableError, UsageError
from app.lab.bench.backlog import Throughput
from app.lab.bench.cpu_use import Elsewhere
from app.lab.bench.histogram import WorkerPage, quantile
from app.lab.bench.latency import LatencyRun
from app.lab.bench.plot import latency_svg
from app.lab.bench.report import NAIVE, OURS, Report, System, load_after, machine
from app.metrics.counters import SinkStatus
from app.metrics.latency_histogram import FINE_BOUNDS_MS, LatencyHistogram
from app.metrics.prometheus import WorkerMetrics
from app.metrics.worker_reading import WorkerReading


def page(latencies: list[float], rows: int) -> WorkerPage:
    latency, sink = LatencyHistogram(bounds_ms=FINE_BOUNDS_MS), SinkStatus(lambda: 12.5)
    latency.observe_many(latencies)
    sink.written(rows)
    return WorkerPage(
        WorkerMetrics().text(WorkerReading(sink=sink, event_latency=latency)).decode()
    )


def test_quantiles_are_of_what_came_between_two_looks() -> None:
    early = [5.0] * 1000
    before, after = page(early, 1000), page(early + [50.0] * 990 + [400.0] * 10, 2000)
    found = after.quantiles_ms(before)
    assert found["p50"] == pytest.approx(50, rel=0.13)
    assert found["p99.9"] == pytest.approx(400, rel=0.13)  # a bucket is 12 % wide
    assert (after.rows, after.last_row) == (2000, 12.5)


def test_without_observations_there_is_no_quantile() -> None:
    same = page([5.0], 1)
    with pytest.raises(UnavailableError, match="no latency"):
        same.quantiles_ms(same)


def test_quantiles_at_the_ends_of_a_histogram() -> None:
    assert quantile({0.001: 4, 0.01: 4, float("inf"): 4}, 0.5) == 0.001
    assert quantile({0.001: 0, 0.01: 0, float("inf"): 3}, 0.5) == 0.01
    assert 0.001 < quantile({0.001: 1, 0.01: 3, float("inf"): 3}, 0.9) < 0.01


def run(rate: float, worker_us: float = 50.0) -> Throughput:
    cpu = {"worker": worker_us, "kafka": 10.0, "cassandra": 70.0}
    return Throughput(1000, 1000 / rate, cpu, {"worker": 300.0})


def report() -> Report:
    load = LatencyRun(
        200, 4000, {"p50": 4.0, "p99": 20.0, "p99.9": 40.0}, {"p50": 0.1, "p99": 1, "max": 9}
    )
    ours = System(OURS, runs=[run(9_000), run(10_000, 60), run(14_000)], latency=[load])
    naive = System(NAIVE, "less", runs=[run(400)])
    absent = System("other", "much", skipped="cannot be installed")
    found = machine()
    load_after(found, Elsewhere(Path("/nonexistent")))
    return Report([ours, naive, absent], found, verified=3)


def test_the_ratio_is_of_medians_and_stands_at_the_top() -> None:
    found = json.loads(json.dumps(report().as_dict()))
    assert next(iter(found)) == "ratio_to_naive"
    assert found["ratio_to_naive"] == 25
    ours = found["systems"][0]
    assert ours["spread"] == [9_000, 14_000]
    assert ours["cpu_us_per_event"] == {"worker": 50, "kafka": 10, "cassandra": 70}
    assert ours["memory_mib"]["kafka"] is None
    assert found["systems"][2]["skipped"] == "cannot be installed"
    assert Report([System(OURS)], machine()).as_dict()["ratio_to_naive"] is None


def test_the_table_has_every_figure_and_says_what_is_missing() -> None:
    text = report().text()
    for part in (
        "10,000", "9,000-14,000", "50 / 10 / 70", "300 / - / -", "fraudstream: 25.0 times as fast",
        "skipped: cannot be installed", "4.0", "1.0, 9.0", "naive Faust: less", "verified: 3", "cores", "Kafka 4",
    ):  # fmt: skip
        assert part in text, part


def test_the_plot_is_an_svg_with_a_line_for_each_quantile() -> None:
    made = report()
    made.systems[0].latency.append(
        LatencyRun(
            3000, 9, {"p50": 30.0, "p99": 90.0, "p99.9": 100.0}, {"p50": 0, "p99": 0, "max": 0}
        )
    )
    root = ET.fromstring(latency_svg(made.systems, "a < b"))
    lines = [one for one in root.iter() if one.tag.endswith("polyline")]
    assert len(lines) == 3
    height, width = 420, 720
    for line in lines:
        points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        assert len(points) == 2
        assert points[0][1] > points[1][1]  # more load, more latency: higher up
        assert all(0 < x < width and 0 < y < height for x, y in points)


def test_what_others_use_is_told_apart_from_us(tmp_path: Path) -> None:
    elsewhere = Elsewhere(tmp_path)
    burnt = time.process_time() + 0.3
    while time.process_time() < burnt:
        pass
    assert 0 <= elsewhere.cores() <= (os.cpu_count() or 1) + 0.5
    assert report().machine["others_cores"] >= 0


def test_nothing_is_drawn_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        latency_svg([System(OURS)], "")


@pytest.mark.parametrize("text", ["a", "1,x", "0", "-5", "inf", "nan"])
def test_loads_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="above zero"):
        parse_rates(text)


def test_loads() -> None:
    assert parse_rates("200, 1e3,") == (200.0, 1000.0)
    assert parse_rates("") == ()


def test_a_plot_needs_loads(tmp_path: Path) -> None:
    found = CliRunner().invoke(bench, ["--rates", "", "--plot", str(tmp_path / "x.svg")])
    assert isinstance(found.exception, UsageError)
    assert "give --rates" in str(found.exception)
