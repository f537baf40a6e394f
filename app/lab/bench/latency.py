"""Latency under an open-loop load: from the moment an event is due to its acknowledged row.

The event time of each transaction is the time at which it is due, so what a slow system makes later
events wait is part of their latency, and so is a producer that falls behind, whose lag is told apart.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from app.errors import UnavailableError
from app.lab.bench.backlog import CARDS, TERMINALS, refuse_restarts
from app.lab.bench.histogram import WorkerPage
from app.lab.simulation.simulate import SimulatedTransactions, SimulationConfig, simulate
from app.lab.supervisor import Workers
from app.lab.worker_processes import WorkerProcess
from app.ops.produce import produce_on_schedule, quiet_client
from app.settings import Settings

#: After a load, what is on its way may take this long, seconds; more means it cannot be carried.
_SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.2


@dataclass
class LatencyRun:
    """One open-loop load.

    Attributes:
        rate: events a second that were due.
        events: how many.
        quantiles_ms: from due time to acknowledged row: p50, p99, p99.9.
        behind_ms: how late the producer itself was: p50, p99 and the most.
        drained_seconds: from the last due time to the last row: far more than the latency where the
            load is more than the system carries.
    """

    rate: float
    events: int
    quantiles_ms: dict[str, float]
    behind_ms: dict[str, float]
    drained_seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class LiveLoad:
    """Transactions whose event time is the time at which they are due.

    Args:
        transactions: whose cards, terminals and amounts are used, in their order.
        rate: events a second.

    Attributes:
        behind: how late each one was sent, seconds.
        ended_at: epoch seconds at which the last one was due.
    """

    def __init__(self, transactions: SimulatedTransactions, rate: float) -> None:
        self.behind: list[float] = []
        self.ended_at = 0.0
        self._rate = rate
        self._amount = transactions.names.amount
        self._currency = transactions.names.currency
        self._rows = list(transactions.rows())  # texts are made before the load, not during it

    def __len__(self) -> int:
        return len(self._rows)

    def items(self) -> Iterator[tuple[float, bytes, bytes]]:
        """Due time in seconds after the first one, key and value; it starts when it is asked first."""
        began, began_at = time.perf_counter(), time.time()
        self.ended_at = began_at + (len(self._rows) - 1) / self._rate
        for number, (transaction, card, terminal, minor, _) in enumerate(self._rows):
            due = number / self._rate
            moment = datetime.fromtimestamp(began_at + due, UTC).isoformat(timespec="milliseconds")
            value = (
                f'{{"transaction_id":"{transaction}","card_id":"{card}","terminal_id":"{terminal}",'
                f'"amount":{self._amount(minor)},"currency":"{self._currency}","event_time":"{moment}"}}'
            )
            yield due, card.encode(), value.encode()
            # the producer has taken it: how late was that?
            self.behind.append(max(0.0, time.perf_counter() - began - due))

    def behind_ms(self) -> dict[str, float]:
        """Lag of the producer: median, 99th percentile and most, milliseconds."""
        ordered = sorted(self.behind)
        at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        return {
            name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000
            for name, q in at.items()
        }


def live_load(rate: float, seconds: float, seed: int) -> LiveLoad:
    """A load of this length; other seeds give other transactions with other ids."""
    config = SimulationConfig(
        cards=CARDS,
        terminals=TERMINALS,
        count=max(1, round(rate * seconds)),
        seed=seed,
        run=f"live{seed}",
    )
    return LiveLoad(simulate(config, now_ms=time.time_ns() // 1_000_000), rate)


def offer(settings: Settings, load: LiveLoad) -> None:
    """Send a load at its times."""
    with quiet_client():
        asyncio.run(produce_on_schedule(load.items(), settings=settings, stamp=False))


def measure(
    settings: Settings, worker: WorkerProcess, workers: Workers, load: LiveLoad, rate: float
) -> LatencyRun:
    """Offer a load to a worker that has nothing else to do, and read what it observed.

    Args:
        settings: the deployment.
        worker: the only worker.
        workers: its supervisor.
        load: from `live_load`.
        rate: its rate, events a second.

    Raises:
        UnavailableError: the worker ended, or still has not stored everything long afterwards.
    """
    before = WorkerPage.of(worker)
    offer(settings, load)
    events = len(load.behind)
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (after := WorkerPage.of(worker)).rows - before.rows < events:
        workers.check()
        if time.monotonic() > deadline:
            msg = (
                f"{_SETTLE_SECONDS:.0f} s after a load of {rate:,.0f} events/s only "
                f"{after.rows - before.rows:,} of {events:,} were stored: this machine cannot sustain it"
            )
            raise UnavailableError(msg)
        time.sleep(_POLL_SECONDS)
    refuse_restarts(workers)
    drained = max(0.0, after.last_row - load.ended_at)
    return LatencyRun(rate, events, after.quantiles_ms(before), load.behind_ms(), drained)
