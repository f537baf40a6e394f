"""`fraudstream bench`: throughput and latency, ours and other designs in turn; on real servers, in one run."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import UnavailableError
from app.lab.bench import backlog, latency
from app.lab.bench.cpu_use import Elsewhere
from app.lab.bench.deployment import deployment
from app.lab.bench.latency import LatencyRun
from app.lab.bench.peer_process import Peer
from app.lab.bench.report import NAIVE, OURS, Report, System, load_after, machine
from app.lab.supervisor import Workers
from app.settings import Settings
from models.artifact_folders import artifact_folders
from models.manifest import Manifest

#: The first load warms a fresh worker up and is not told; a peer's likewise.
_WARM_UP_SECONDS = 5.0
#: Between a peer's warm-up, which is sent while it starts, and its load: a JVM must catch up first.
_CATCH_UP_SECONDS = 15.0
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Design:
    """A design that ours is compared with.

    Attributes:
        name: for the table.
        work: what it does, and what it does less.
        events: backlog of a run.
        command: what is run: see `app.lab.bench.peer_process`.
        rates: open-loop loads that it is asked to carry.
        environ: further variables.
    """

    name: str
    work: str
    events: int
    command: tuple[str | Path, ...]
    rates: tuple[float, ...] = ()
    environ: tuple[tuple[str, str], ...] = ()


def naive(events: int, rates: tuple[float, ...] = ()) -> Design:
    """The Faust application that one writes first."""
    module = (sys.executable, "-m", "app.lab.bench.naive_faust")
    return Design(
        NAIVE,
        "one approximate window instead of four, the model and an insert per event; "
        "no terminal features, no predictions topic, not exact",
        events,
        (*module, "worker", "-l", "error", "--without-web"),
        rates,
    )


def bench(
    settings: Settings,
    *,
    events: int,
    designs: Sequence[Design],
    runs: int,
    rates: tuple[float, ...],
    rate_seconds: float,
    warm_up: int,
    verified: bool,
    labels: bool = False,
    tell: Tell,
) -> Report:
    """Measure; each run has a deployment of its own.

    Args:
        settings: whose servers and model are used.
        events: backlog of each of our runs, and history before our latency runs.
        designs: what ours is compared with.
        runs: how often each is measured, in turn; 0 leaves throughput out.
        rates: open-loop loads for ours, events a second; none leaves ours out.
        rate_seconds: how long each load lasts.
        warm_up: backlog of a run of ours before all others that is not told: servers that have just started
            take several times as long for a row. 0 leaves it out.
        verified: recompute every row of each of our runs.
        labels: each of our backlogs has its labels beside it; other designs take none.
        tell: is told in one line what happens.

    Raises:
        FraudstreamError: a server or a worker of ours failed, or a run does not verify; the text says
            which. A design that fails is told and left out.
    """
    found, elsewhere = machine(), Elsewhere(settings.home)
    stamp = time.strftime("%H%M%S")
    entry = artifact_folders(settings).find(settings.model).manifest
    ours = System(OURS, _work(settings, entry) if labels else "")
    others = [System(design.name, design.work) for design in designs]
    report = Report([ours, *others], found)
    if warm_up and runs:
        tell(f"warm-up: {warm_up:,} transactions")
        with deployment(settings, f"bench_{stamp}_0") as own:
            known = backlog.fill(own, warm_up, 0, labels=labels)
            backlog.measure(own, warm_up, labels=known)
    for number in range(1, runs + 1):
        tell(f"run {number} of {runs}: {events:,} transactions through {OURS}")
        with deployment(settings, f"bench_{stamp}_{number}") as own:
            known = backlog.fill(own, events, number, labels=labels)
            ours.runs.append(backlog.measure(own, events, labels=known))
            tell(f"  {ours.runs[-1].rate:,.0f} events/s")
            report.verified += verified and _verified(own)
        for index, (design, system) in enumerate(zip(designs, others, strict=True)):
            tell(f"run {number} of {runs}: {design.events:,} transactions through {design.name}")
            with deployment(settings, f"bench_{stamp}_{number}_{index}") as own:
                _run_design(own, design, system, number, tell)
    if rates:
        with deployment(settings, f"bench_{stamp}_latency") as own:
            ours.latency = _our_latency(own, rates, rate_seconds, events, tell)
            report.verified += verified and _verified(own)
    for index, (design, system) in enumerate(zip(designs, others, strict=True)):
        for rate in () if system.skipped or not rates else design.rates:
            with deployment(settings, f"bench_{stamp}_latency_{index}_{rate:.0f}") as own:
                _load_design(own, design, system, rate, rate_seconds, tell)
    load_after(found, elsewhere)
    return report


def _work(settings: Settings, model: Manifest) -> str:
    """What a run with labels does, for the table's notes."""
    odd = "with" if model.anomaly else "without"
    return (
        f"a label for each transaction except those of the last day; feature sets {', '.join(settings.features)}; "
        f"model {model.name} ({model.kind}) {odd} anomaly scores; reasons from {settings.reasons_from:g} on"
    )


