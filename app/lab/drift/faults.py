"""What breaks in feeds, as functions of one arriving record or label, and how the detectors name it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from app.display import iso
from app.domain.transaction import hash_id
from app.durations import DAY_MS

HOUR_MS = 3_600_000
Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record on its way.

    Attributes:
        record: its fields; the Kafka key is its card.
        event_time_ms: epoch milliseconds, as its field says.
        received_ms: when the broker appends it.
        fraud: what its label will say.
    """

    record: dict[str, Any]
    event_time_ms: int
    received_ms: int
    fraud: bool

    def having(self, **values: Any) -> "Arrival":
        """The same with other fields."""
        return replace(self, record={**self.record, **values})

    def at(self, event_time_ms: int) -> "Arrival":
        """The same with another event time."""
        moved = self.having(event_time=iso(event_time_ms))
        return replace(moved, event_time_ms=event_time_ms)


def _same(arrival: Arrival, _random: Random) -> Iterable[Arrival]:
    return (arrival,)


def _said(fraud: bool, _random: Random) -> bool | None:  # noqa: FBT001 -- what a label says
    return fraud


@dataclass(frozen=True)
class Fault:
    """One thing that breaks.

    Attributes:
        name: for the report.
        text: what happens.
        detector, subject: how it is named (app/quality/drift_comparison.py).
        change: what becomes of a record: any number of others.
        label: what becomes of a label; None: it does not arrive.
    """

    name: str
    text: str
    detector: str
    subject: str
    change: Callable[[Arrival, Random], Iterable[Arrival]] = field(default=_same)
    label: Callable[[bool, Random], bool | None] = field(default=_said)


def _amount(times: float) -> Callable[[Arrival, Random], Iterable[Arrival]]:
    return lambda one, _: (one.having(amount=round(one.record["amount"] * times, 2)),)


def _in(text: str, parts: int) -> int:
    """Which of so many equal parts an identifier belongs to."""
    return int.from_bytes(hash_id(text), "big") % parts


def _comma(one: Arrival, _: Random) -> Iterable[Arrival]:
    return (one.having(amount=f"{one.record['amount']:.2f}".replace(".", ",")),)


def _nightly(one: Arrival, _: Random) -> Iterable[Arrival]:
    """All of a day within the hour after one o'clock."""
    day, rest = divmod(one.event_time_ms, DAY_MS)
    return (one.at(day * DAY_MS + HOUR_MS + rest // 24),)


def _late(one: Arrival, random: Random) -> Iterable[Arrival]:
    return (one.at(one.event_time_ms - 3 * DAY_MS) if random.random() < 0.2 else one,)


def _without_terminal(one: Arrival, _: Random) -> Iterable[Arrival]:
    record = {name: value for name, value in one.record.items() if name != "terminal_id"}
    return (replace(one, record=record),)


def _half_silent(one: Arrival, _: Random) -> Iterable[Arrival]:
    return (one,) if _in(one.record.get("terminal_id", ""), 2) else ()


def _flood(one: Arrival, random: Random) -> Iterable[Arrival]:
    yield one
    if random.random() < 0.5:
        yield one.having(
            transaction_id=f"{one.record['transaction_id']}-again",
            terminal_id="T-FLOOD",
            amount=round(float(random.uniform(1, 100)), 2),
        )


def _cut(name: str, digits: int) -> Callable[[Arrival, Random], Iterable[Arrival]]:
    return lambda one, _: (one.having(**{name: one.record[name][:-digits]}),)


def _shared_cards(one: Arrival, _: Random) -> Iterable[Arrival]:
    return (one.having(card_id=f"C-SHARED-{_in(one.record['card_id'], 20)}"),)


def _resent(one: Arrival, random: Random) -> Iterable[Arrival]:
    yield one
    if random.random() < 0.3:
        yield one


def _dollars(one: Arrival, random: Random) -> Iterable[Arrival]:
    return (one.having(currency="XTS") if random.random() < 0.3 else one,)


def _attack(one: Arrival, random: Random) -> Iterable[Arrival]:
    if random.random() >= 0.1:
        return (one,)
    return (replace(one.having(amount=round(one.record["amount"] * 8, 2)), fraud=True),)


#: Every fault: `fraudstream drift --inject` runs them all.
FAULTS = (
    Fault("cents", "amounts in cents", "distribution", "amount", _amount(100)),
    Fault("doubled", "amounts doubled", "distribution", "amount", _amount(2)),
    Fault("one-amount", "the same amount everywhere", "constant", "amount",
          lambda one, _: (one.having(amount=49.9),)),
    Fault("comma", "amounts with a decimal comma", "dead letters", "invalid_amount", _comma),
    Fault("currency", "30 % in another currency", "dead letters", "foreign_currency", _dollars),
    Fault("zone", "event times of another zone, 6 hours behind", "clock", "event_time",
          lambda one, _: (one.at(one.event_time_ms - 6 * HOUR_MS),)),
    Fault("nightly", "event times of a nightly batch", "hours", "event_time", _nightly),
    Fault("clock-ahead", "a clock 4 minutes ahead", "clock", "event_time",
          lambda one, _: (one.at(one.event_time_ms + 240_000),)),
    Fault("late", "20 % are 3 days late", "late", "event_time", _late),
    Fault("one-terminal", "one terminal id for all", "one value", "terminal_id",
          lambda one, _: (one.having(terminal_id="T-DEFAULT"),)),
    Fault("no-terminal", "no terminal id", "missing", "terminal_id", _without_terminal),
    Fault("terminals-stop", "half of the terminals are silent", "few values", "terminal_id", _half_silent),
    Fault("flood", "one merchant has a third of the transactions", "one value", "terminal_id", _flood),
    Fault("shared-cards", "20 card ids for all cards", "one value", "card_id", _shared_cards),
    Fault("cut-cards", "card ids lose their last digit", "few values", "card_id", _cut("card_id", 1)),
    Fault("cut-ids", "transaction ids lose 4 digits", "conflicts", "transaction_id", _cut("transaction_id", 4)),
    Fault("resent", "30 % are sent twice", "duplicates", "transaction_id", _resent),
    Fault("labels-stop", "no labels", "no labels", "labels", label=lambda _fraud, _random: None),
    Fault("labels-fraud", "10 % of the genuine labels become fraud", "fraud share", "labels",
          label=lambda fraud, random: fraud or bool(random.random() < 0.1)),
    Fault("attack", "10 % are frauds of large amounts", "flagged", "score", _attack),
)  # fmt: skip
