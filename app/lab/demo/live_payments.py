"""Simulated transactions that happen now: the cards of the history go on paying, some are stolen, few are new."""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator

from app.display import iso
from app.lab.demo.fraud_kinds import FIRST_AT_TERMINAL
from app.lab.simulation.frauds import (
    AMOUNT,
    AMOUNT_LIMIT,
    CARD,
    CARD_FACTOR,
    KINDS,
    NONE,
    TERMINAL,
    TERMINAL_SPAN_MS,
)
from app.lab.simulation.transactions import SimulatedTransactions

#: One live transaction in so many is of a stolen card, or of an amount above all usual ones.
_STOLEN_EVERY, _LARGE_EVERY = 60, 200
#: One in so many is of a card that nobody has seen before.
_NEW_EVERY = 50
#: Terminals that a new card uses.
_REACH = 6
#: Transactions whose truth is remembered.
_REMEMBERED = 100_000

#: Terminal and minor units of a payment.
Payment = tuple[str, int]


class LivePayments:
    """Endless payments, each of the moment at which it is taken.

    A card of the history pays as it did before: one of its terminals, about one of its amounts. Terminals that were
    compromised in the history still are, for 28 days.

    Args:
        history: what the cards paid before.
        first: number of the first card that no history has used; also the seed.
        now_ms: the present, epoch milliseconds.
        label_delay_ms: age at which a fraud at a terminal counts for it.
    """

    def __init__(
        self,
        history: SimulatedTransactions,
        first: int,
        now_ms: Callable[[], int],
        label_delay_ms: int = 0,
    ) -> None:
        self._random = random.Random(first)  # noqa: S311 - a seeded simulation, no cryptography
        self._now_ms = now_ms
        self._names = history.names
        self._limit = AMOUNT_LIMIT * 10**history.names.minor_digits
        self._delay_ms = label_delay_ms
        self._next = first
        self._number = 0
        self._past: dict[str, list[Payment]] = {}
        #: when the fraud at a terminal began
        self._compromised: dict[str, int] = {}
        self._kinds: OrderedDict[str, str] = OrderedDict()
        truth = zip(history.kind.tolist(), history.event_time_ms.tolist(), strict=True)
        for (_, card, terminal, minor, _), (kind, when) in zip(history.rows(), truth, strict=True):
            if kind == TERMINAL:
                self._compromised.setdefault(terminal, when)
            elif kind == NONE:
                self._past.setdefault(card, []).append((terminal, minor))
        self._cards = list(self._past)
        self._terminals = sorted({place for past in self._past.values() for place, _ in past})

    def kind_of(self, transaction_id: str) -> str | None:
        """The kind of fraud of a payment that was taken, `none` for none; None: unknown."""
        return self._kinds.get(transaction_id)

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Kafka key and record of one payment after the other."""
        while True:
            now_ms = self._now_ms()
            card = self._card()
            terminal, minor = self._random.choice(self._past[card])
            minor = max(1, round(minor * self._random.uniform(0.7, 1.3)))
            kind, minor = self._fraud(terminal, minor, now_ms)
            self._number += 1
            name = f"{self._names.run}-live-{self._number:06}"
            self._kinds[name] = kind
            if len(self._kinds) > _REMEMBERED:
                self._kinds.popitem(last=False)
            place = f'"terminal_id":"{terminal}",' if terminal else ""
            record = (
                f'{{"transaction_id":"{name}","card_id":"{card}",'
                f'{place}"amount":{self._names.amount(minor)},"currency":"{self._names.currency}",'
                f'"event_time":"{iso(now_ms)}"}}'
            )
            yield card.encode(), record.encode()

    def _fraud(self, terminal: str, minor: int, now_ms: int) -> tuple[str, int]:
        """The kind of fraud that a payment is, and its amount then."""
        if self._random.random() * _STOLEN_EVERY < 1:
            return KINDS[CARD], minor * CARD_FACTOR
        age_ms = now_ms - self._compromised.get(terminal, now_ms - TERMINAL_SPAN_MS)
        if age_ms < TERMINAL_SPAN_MS:
            return KINDS[TERMINAL] if age_ms >= self._delay_ms else FIRST_AT_TERMINAL, minor
        if self._random.random() * _LARGE_EVERY < 1:
            return KINDS[AMOUNT], round(self._limit * self._random.uniform(1.05, 1.8))
        # by the simulation's own rule, any amount above the limit is fraud
        return KINDS[NONE], min(minor, self._limit)

    def _card(self) -> str:
        if self._cards and self._random.random() * _NEW_EVERY >= 1:
            return self._random.choice(self._cards)
        return self._new()

    def _new(self) -> str:
        """A card with a habit of its own, at terminals that others use too."""
        draw, number = self._random, self._next
        self._next += 1
        mean = draw.uniform(0.05, 0.45) * self._limit  # up to about 100, as in the history
        card = f"C{number:0{self._names.widths[1]}}"
        self._past[card] = [
            (draw.choice(self._terminals or [""]), max(1, round(draw.uniform(0.5, 1.5) * mean)))
            for _ in range(_REACH)
        ]
        self._cards.append(card)
        return card
