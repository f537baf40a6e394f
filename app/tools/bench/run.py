"""`fraudstream bench`: throughput beside the naive design, latency by rate; on real servers, in one run."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from app.devstack.ports import free_run
from app.errors import UnavailableError
from app.settings import Settings
from app.tools.bench.deployment import (
    CpuClock,
    committed,
    deployment,
    environment,
    records_in,
    server_pids,
)
from app.tools.processes import WorkerProcess
from app.tools.produce import produce
from app.tools.simulate import SimulationConfig, simulate
from app.tools.supervisor import Workers
from app.topics import Topics

#: Simulated history that a run replays: enough for windows to fill.
_CARDS, _TERMINALS = 5_000, 10_000
_POLL_SECONDS = 0.1
#: Longest that a run may take; a stuck one says so.
_RUN_SECONDS = 900.0
#: After the open-loop load: what is on its way arrives.
_SETTLE_SECONDS = 2.0


@dataclass
class Throughput:
    """One run over a backlog.

    Attributes:
        events: transactions, all of them in Cassandra at the end.
        seconds: from a ready worker to the last acknowledged row.
        cpu_us: CPU microseconds an event, by process (worker, kafka, cassandra).
        memory_mib: resident memory at the end, by process.
    """

    events: int
    seconds: float
    cpu_us: dict[str, float] = field(default_factory=dict)
    memory_mib: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


@dataclass
class LatencyRun:
    """One open-loop load.

    Attributes:
        rate: events a second that were due.
        events: how many.
        behind_ms: the most that the producer was behind its schedule.
        quantiles_ms: from the broker's append to the acknowledged row: p50, p99, p99.9.
    """

    rate: float
    events: int
    behind_ms: float
    quantiles_ms: dict[str, float]


@dataclass
class Report:
    """Everything that a bench measured.

    Attributes:
        throughput: our runs.
        naive: runs of the naive design, empty if left out.
        latency: by rate.
        machine: what it ran on.
    """

    throughput: list[Throughput]
    naive: list[dict[str, float]]
    latency: list[LatencyRun]
    machine: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """A JSON-able object with `ratio_to_naive` at its top, null without naive runs."""
        rates = [run.rate for run in self.throughput]
        naive = [run["events_per_second"] for run in self.naive]
        return {
            "ratio_to_naive": median(rates) / median(naive) if naive else None,
            "events_per_second": median(rates),
            "events_per_second_runs": rates,
            "naive_events_per_second": median(naive) if naive else None,
            "naive_runs": self.naive,
            "throughput": [asdict(run) for run in self.throughput],
            "latency": [asdict(run) for run in self.latency],
            "machine": self.machine,
        }


def bench(
    settings: Settings,
    *,
    events: int,
    naive_events: int,
    runs: int,
    rates: tuple[float, ...],
    rate_seconds: float,
    tell: Callable[[str], None],
) -> Report:
    """Measure; each run has a deployment of its own.

    Args:
        settings: whose servers and model are used.
        events: backlog of each of our runs.
        naive_events: backlog of each run of the naive design; 0 leaves it out.
        runs: how often each is measured, one of ours and one naive in turn.
        rates: open-loop loads, events a second.
        rate_seconds: how long each load lasts.
        tell: is told in one line what happens.

    Raises:
        FraudstreamError: a server or a worker failed; the text says which.
    """
    stamp = time.strftime("%H%M%S")
    ours: list[Throughput] = []
    naive: list[dict[str, float]] = []
    for number in range(1, runs + 1):
        tell(f"run {number} of {runs}: {events:,} transactions through fraudstream")
        with deployment(settings, f"bench_{stamp}_{number}") as own:
            ours.append(_throughput(own, events, number))
        tell(
            f"  {ours[-1].rate:,.0f} events/s, worker {ours[-1].cpu_us['worker']:.0f} us CPU an event"
        )
        if naive_events:
            tell(f"run {number} of {runs}: {naive_events:,} transactions through naive Faust")
            with deployment(settings, f"bench_{stamp}_{number}_naive") as own:
                naive.append(_naive(own, naive_events, number))
            tell(f"  {naive[-1]['events_per_second']:,.0f} events/s")
    latency = []
    if rates:
        with deployment(settings, f"bench_{stamp}_latency") as own:
            latency = _latencies(own, rates, rate_seconds, tell)
    return Report(ours, naive, latency, machine())


def _fill(settings: Settings, events: int, seed: int) -> None:
    config = SimulationConfig(cards=_CARDS, terminals=_TERMINALS, count=events, seed=seed)
    transactions = simulate(config, now_ms=_now_ms())
    asyncio.run(produce(transactions.pairs(), settings=settings))


def _worker(settings: Settings) -> WorkerProcess:
    port = free_run(1)
    return WorkerProcess(port, settings.home / "workers" / str(port), environ=environment(settings))


def _clock(settings: Settings, worker: WorkerProcess) -> CpuClock:
    servers = server_pids(settings.home.parent.parent)
    return CpuClock({"worker": worker.pid, **servers})


def _throughput(settings: Settings, events: int, seed: int) -> Throughput:
    _fill(settings, events, seed)
    worker = _worker(settings)
    with Workers([worker]) as workers:
        workers.await_ready()
        began = time.monotonic()
        clock = _clock(settings, worker)
        _await_rows(settings, events, workers)
        seconds = time.monotonic() - began
        cpu = {name: used / events * 1e6 for name, used in clock.seconds().items()}
        return Throughput(events, seconds, cpu, clock.memory_mib())


def _await_rows(settings: Settings, events: int, workers: Workers) -> None:
    topic = Topics(settings).predictions.name
    deadline = time.monotonic() + _RUN_SECONDS
    while asyncio.run(committed(settings, topic)) < events:
        workers.check()
        if time.monotonic() > deadline:
            held = asyncio.run(records_in(settings, topic))
            msg = (
                f"after {_RUN_SECONDS:.0f} s {held} of {events} transactions were scored: giving up"
            )
            raise UnavailableError(msg)
        time.sleep(_POLL_SECONDS)


def _naive(settings: Settings, events: int, seed: int) -> dict[str, float]:
    _fill(settings, events, seed)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "app.tools.bench.naive_faust"]
    done = subprocess.run(  # noqa: S603  our own module
        [*command, "worker", "-l", "error", "--without-web"],
        env=environment(settings, BENCH_EVENTS=str(events)),
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )
    lines = [
        line for line in (done.stdout + done.stderr).splitlines() if '"events_per_second"' in line
    ]
    if not lines:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        msg = f"the naive design ended without a figure: {last}"
        raise UnavailableError(msg)
    report: dict[str, float] = json.loads(lines[-1][lines[-1].index("{") :])
    return report


def _latencies(
    settings: Settings, rates: tuple[float, ...], seconds: float, tell: Callable[[str], None]
) -> list[LatencyRun]:
    worker = _worker(settings)
    found = []
    with Workers([worker]) as workers:
        workers.await_ready()
        for seed, rate in enumerate((rates[0], *rates), start=100):
            warm_up = seed == 100
            events = int(rate * (min(seconds, 5) if warm_up else seconds))
            config = SimulationConfig(
                cards=_CARDS, terminals=_TERMINALS, count=events, seed=seed, run=f"r{seed}"
            )
            transactions = simulate(config, now_ms=_now_ms())
            before = histogram(worker)
            sent = asyncio.run(produce(transactions.pairs(), settings=settings, rate=rate))
            time.sleep(_SETTLE_SECONDS)
            workers.check()
            if warm_up:
                continue
            after = histogram(worker)
            counts = {bound: after[bound] - before.get(bound, 0) for bound in after}
            marks = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
            quantiles = {name: quantile(counts, q) * 1000 for name, q in marks.items()}
            found.append(LatencyRun(rate, events, sent.behind_ms, quantiles))
            tell(f"  {rate:,.0f}/s: " + ", ".join(f"{k} {v:.1f} ms" for k, v in quantiles.items()))
    return found


def histogram(worker: WorkerProcess) -> dict[float, float]:
    """The worker's latency histogram: cumulative counts by upper bound in seconds."""
    from prometheus_client.parser import text_string_to_metric_families

    text = worker.ask("/metrics").read().decode()
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "fraudstream_append_to_row_seconds_bucket"
    }


def quantile(cumulative: dict[float, float], q: float) -> float:
    """The `q` quantile of a cumulative histogram, within a bucket in proportion; seconds."""
    total = max(cumulative.values(), default=0.0)
    if not total:
        msg = "the worker observed no latency during the load"
        raise UnavailableError(msg)
    below, low = 0.0, 0.0
    for bound in sorted(cumulative):
        count = cumulative[bound]
        if count >= q * total:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (q * total - below) / (count - below)
        below, low = count, bound
    return low


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import platform
    from importlib.metadata import version

    import psutil

    packages = ("faust-streaming", "aiokafka", "cassandra-driver", "scikit-learn", "rocksdict")
    return {
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1m": round(psutil.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in packages},
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
