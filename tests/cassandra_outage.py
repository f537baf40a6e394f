"""Cassandra goes away while transactions arrive, and comes back: what workers say, take and catch up with."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from app.devstack.stack import Stack
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.lab.worker_processes import WorkerProcess
from app.ops.produce import produce_on_schedule, quiet_client
from tests.crash.watch import Sample, patiently, sample
from tests.deployment import Deployment, wait_until
from tests.fleet import Fleet

#: Load before the outage, and after Cassandra is back, seconds.
LEAD_SECONDS, TAIL_SECONDS = 15.0, 10.0
#: For workers to notice, and to have caught up as far as a second's load.
NOTICE_SECONDS, CATCH_UP_SECONDS = 30.0, 600.0
#: A worker that waits holds some blocks of each partition and not a row more, however long it takes.
MORE_MEMORY_MIB = 150.0
_LOOK_SECONDS = 1.0
#: 2025-01-01T00:00:00Z.
_START_MS = 1_735_689_600_000
_DAY_MS = 86_400_000
#: Transactions of a day of event time.
_A_DAY = 50_000


@dataclass(frozen=True)
class Away:
    """What an outage was like.

    Attributes:
        seconds: Cassandra was away.
        rate: transactions per second, all the time.
        sent: transactions in all.
        waiting: rows that waited when it was back.
        caught_up: seconds until no more than a second's load waited.
        rows: written in that time.
        before, highest: by worker, when it went away, and with the most memory until all was caught up.
    """

    seconds: float
    rate: float
    sent: int
    waiting: int
    caught_up: float
    rows: int
    before: dict[str, Sample]
    highest: dict[str, Sample]

    def __str__(self) -> str:
        memory = ", ".join(
            f"{name} {before.memory_mib:.0f} -> {self.highest[name].memory_mib:.0f} MiB"
            for name, before in self.before.items()
        )
        return (
            f"Cassandra unavailable  {self.seconds:.0f} s\n"
            f"load                   {self.rate:g} transactions per second, throughout\n"
            f"rows that waited       {self.waiting:,}\n"
            f"caught up in           {self.caught_up:.0f} s, at {self.rows / self.caught_up:,.0f} rows per second\n"
            f"memory                 {memory}\n"
            "rebalances             0\n"
            f"transactions           {self.sent:,}, each with its row"
        )


def go_away(
    stack: Stack,
    deployment: Deployment,
    fleet: Fleet,
    *,
    seconds: float,
    rate: float,
    say: Callable[[str], None],
) -> Away:
    """Kill Cassandra under load, start it again, and see that nothing suffers but patience.

    Args:
        stack: its servers.
        deployment: prepared; nothing was ever sent to it.
        fleet: its workers, ready.
        seconds: how long Cassandra is away.
        rate: transactions per second, from before until after.
        say: told what happens.

    Raises:
        AssertionError: a worker ended, lost its partitions, took ever more memory or did not say why it was not
            ready; or something is missing or differs at the end.
    """
    names = list(fleet.running)
    load = _Load(deployment, rate)
    load.start()
    try:
        time.sleep(LEAD_SECONDS)
        watch = _Watch(fleet, names)
        before = dict(watch.highest)
        say(f"killed after {load.sent:,} transactions: {_told(before)}")
        stack.stop("cassandra", kill=True)
        gone = time.monotonic()
        wait_until(
            lambda: _all_wait(fleet, names), "workers to say why they are not ready", NOTICE_SECONDS
        )
        while time.monotonic() < gone + seconds:
            watch.look()
            assert _all_wait(fleet, names), {name: fleet[name].reasons() for name in names}
            time.sleep(_LOOK_SECONDS)
        say(f"back after {load.sent:,} transactions: {_told(watch.highest)}")
        stack.start("cassandra")
        away = time.monotonic() - gone
        waiting, rows = _sink(fleet, names)
        began = time.monotonic()

        while _sink(fleet, names)[0] > rate:
            watch.look()
            assert time.monotonic() < began + CATCH_UP_SECONDS, _sink(fleet, names)
            time.sleep(_LOOK_SECONDS)
        seconds_caught_up, written = time.monotonic() - began, _sink(fleet, names)[1] - rows
        time.sleep(TAIL_SECONDS)
        watch.look()
    finally:
        load.end()
    assert load.error is None, load.error
    deployment.drain()
    fleet.await_ready()
    assert not fleet.restarts
    assert not fleet.waits
    report = deployment.verify()
    assert report["scored"] == report["rows"] == load.sent
    return Away(away, rate, load.sent, waiting, seconds_caught_up, written, before, watch.highest)


def _told(samples: dict[str, Sample]) -> str:
    return "; ".join(f"{name}: {one}" for name, one in samples.items())


def _all_wait(fleet: Fleet, names: list[str]) -> bool:
    fleet.check()
    return all(
        any(reason.startswith("predictions wait for Cassandra: ") for reason in _reasons(fleet[name]))
        for name in names
    )  # fmt: skip


def _reasons(worker: WorkerProcess) -> list[str]:
    """Why a worker is not ready; the machine may be busy, so it has some time to answer."""
    deadline = time.monotonic() + NOTICE_SECONDS
    while (reasons := worker.reasons()) is None:
        assert time.monotonic() < deadline, f"{worker.url} does not answer"
    return reasons


def _sink(fleet: Fleet, names: list[str]) -> tuple[int, int]:
    """Rows that wait, and rows that were written, of all workers."""
    waiting = written = 0.0
    for name in names:
        for family in text_string_to_metric_families(patiently(_metrics, fleet[name])):
            for one in family.samples:
                if one.name == "fraudstream_sink_rows_total":
                    written += one.value
                elif one.name == "fraudstream_consumer_lag_messages":
                    waiting += one.value * (one.labels["stage"] == "sink")
    return int(waiting), int(written)


def _metrics(worker: WorkerProcess) -> str:
    with worker.ask("/metrics") as answer:
        text: str = answer.read().decode()
    return text


class _Watch:
    """Each worker keeps its partitions and does not grow."""

    def __init__(self, fleet: Fleet, names: list[str]) -> None:
        self._workers = {name: fleet[name] for name in names}
        self._before = {name: patiently(sample, worker) for name, worker in self._workers.items()}
        self.highest = dict(self._before)

    def look(self) -> None:
        for name, worker in self._workers.items():
            now, before = patiently(sample, worker), self._before[name]
            assert now.rebalances == before.rebalances, f"{name}: {before}, then {now}"
            assert now.memory_mib <= before.memory_mib + MORE_MEMORY_MIB, (
                f"{name}: {before}, then {now}"
            )
            if now.memory_mib > self.highest[name].memory_mib:
                self.highest[name] = now


class _Load(threading.Thread):
    """Transactions at a steady rate, until it is told to end."""

    def __init__(self, deployment: Deployment, rate: float) -> None:
        super().__init__(name="load", daemon=True)
        self.sent = 0
        self.error: BaseException | None = None
        self._settings = deployment.settings
        self._rate = rate
        self._over = False

    def run(self) -> None:
        try:
            with quiet_client():
                asyncio.run(self._send())
        except Exception as error:
            self.error = error

    async def _send(self) -> Any:
        return await produce_on_schedule(self._paced(), settings=self._settings)

    def _paced(self) -> Iterator[tuple[float, bytes | None, bytes]]:
        for part in range(1_000):
            config = SimulationConfig(
                cards=2_000,
                terminals=1_000,
                days=1,
                count=_A_DAY,
                start_ms=_START_MS + part * _DAY_MS,
                seed=part + 1,
            )
            for key, value in simulate(config).pairs():
                if self._over:
                    return
                yield self.sent / self._rate, key, value
                self.sent += 1

    def end(self) -> None:
        """Send no more, and wait until everything is acknowledged."""
        self._over = True
        self.join()
