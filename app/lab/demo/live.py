"""Simulated transactions that happen now: the cards of the history go on paying, others join them."""

import random
from collections import deque
from collections.abc import Callable, Iterator

from app.formats import iso
from app.lab.simulation.frauds import AMOUNT_LIMIT, CARD_FACTOR
from app.lab.simulation.transactions import SimulatedTransactions

#: One live transaction in so many is of a stolen card, at several times its usual amount.
_STOLEN_EVERY = 60
#: No card pays again before: a few thousand cards at 20 payments a second would soon look stolen, all.
_REST_MS = 3_600_000
#: Terminals that a card without a history uses.
_REACH = 6

#: Terminal and minor units of a payment.
Payment = tuple[str, int]


class LivePayments:
    """Endless payments, each of the moment at which it is taken.

    A card of the history pays as it did before: one of its terminals, about one of its amounts. Half of
    the payments, or more where those cards have paid just now, are of cards that nobody has seen yet.

    Args:
        history: what the cards paid before.
        first: number of the first card and terminal that no history has used; also the seed.
        now_ms: the present, epoch milliseconds.
    """

    def __init__(
        self, history: SimulatedTransactions, first: int, now_ms: Callable[[], int]
    ) -> None:
        self._random = random.Random(first)  # noqa: S311 - a seeded simulation, no cryptography
        self._now_ms = now_ms
        self._names = history.names
        self._limit = AMOUNT_LIMIT * 10**history.names.minor_digits
        self._next = first
        self._number = 0
        self._past: dict[str, list[Payment]] = {}
        for _name, card, terminal, minor, _when in history.rows():
            if minor <= self._limit:
                self._past.setdefault(card, []).append((terminal, minor))
        cards = list(self._past)
        self._random.shuffle(cards)
        #: card and when it may pay again, soonest first
        self._rested = deque((card, 0) for card in cards)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Kafka key and record of one payment after the other."""
        while True:
            now_ms = self._now_ms()
            card = self._card(now_ms)
            terminal, minor = self._random.choice(self._past[card])
            minor = max(1, round(minor * self._random.uniform(0.7, 1.3)))
            if self._random.random() * _STOLEN_EVERY < 1:
                minor *= CARD_FACTOR
            self._number += 1
            place = f'"terminal_id":"{terminal}",' if terminal else ""
            record = (
                f'{{"transaction_id":"{self._names.run}-live-{self._number:06}","card_id":"{card}",'
                f'{place}"amount":{self._names.amount(minor)},"currency":"{self._names.currency}",'
                f'"event_time":"{iso(now_ms)}"}}'
            )
            yield card.encode(), record.encode()

    def _card(self, now_ms: int) -> str:
        known = self._rested and self._rested[0][1] <= now_ms and self._random.random() < 0.5
        card = self._rested.popleft()[0] if known else self._new()
        self._rested.append((card, now_ms + _REST_MS))
        return card

    def _new(self) -> str:
        """A card with a habit of its own and terminals that few others use."""
        draw, number = self._random, self._next
        self._next += 1
        _, card_width, terminal_width = self._names.widths
        mean = draw.uniform(0.05, 0.45) * self._limit  # up to about 100, as in the history
        card = f"C{number:0{card_width}}"
        self._past[card] = [
            (
                f"T{number + draw.randrange(_REACH):0{terminal_width}}",
                max(1, round(draw.uniform(0.5, 1.5) * mean)),
            )
            for _ in range(_REACH)
        ]
        return card
