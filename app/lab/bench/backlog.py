"""Throughput: how long a backlog takes from the first output to the last acknowledged row."""

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from app.devstack.ports import free_run
from app.errors import UnavailableError, VerificationError
from app.kafka.clients import admin
from app.kafka.topic_admin import log_ends
from app.lab.bench.cpu_use import CpuClock, server_pids
from app.lab.bench.deployment import committed, environment, first_record
from app.lab.bench.filled_state import fill_state
from app.lab.bench.histogram import WorkerPage
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.lab.supervisor import Workers
from app.lab.worker_processes import WorkerProcess
from app.ops.produce import produce, produce_with_labels, quiet_client
from app.ops.producing.following import following
from app.ops.verify import verify
from app.settings import Settings
from app.topics import Topics

#: Simulated history that a run replays: enough for windows to fill.
CARDS, TERMINALS = 5_000, 10_000
#: Longest that a run may take; a stuck one says so.
RUN_SECONDS = 900.0
_POLL_SECONDS = 0.1
_LABEL_AFTER_MS = 86_400_000


@dataclass
class Throughput:
    """One run over a backlog.

    Attributes:
        events: transactions, all of them in Cassandra at the end.
        seconds: from the first output (a peer: its first event) to the last acknowledged row.
        cpu_us: CPU microseconds an event, by process (worker, kafka, cassandra).
        memory_mib: resident memory at the end, by process.
        work: what was done, where that may differ from one event a row.
    """

    events: int
    seconds: float
    cpu_us: dict[str, float] = field(default_factory=dict)
    memory_mib: dict[str, float] = field(default_factory=dict)
    work: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"events_per_second": self.rate, **asdict(self)}


def fill(
    settings: Settings,
    events: int,
    seed: int,
    *,
    cards: int = CARDS,
    terminals: int = TERMINALS,
    labels: bool = False,
    past: bool = False,
) -> int:
    """Put a simulated history, up to now, on `transactions`.

    Args:
        settings: the deployment.
        events: how many transactions.
        seed: every draw follows from it.
        cards: how many.
        terminals: how many.
        labels: put what was fraud on `labels`, too, a day of event time behind; the last day is not known yet.
        past: give every card and terminal a state of before, see `fill_state`.

    Returns:
        How many labels there are.
    """
    config = SimulationConfig(cards=cards, terminals=terminals, count=events, seed=seed)
    now_ms = time.time_ns() // 1_000_000
    transactions = simulate(config, now_ms=now_ms)
    if past:
        names, first_ms = transactions.names, int(transactions.event_time_ms[0])
        fill_state(settings, names.cards(cards), names.terminals(terminals), first_ms)
    with quiet_client():  # new partitions may be without a leader for a moment
        if not labels:
            asyncio.run(produce(transactions.pairs(), settings=settings))
            return 0
        times = transactions.event_time_ms.tolist()
        items = (
            (key, line, time_ms, kind > 0)
            for (key, line, kind), time_ms in zip(transactions.lines(), times, strict=True)
        )
        both = following(items, after_ms=_LABEL_AFTER_MS, now_ms=now_ms, rest=False)
        _, labelled = asyncio.run(produce_with_labels(both, settings=settings))
        return labelled.records


def new_worker(settings: Settings) -> WorkerProcess:
    """A worker of this deployment, not started."""
    port = free_run(1)
    return WorkerProcess(port, settings.home / "workers" / str(port), environ=environment(settings))


def servers_of(settings: Settings) -> dict[str, int | None]:
    """Pids of the local servers that a bench deployment runs on."""
    return server_pids(settings.home.parent.parent)


def measure(settings: Settings, events: int, *, workers: int = 1, labels: int = 0) -> Throughput:
    """Run workers over the backlog that is there.

    Args:
        settings: a deployment whose `transactions` holds the backlog.
        events: how many transactions that are, all of them good.
        workers: how many share the work.
        labels: how many labels there are beside it: the run ends when they are done, too.

    Raises:
        UnavailableError: a worker ended, or it takes too long.
    """
    topics = Topics(settings)
    team = [new_worker(settings) for _ in range(workers)]
    with Workers(team) as running:
        running.await_ready()
        servers = servers_of(settings)
        clock = CpuClock({f"worker{n or ''}": one.pid for n, one in enumerate(team)} | servers)
        # the first of several workers does not wait for the last to be ready
        before = sum(WorkerPage.of(worker).rows for worker in team)
        asyncio.run(await_rows(settings, events, running))
        labelled = asyncio.run(await_committed(settings, topics.labels.name, labels, running))
        refuse_restarts(running)
        cpu, memory = clock.us_per_event(max(1, events - before)), clock.memory_mib()
        pages = [WorkerPage.of(worker) for worker in team]
    began = asyncio.run(first_record(settings, topics.enriched.name))
    seconds = max(labelled, *(page.last_row for page in pages)) - began
    names = [name for name in cpu if name.startswith("worker")]
    for figures in (cpu, memory):
        total = sum(figures.pop(name) for name in names)
        figures["worker"] = total
    order = ("worker", *servers)
    return Throughput(
        events,
        seconds,
        {name: cpu[name] for name in order if name in cpu},
        {name: memory[name] for name in order if name in memory},
        ({"rows_by_worker": [page.rows for page in pages]} if workers > 1 else {})
        | ({"labels": labels} if labels else {}),
    )


def refuse_restarts(workers: Workers) -> None:
    """A run in which a worker ended and was started again is not one to measure.

    Raises:
        UnavailableError: there was one; the text says why it ended.
    """
    if workers.restarts:
        said = [
            line
            for worker in workers.all
            for line in worker.log.read_text(errors="replace").splitlines()
            if line.startswith("fraudstream: ")
        ]
        why = said[-1].removeprefix("fraudstream: ") if said else "it did not say why"
        msg = f"a worker was restarted {workers.restarts} times during the measurement: {why}"
        raise UnavailableError(msg)


async def await_rows(settings: Settings, events: int, workers: Workers) -> None:
    """Wait until so many predictions are stored and committed.

    Raises:
        UnavailableError: a worker ended, or it takes too long.
    """
    await await_committed(settings, Topics(settings).predictions.name, events, workers)


async def await_committed(settings: Settings, topic: str, records: int, workers: Workers) -> float:
    """Wait until so many records of a topic are done.

    Returns:
        When that was so, epoch seconds, as commits tell; 0 where there was nothing to wait for.

    Raises:
        UnavailableError: a worker ended, or it takes too long.
    """
    deadline, done_at = time.monotonic() + RUN_SECONDS, 0.0
    async with admin(settings) as client:
        while (done := await committed(client, settings, topic)) < records:
            workers.check()
            if time.monotonic() > deadline:
                held = sum((await log_ends(settings, topic)).values())
                msg = (
                    f"after {RUN_SECONDS:.0f} s the workers have finished {done:,} of {records:,} records of {topic}, "
                    f"which has {held:,}: giving up"
                )
                raise UnavailableError(msg)
            await asyncio.sleep(_POLL_SECONDS)
            done_at = time.time()
    return done_at


def check(settings: Settings) -> dict[str, int]:
    """`fraudstream verify` of what a run has left; returns its counts.

    Raises:
        VerificationError: something is pending, missing or different: the figure is worth nothing.
    """
    report = asyncio.run(verify(settings, timeout_seconds=30, examples=1, progress=lambda *_: None))
    if not report.passed:
        shown = ", ".join(f"{number:,} {name}" for name, number in report.counts.items())
        msg = f"the measured run does not verify: {shown}"
        raise VerificationError(msg)
    return dict(report.counts)
