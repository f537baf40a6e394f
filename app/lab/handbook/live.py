"""The live pass: servers, topics and tables of its own, one worker, transactions and their labels in between."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.cassandra.schema_migration import migrate
from app.cassandra.session import connected
from app.devstack.progress import ConsoleProgress
from app.devstack.stack import Stack
from app.errors import VerificationError
from app.kafka.topic_admin import ensure_topics
from app.lab.bench import backlog
from app.lab.bench.cpu_use import CpuClock, server_pids
from app.lab.bench.deployment import first_record
from app.lab.bench.histogram import WorkerPage
from app.lab.demo.run import watched
from app.lab.handbook import data
from app.lab.handbook.plan import FEATURE_SETS, Plan
from app.lab.handbook.weekly_retraining import Call, Item, Segments, WeeklyRetraining
from app.lab.supervisor import Workers
from app.machine_requirements import require_disk
from app.ops.produce import produce_with_labels, quiet_client
from app.ops.producing.following import following
from app.ops.producing.wait_for_workers import WaitForWorkers
from app.ops.verification.topic_log import open_log, wait_for_workers
from app.settings import Settings, load_settings
from app.topics import Topics
from models.evaluation_sets import DAY_MS

#: What a transaction takes on disk at most, in topics, state and Cassandra together, bytes: 565,000 took 2.8 GB,
#: half of this each, and Cassandra compacts into new files beside the old ones.
_BYTES_A_TRANSACTION = 10_000
#: A label comes a day after its transaction: within the label delay, as those of a working deployment do.
_LABEL_AFTER_MS = DAY_MS
#: Transactions, and labels, that the worker may be behind. Some two days of this data, so that no label comes
#: later in the stream than it counts.
_AHEAD = 20_000
#: Until the worker has finished the last labels, seconds.
_LABELS_SECONDS = 600.0
_HEAPS = {"cassandra": "2g"}


@dataclass(frozen=True)
class Pass:
    """What the live pass took.

    Attributes:
        events: transactions.
        labels: how many labels were sent.
        seconds: from the first output to the last row that Cassandra acknowledged, without the stops for retraining.
        cpu_us: CPU microseconds a transaction and its label, by process; retraining uses Cassandra, too.
        calls: what `fraudstream retrain` did on the way.
    """

    events: int
    labels: int
    seconds: float
    cpu_us: dict[str, float]
    calls: tuple[Call, ...] = ()

    @property
    def rate(self) -> float:
        """Transactions a second, a label for each beside it."""
        return self.events / self.seconds


@contextmanager
def own_home(rows: int) -> Iterator[Path]:
    """A folder that is gone afterwards.

    Args:
        rows: transactions that will be stored below it.

    Raises:
        UnavailableError: the disk is too full for them.
    """
    with tempfile.TemporaryDirectory(
        prefix="fraudstream-handbook-", ignore_cleanup_errors=True
    ) as folder:
        home = Path(folder)
        require_disk(home, rows * _BYTES_A_TRANSACTION, "this run")
        yield home


def own_settings(home: Path, plan: Plan, **more: object) -> Settings:
    """Settings of the run: everything that decides a figure is given, whatever the environment says."""
    return load_settings(
        {
            "home": home,
            "app_id": "handbook",
            "topic_prefix": "handbook-",
            "keyspace": "handbook",
            "retention": "forever",
            "prediction_ttl": "forever",
            "currency": "EUR",
            "timezone": "UTC",
            "field_names": "",
            "features": ",".join(FEATURE_SETS),
            "label_delay": f"{plan.delay_ms}ms",
            "threshold": None,
            # a row of all feature sets has 2 KB, so a batch has twenty: with eight batches at a time the sink fell
            # 370,000 rows behind while the same worker computed, and Cassandra idled
            "sink_in_flight": 64,
            **more,
        }
    )


@contextmanager
def own_servers(home: Path, say: Callable[[str], None]) -> Iterator[Callable[[], dict[str, str]]]:
    """Kafka and Cassandra on free ports; they start beside what is done meanwhile, and are gone afterwards.

    Yields:
        Waits until they answer and gives the settings `broker` and `cassandra`; raises UnavailableError when one
        does not start, the text says why.
    """
    stack = Stack(home, heaps=_HEAPS, progress=ConsoleProgress(say))

    def start() -> dict[str, str]:
        where = stack.up(free_ports=True)
        assert where
        contact = ",".join(f"{host}:{port}" for host, port in where.cassandra)
        return {"broker": where.broker, "cassandra": contact}

    try:
        with ThreadPoolExecutor(1) as beside:  # which is waited for, whatever ends the block
            yield beside.submit(start).result
    finally:
        stack.wipe()


def score(
    settings: Settings,
    path: Path,
    skip: int,
    events: int,
    progress: Callable[[int], None],
    *,
    stops: Iterable[int] = (),
    say: Callable[[str], None] = lambda _line: None,
) -> Pass:
    """Send transactions and labels through one worker, and wait until all of it is stored.

    At each stop everything that was sent is finished and stored, then `fraudstream retrain --promote` is called once.

    Args:
        settings: the deployment, its model included.
        path: the file.
        skip: transactions of the file before the first.
        events: how many.
        progress: told how many transactions were sent; the worker is not far behind.
        stops: moments of event time, epoch milliseconds, in order.
        say: told what each call did.

    Raises:
        UnavailableError: the worker ended or does nothing.
        VerificationError: labels were not finished.
    """
    asyncio.run(ensure_topics(settings, Topics(settings).all))
    with connected(settings) as session:
        migrate(session, settings, say=lambda _: None)
    # two workers took as long (614 s a pass, 620 with one): what runs beside them has both cores busy
    worker = backlog.new_worker(settings)
    with (
        Workers([worker]) as workers,
        quiet_client(),
        data.open_span(path, settings, skip, events) as reading,
    ):
        retraining = WeeklyRetraining(settings, workers, say)
        now_ms = time.time_ns() // 1_000_000
        items = Segments(following(reading.labelled(), after_ms=_LABEL_AFTER_MS, now_ms=now_ms))
        workers.await_ready()
        clock = CpuClock({"worker": worker.pid, **server_pids(settings.home)})
        sent = labels = 0
        paused = 0.0
        for stop in (*stops, None):
            sending = _send(settings, items.until(stop), _further(progress, sent))
            more, labelled = asyncio.run(watched(sending, workers))
            sent, labels = sent + more, labels + labelled
            asyncio.run(backlog.await_rows(settings, sent, workers))
            asyncio.run(_await_labels(settings))
            if stop is not None:
                began = time.monotonic()
                retraining(stop)
                paused += time.monotonic() - began
        backlog.refuse_restarts(workers)
        cpu = clock.us_per_event(events)
        last_row = WorkerPage.of(worker).last_row
    first = asyncio.run(first_record(settings, Topics(settings).enriched.name))
    return Pass(events, labels, last_row - first - paused, cpu, tuple(retraining.calls))


def _further(progress: Callable[[int], None], sent: int) -> Callable[[int], None]:
    return lambda more: progress(sent + more)


async def _send(
    settings: Settings, items: Iterable[Item], progress: Callable[[int], None]
) -> tuple[int, int]:
    """Send some items; how many transactions and labels they were."""
    async with open_log(settings) as log:
        sent, labels = await produce_with_labels(
            items,
            settings=settings,
            wait_for_workers=WaitForWorkers(log, _AHEAD),
            on_progress=progress,
        )
    return sent.records, labels.records


async def _await_labels(settings: Settings) -> None:
    async with open_log(settings) as log:
        reached = await wait_for_workers(log, _LABELS_SECONDS, lambda *_: None)
    behind = sum(
        max(0, end - done)
        for role, ends in reached.ends.items()
        for end, done in zip(ends, reached.done[role], strict=True)
    )
    if behind:
        msg = f"the worker left {behind:,} records unprocessed for {_LABELS_SECONDS:.0f} s"
        raise VerificationError(msg)