def _verified(settings: Settings) -> bool:
    backlog.check(settings)
    return True


def _run_design(settings: Settings, design: Design, system: System, seed: int, tell: Tell) -> None:
    """One backlog through a design; one that fails is left out from then on."""
    if system.skipped:
        return
    backlog.fill(settings, design.events, seed)
    try:
        with Peer(settings, design.command, design.events, environ=dict(design.environ)) as peer:
            peer.await_begin()
            system.runs.append(peer.await_end())
    except UnavailableError as error:
        system.skipped = str(error)
        tell(f"  {design.name} is omitted: {error}")
    else:
        tell(f"  {system.runs[-1].rate:,.0f} events/s")


def _load_design(
    settings: Settings, design: Design, system: System, rate: float, seconds: float, tell: Tell
) -> None:
    """One open-loop load on a design."""
    try:
        system.latency.append(_their_latency(settings, design, rate, seconds))
    except UnavailableError as error:
        tell(f"  {design.name} at {rate:,.0f}/s: {error}")
    else:
        tell(f"  {design.name}: {_told(system.latency[-1])}")


def _our_latency(
    settings: Settings, rates: tuple[float, ...], seconds: float, history: int, tell: Tell
) -> list[LatencyRun]:
    """Loads one after the other on a worker that has a history."""
    tell(f"latency: {history:,} transactions of history first")
    backlog.fill(settings, history, 99)
    worker = backlog.new_worker(settings)
    found = []
    with Workers([worker]) as workers:
        workers.await_ready()
        asyncio.run(backlog.await_rows(settings, history, workers))
        warm_up = latency.live_load(rates[0], min(seconds, _WARM_UP_SECONDS), 100)
        latency.measure(settings, worker, workers, warm_up, rates[0])
        for seed, rate in enumerate(rates, start=101):
            load = latency.live_load(rate, seconds, seed)
            try:
                found.append(latency.measure(settings, worker, workers, load, rate))
            except UnavailableError as error:
                tell(f"  {error}")
                break
            tell(f"  {_told(found[-1])}")
    return found


def _their_latency(settings: Settings, design: Design, rate: float, seconds: float) -> LatencyRun:
    """One load on a fresh process, behind a warm-up that it has taken."""
    warm_up = latency.live_load(rate, _WARM_UP_SECONDS, 100)
    load = latency.live_load(rate, seconds, 101)
    before = len(warm_up)
    with Peer(
        settings,
        design.command,
        before + len(load),
        warm_up=before,
        environ={**dict(design.environ), "BENCH_LIVE": "1"},
    ) as peer:
        latency.offer(settings, warm_up)
        peer.await_begin()
        time.sleep(_CATCH_UP_SECONDS)
        latency.offer(settings, load)
        work = peer.await_end().work
    return LatencyRun(rate, len(load), work["latency_ms"], load.behind_ms())


def _told(load: LatencyRun) -> str:
    marks = ", ".join(f"{name} {value:.1f} ms" for name, value in load.quantiles_ms.items())
    return f"{load.rate:,.0f}/s: {marks}; producer behind {load.behind_ms['p99']:.1f} ms (p99)"
