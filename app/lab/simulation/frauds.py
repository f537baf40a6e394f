"""The three kinds of fraud that the Fraud Detection Handbook (Le Borgne et al.) describes.

1. `amount`: every amount above a limit. Easy; checks that a model sees the obvious.
2. `terminal`: a terminal is compromised; all its transactions of the next 28 days are fraud.
   Found by its recent frauds or counts (a skimmer in the reader, phishing).
3. `card`: a card is compromised; in the next 14 days one transaction in three is fraud, its amount
   five times what it would have been. Found by comparing with the card's own average.

Where a transaction is of several kinds, the highest number counts. Compromises begin one span
before the simulated period, so that the share of fraud is the same from the first day to the last.
"""

import numpy as np

#: Names by number; 0 is no fraud.
KINDS = ("none", "amount", "terminal", "card")
NONE, AMOUNT, TERMINAL, CARD = range(4)

#: Amounts above this are fraud, major units.
AMOUNT_LIMIT = 220
DAY_MS = 86_400_000
TERMINAL_SPAN_MS = 28 * DAY_MS
CARD_SPAN_MS = 14 * DAY_MS
#: Compromises of one terminal (card) a day. 2 of 10,000 terminals and 3 of 5,000 cards a day is
#: what the Handbook draws; as rates they keep the share of fraud when the population changes.
TERMINAL_RATE = 2 / 10_000
CARD_RATE = 3 / 5_000
CARD_SHARE = 1 / 3
CARD_FACTOR = 5


def commit_frauds(
    rng: np.random.Generator,
    *,
    card: np.ndarray,
    terminal: np.ndarray,
    amount_minor: np.ndarray,
    event_time_ms: np.ndarray,
    population: tuple[int, int],
    period_ms: tuple[int, int],
    limit_minor: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Say which transactions are fraud, and raise the amounts of stolen cards.

    Args:
        rng: source of the compromises.
        card: card numbers.
        terminal: terminal numbers, -1 for none.
        amount_minor: amounts before fraud, minor units.
        event_time_ms: epoch milliseconds.
        population: number of cards and of terminals.
        period_ms: first millisecond of the simulation and the one after its last.
        limit_minor: amounts above this are fraud of the first kind.

    Returns:
        kind (int8) and amount in minor units of each transaction.
    """
    cards, terminals = population
    kind = np.where(amount_minor > limit_minor, AMOUNT, NONE).astype(np.int8)
    bad_terminal = _compromised(
        rng, terminal, event_time_ms, terminals, TERMINAL_RATE, TERMINAL_SPAN_MS, period_ms
    )
    kind[bad_terminal] = TERMINAL
    stolen = _compromised(rng, card, event_time_ms, cards, CARD_RATE, CARD_SPAN_MS, period_ms)
    stolen &= rng.random(len(card)) < CARD_SHARE
    kind[stolen] = CARD
    return kind, np.where(stolen, amount_minor * CARD_FACTOR, amount_minor)


def _compromised(
    rng: np.random.Generator,
    who: np.ndarray,
    when_ms: np.ndarray,
    population: int,
    rate: float,
    span_ms: int,
    period_ms: tuple[int, int],
) -> np.ndarray:
    """Which transactions fall within `span_ms` after a compromise of their card or terminal."""
    origin = period_ms[0] - span_ms
    length = period_ms[1] - origin
    incidents = rng.poisson(population * rate * length / DAY_MS)
    victim = rng.integers(0, population, incidents)
    begin = rng.integers(0, length, incidents)
    # one sorted number for (victim, begin): the newest beginning at or before a transaction is one
    # binary search away, and as all spans are equally long no other can matter
    starts = np.sort(victim * length + begin)
    if not len(starts):
        return np.zeros(len(who), dtype=bool)
    at = who.astype(np.int64) * length + (when_ms - origin)
    found = np.searchsorted(starts, at, side="right") - 1
    age = at - starts[np.maximum(found, 0)]
    same_victim = starts[np.maximum(found, 0)] // length == who
    return (found >= 0) & same_victim & (age < span_ms)
