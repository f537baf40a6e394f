"""Cards with their habits and terminals with their places, on a map of 100 by 100."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree  # type: ignore[import-untyped]

#: Side of the square map. Only distances relative to each other matter.
MAP_SIDE = 100.0
#: A card uses this share of all terminals: those nearest to its home.
NEARBY_SHARE = 0.008
#: ... but at least and at most so many, so that small and large maps stay plausible.
NEARBY_LIMITS = (5, 64)


@dataclass(frozen=True)
class Population:
    """Cards and terminals; row i of every array is card (or terminal) number i.

    Attributes:
        mean_amount: usual amount of a card, major units.
        daily: transactions of a card a day, on average.
        hour: time of day around which a card pays, hours in UTC.
        hour_spread: standard deviation of that time, hours.
        nearby: terminal numbers that a card uses, shape (cards, terminals within reach).
        terminals: number of terminals.
    """

    mean_amount: np.ndarray
    daily: np.ndarray
    hour: np.ndarray
    hour_spread: np.ndarray
    nearby: np.ndarray
    terminals: int

    @property
    def cards(self) -> int:
        """Number of cards."""
        return len(self.daily)


def populate(rng: np.random.Generator, cards: int, terminals: int) -> Population:
    """Draw habits and places.

    Amounts average 5 to 100 and frequencies 0 to 4 a day, evenly spread over the cards, as in the
    simulator that the Fraud Detection Handbook describes.
    """
    homes = rng.uniform(0, MAP_SIDE, (cards, 2))
    places = rng.uniform(0, MAP_SIDE, (terminals, 2))
    low, high = NEARBY_LIMITS
    reach = min(terminals, max(low, min(high, round(terminals * NEARBY_SHARE))))
    _, nearby = KDTree(places).query(homes, k=reach)
    return Population(
        mean_amount=rng.uniform(5, 100, cards),
        daily=rng.uniform(0.02, 4, cards),  # never quite 0: a share of nothing has no card to draw
        hour=rng.normal(13, 3, cards),
        hour_spread=rng.uniform(1.5, 5, cards),
        nearby=np.reshape(nearby, (cards, reach)).astype(np.int32),
        terminals=terminals,
    )
