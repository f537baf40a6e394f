"""The order in which records arrive: in time order, or disturbed on purpose for tests and demos."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from app.errors import UsageError
from app.lab.simulation.broken import broken_record
from app.lab.simulation.frauds import DAY_MS
from app.lab.simulation.transactions import SimulatedTransactions

#: Stands where a kind of fraud would, for a record that is no transaction.
BROKEN = -1


@dataclass(frozen=True)
class Disorder:
    """What goes wrong on the way; each share is relative to the number of transactions, 0 to 1.

    Attributes:
        out_of_order: arrive after a newer transaction of the same card, but not late.
        late: arrive after a transaction of the same card that is newer by more than the lateness.
        duplicates: arrive a second time, within a day of event time.
        broken: further records that can never become a transaction.
        lateness_ms: what a card's records may be behind, milliseconds.

    The shares are upper bounds: a card's last transactions have no newer one to be behind of.
    """

    out_of_order: float = 0.0
    late: float = 0.0
    duplicates: float = 0.0
    broken: float = 0.0
    lateness_ms: int = DAY_MS

    def __post_init__(self) -> None:
        """Refuse shares outside 0 to 1.

        Raises:
            UsageError: a share is out of range; the text names it.
        """
        for name in ("out_of_order", "late", "duplicates", "broken"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"{name} must be from 0 to 1, not {getattr(self, name)}"
                raise UsageError(msg)
        if self.out_of_order + self.late > 1:
            msg = f"out_of_order and late together are {self.out_of_order + self.late}, more than 1"
            raise UsageError(msg)


@dataclass(frozen=True)
class Deliveries:
    """Records in the order of their arrival.

    Attributes:
        transactions: all of them, by event time.
        order: a row of `transactions` for each arrival, or -1 - n for the n-th broken record.
        out_of_order: rows of `transactions` that arrive out of order.
        late: rows of `transactions` that arrive late.
        duplicates: rows of `transactions` that arrive twice.
    """

    transactions: SimulatedTransactions
    order: np.ndarray
    out_of_order: np.ndarray
    late: np.ndarray
    duplicates: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    @property
    def broken(self) -> int:
        """How many arrivals are broken records."""
        return int(np.count_nonzero(self.order < 0))

    @property
    def valid(self) -> SimulatedTransactions:
        """The transactions as they arrive, repeated ones repeated, without the broken records."""
        return self.transactions.take(self.order[self.order >= 0])

    def lines(self) -> Iterator[tuple[bytes | None, bytes, int]]:
        """Kafka key, record and kind of fraud (`BROKEN` for a broken one) of each arrival."""
        valid = self.valid.lines()
        if not self.broken:
            yield from valid
            return
        for row in self.order.tolist():
            if row >= 0:
                yield next(valid)
            else:
                key, value = broken_record(-1 - row, self.transactions.names)
                yield key, value, BROKEN

    def pairs(self) -> Iterator[tuple[bytes | None, bytes]]:
        """Kafka key and record of each arrival, without labels."""
        for key, value, _kind in self.lines():
            yield key, value


def deliver(
    transactions: SimulatedTransactions, disorder: Disorder | None = None, *, seed: int = 1
) -> Deliveries:
    """Say in which order the transactions arrive.

    Args:
        transactions: sorted by event time.
        disorder: what goes wrong; None: nothing.
        seed: chooses the records that it happens to.
    """
    disorder = disorder or Disorder()
    rng = np.random.default_rng([seed, 2])  # apart from the draws of the simulation itself
    count = len(transactions)
    position = np.arange(count, dtype=np.float64)
    shuffled = rng.permutation(count)
    cut = round(disorder.out_of_order * count)
    early, behind = shuffled[:cut], shuffled[cut : cut + round(disorder.late * count)]
    # only what stays in its place may be overtaken: so nothing else changes its standing
    still = np.ones(count, dtype=bool)
    still[early] = still[behind] = False
    early, anchor = _overtaken(transactions, early, still, 0, disorder.lateness_ms)
    position[early] = anchor + 0.25
    behind, anchor = _overtaken(transactions, behind, still, disorder.lateness_ms, None)
    position[behind] = anchor + 0.5

    prompt = np.ones(count, dtype=bool)
    prompt[behind] = False  # a late one may already have left the card's window: not recognisable
    again = rng.permutation(np.flatnonzero(prompt))[: round(disorder.duplicates * count)]
    times = transactions.event_time_ms
    next_day = np.searchsorted(times, times[again] + DAY_MS)
    gap = rng.random(len(again)) * np.maximum(1, next_day - again)
    extra = round(disorder.broken * count)
    places = np.concatenate((position, position[again] + gap, rng.random(extra) * count))
    rows = np.concatenate((np.arange(count), again, -1 - np.arange(extra)))
    order = rows[np.argsort(places, kind="stable")]
    return Deliveries(transactions, order, np.sort(early), np.sort(behind), np.sort(again))


def _overtaken(
    transactions: SimulatedTransactions,
    rows: np.ndarray,
    still: np.ndarray,
    beyond_ms: int,
    within_ms: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Those rows that have a later one of their card, and the first such row.

    "Later" is by more than `beyond_ms`, and at most by `within_ms`; only rows that stand `still`
    are looked at.
    """
    if not len(rows):
        return rows, rows
    times = transactions.event_time_ms - transactions.event_time_ms[0]
    span = int(times[-1]) + beyond_ms + 2
    keys = transactions.card.astype(np.int64) * span + times
    others = np.flatnonzero(still)
    others = others[np.argsort(keys[others], kind="stable")]
    if not len(others):
        return rows[:0], rows[:0]
    at = np.searchsorted(keys[others], keys[rows] + beyond_ms, side="right")
    anchor = others[np.minimum(at, len(others) - 1)]
    found = (at < len(others)) & (transactions.card[anchor] == transactions.card[rows])
    if within_ms is not None:
        found &= times[anchor] - times[rows] <= within_ms
    return rows[found], anchor[found]
