"""Simulate card transactions with labels: seeded, the same for the same arguments.

```text
population  cards with a home and habits, terminals with places
activity    how often, when, how much, at which of the nearby terminals
frauds      three kinds, each found by another feature
arrivals    optional: out of order, late, repeated and broken records
```

The model follows the description of the published simulator of the Fraud Detection Handbook
(Le Borgne, Siblini, Lebichot, Bontempi); amounts, counts and times here are drawn for all
transactions at once. Times are relative to UTC.
"""

import re
from dataclasses import dataclass

import numpy as np

from app.errors import UsageError
from app.lab.simulation.arrivals import Deliveries, Disorder, deliver
from app.lab.simulation.frauds import AMOUNT_LIMIT, DAY_MS, commit_frauds
from app.lab.simulation.population import Population, populate
from app.lab.simulation.transactions import Names, SimulatedTransactions

__all__ = [
    "Deliveries",
    "Disorder",
    "SimulatedTransactions",
    "SimulationConfig",
    "deliver",
    "simulate",
]

#: Days simulated when neither the days nor the number of transactions are given.
DEFAULT_DAYS = 60
#: Largest number of transactions in one simulation: about 100 bytes of memory each.
MOST_TRANSACTIONS = 100_000_000
#: March 1973, before which the stream takes no event time.
_EARLIEST_MS = 100_000_000_000
_RUN = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class SimulationConfig:
    """What to simulate. Nothing here reads a clock: give `start_ms`, `end_ms` or a `now_ms`.

    Attributes:
        cards: number of cards.
        terminals: number of terminals.
        days: length in whole days; None: as many as `count` needs at the cards' own frequency,
            `DEFAULT_DAYS` without a count.
        count: exact number of transactions; None: what the cards' frequencies give, about two a
            card and day.
        start_ms: first millisecond, epoch; at most one of `start_ms` and `end_ms`.
        end_ms: the millisecond after the last one; None with None for `start_ms`: now.
        seed: every draw follows from it.
        run: prefix of transaction ids; None: `s` and the seed.
        currency: ISO 4217 code.
        minor_digits: digits after the decimal point in that currency.
        without_terminal: share of transactions that name no terminal, 0 to 1.
    """

    cards: int = 5_000
    terminals: int = 10_000
    days: int | None = None
    count: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    seed: int = 1
    run: str | None = None
    currency: str = "EUR"
    minor_digits: int = 2
    without_terminal: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            UsageError: a value is out of range; the text names it.
        """
        numbers = {"cards": self.cards, "terminals": self.terminals, "days": self.days}
        for name, value in numbers.items():
            if value is not None and not 1 <= value <= MOST_TRANSACTIONS:
                msg = f"{name} must be from 1 to {MOST_TRANSACTIONS:,}, not {value:,}"
                raise UsageError(msg)
        if self.count is not None and not 1 <= self.count <= MOST_TRANSACTIONS:
            msg = f"count must be from 1 to {MOST_TRANSACTIONS:,}, not {self.count:,}"
            raise UsageError(msg)
        if self.seed < 0:
            msg = f"seed must not be negative, it is {self.seed}"
            raise UsageError(msg)
        if self.start_ms is not None and self.end_ms is not None:
            msg = "give a start or an end, not both: the other one follows from the days"
            raise UsageError(msg)
        if self.run is not None and not _RUN.fullmatch(self.run):
            msg = f"run {self.run!r} must be 1 to 64 letters, digits, dots, dashes or underscores"
            raise UsageError(msg)
        if not 0 <= self.without_terminal <= 1:
            msg = f"without_terminal must be from 0 to 1, not {self.without_terminal}"
            raise UsageError(msg)


def simulate(config: SimulationConfig, *, now_ms: int | None = None) -> SimulatedTransactions:
    """Draw all transactions.

    Args:
        config: what to simulate.
        now_ms: the present, epoch milliseconds: the end of a simulation that says neither start
            nor end, and what no event time may reach. None: no event time is checked.

    Raises:
        UsageError: the simulation would reach into the future, be too large, or has no time.
    """
    people, activity, crime = (
        np.random.default_rng(child) for child in np.random.SeedSequence(config.seed).spawn(3)
    )
    population = populate(people, config.cards, config.terminals)
    days = _days(config, population)
    start_ms = _start(config, days, now_ms)
    expected = float(population.daily.sum()) * days
    count = config.count or int(activity.poisson(min(expected, 2.0 * MOST_TRANSACTIONS)))
    if count > MOST_TRANSACTIONS:
        msg = f"{count:,} transactions are too many at once: give fewer cards or days"
        raise UsageError(msg)
    card, terminal, amount, event_time = _activity(
        activity, population, count=count, days=days, start_ms=start_ms, config=config
    )
    kind, amount = commit_frauds(
        crime,
        card=card,
        terminal=terminal,
        amount_minor=amount,
        event_time_ms=event_time,
        population=(config.cards, config.terminals),
        period_ms=(start_ms, start_ms + days * DAY_MS),
        limit_minor=AMOUNT_LIMIT * 10**config.minor_digits,
    )
    names = Names(
        config.run or f"s{config.seed}",
        config.currency,
        config.minor_digits,
        (max(7, len(str(count))), _width(config.cards), _width(config.terminals)),
    )
    number = np.arange(len(card), dtype=np.int64)
    return SimulatedTransactions(number, card, terminal, amount, event_time, kind, names)


def _width(population: int) -> int:
    return max(5, len(str(population - 1)))


def _days(config: SimulationConfig, population: Population) -> int:
    if config.days is not None:
        return config.days
    if config.count is None:
        return DEFAULT_DAYS
    return max(1, round(config.count / float(population.daily.sum())))


def _start(config: SimulationConfig, days: int, now_ms: int | None) -> int:
    if config.start_ms is not None:
        start_ms = config.start_ms
    elif (end_ms := config.end_ms if config.end_ms is not None else now_ms) is not None:
        start_ms = end_ms - days * DAY_MS
    else:
        msg = "a simulation needs a start, an end or the present time"
        raise UsageError(msg)
    if now_ms is not None and start_ms < _EARLIEST_MS:
        msg = "the stream accepts no transactions before March 1973: give a later start or end, or fewer days"
        raise UsageError(msg)
    if now_ms is not None and start_ms + days * DAY_MS > now_ms:
        over = -(-(start_ms + days * DAY_MS - now_ms) // DAY_MS)
        msg = (
            f"{days} days from there end up to {over} days in the future: give fewer days or an "
            "earlier start or end"
        )
        raise UsageError(msg)
    return start_ms


def _activity(
    rng: np.random.Generator,
    population: Population,
    *,
    count: int,
    days: int,
    start_ms: int,
    config: SimulationConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Card, terminal, amount (minor units) and time of each transaction, sorted by time.

    Every card pays as a Poisson process; given the total, the transactions fall to the cards in
    proportion to their frequencies. So an exact total bends nothing.
    """
    shares = population.daily / population.daily.sum()
    card = np.repeat(np.arange(population.cards, dtype=np.int32), rng.multinomial(count, shares))
    hour = rng.normal(population.hour[card], population.hour_spread[card])
    within = (np.floor(hour * 3_600_000).astype(np.int64) - start_ms) % DAY_MS
    event_time = start_ms + rng.integers(0, days, count) * DAY_MS + within
    mean = population.mean_amount[card]
    major = rng.normal(mean, mean / 2)
    major = np.where(major < 0, rng.uniform(0, 2 * mean), major)
    amount = np.maximum(1, np.rint(major * 10**config.minor_digits)).astype(np.int64)
    reach = population.nearby.shape[1]
    terminal = population.nearby[card, rng.integers(0, reach, count)]
    terminal = np.where(rng.random(count) < config.without_terminal, np.int32(-1), terminal)
    order = np.argsort(event_time, kind="stable")
    return card[order], terminal[order], amount[order], event_time[order]
