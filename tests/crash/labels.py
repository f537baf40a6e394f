"""Chargebacks of a crash test's transactions: early, late, corrected, repeated, of nothing, and malformed."""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, NamedTuple

import orjson

from app.domain.event_times import parse_moment_ms
from app.lab.simulation.arrivals import BROKEN

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Outgoing(NamedTuple):
    """A record to be sent: to `labels` or to `transactions`."""

    is_label: bool
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Rates:
    """How many labels there are of each kind, by transaction.

    Attributes:
        labelled: transactions that get one; the kinds in the first block are shares of these.
        early: it comes before its transaction.
        looked_up: it says no more than the transaction's id.
        late: it comes long after others of its day, or after its transaction has left the state.
        corrected: another one follows, or overtakes it, that says the opposite.
        repeated: it comes twice.
        astray: labels of a terminal's transaction that never was: they wait there, and are given up.
        unknown: labels of an id that never was, most of them old, with and without card and terminal: they are
            parked, and given up.
        malformed: what is no label.
    """

    labelled: float = 0.2
    early: float = 0.1
    looked_up: float = 0.1
    late: float = 0.05
    corrected: float = 0.1
    repeated: float = 0.05
    astray: float = 0.003
    unknown: float = 0.003
    malformed: float = 0.003


#: Each is dead at once, for a reason of its own.
MALFORMED: tuple[bytes | None, ...] = (
    None,
    b"{",
    b"[]",
    b'{"is_fraud":true,"labelled_at":1735689600000}',
    b'{"transaction_id":"x","labelled_at":1735689600000}',
    b'{"transaction_id":"x","is_fraud":"maybe","labelled_at":1735689600000}',
    b'{"transaction_id":"x","is_fraud":true}',
    b'{"transaction_id":"x","is_fraud":true,"labelled_at":4102444800000}',
    b'{"transaction_id":"x","is_fraud":true,"labelled_at":1735689600000,"card_id":7.5}',
    b'{"transaction_id":"x","is_fraud":true,"labelled_at":1735689600000,"x":"' + b"x" * 2_048 + b'"}',
)  # fmt: skip
#: Transactions between an early label and its transaction, at most.
_AHEAD = 200


def with_labels(
    lines: Iterable[tuple[bytes | None, bytes, int]], seed: int, rates: Rates | None = None
) -> Iterator[Outgoing]:
    """Transactions, and among them their labels.

    A label stands where event time has come as far as its `labelled_at`, except for early ones; those whose
    time does not come are left out.

    Args:
        lines: key, value and kind of fraud of each record (`BROKEN`: it is no transaction).
        seed: decides what is labelled, and how.
        rates: how many labels of each kind.
    """
    draw = _Draw(seed, rates or Rates())
    ahead: deque[tuple[Outgoing, int]] = deque()
    for key, value, kind in lines:
        at_ms = 0
        if kind != BROKEN:
            record = orjson.loads(value)
            at_ms = parse_moment_ms(record["event_time"])
            yield from draw.labels(record, at_ms, fraud=kind > 0)
        ahead.append((Outgoing(False, key, value), at_ms))
        if len(ahead) > _AHEAD:
            yield from draw.pass_on(*ahead.popleft())
    while ahead:
        yield from draw.pass_on(*ahead.popleft())


class _Draw:
    """What has been drawn and not been sent."""

    def __init__(self, seed: int, rates: Rates) -> None:
        self._rng = Random(f"labels {seed}")
        self._rates = rates
        self._numbers = count()
        self._waiting: list[tuple[int, int, Outgoing]] = []
        self._newest_ms = 0

    def pass_on(self, transaction: Outgoing, at_ms: int) -> Iterator[Outgoing]:
        """A transaction, behind the labels whose time has come with it."""
        self._newest_ms = max(self._newest_ms, at_ms)
        while self._waiting and self._waiting[0][0] <= self._newest_ms:
            yield heapq.heappop(self._waiting)[2]
        yield transaction

    def labels(self, record: dict[str, Any], at_ms: int, *, fraud: bool) -> Iterator[Outgoing]:
        """The labels that a transaction brings about; yields those that are to be sent at once."""
        rng, rates = self._rng, self._rates
        if rng.random() < rates.malformed:
            self._later(at_ms, rng.choice(MALFORMED))
        if rng.random() < rates.unknown:
            place = _place(record)
            place.pop("event_time")
            fields = rng.choice(({}, {"card_id": record["card_id"]}, place))
            name = f"nobody-{next(self._numbers)}"
            said_ms = at_ms - rng.choice((0, 2 * DAY_MS, 30 * DAY_MS))
            self._later(at_ms, _label(name, said_ms, fraud=True, **fields))
        if rng.random() < rates.astray and "terminal_id" in record:
            name = f"astray-{next(self._numbers)}"
            self._later(at_ms, _label(name, at_ms, fraud=True, **_place(record)))
        if rng.random() >= rates.labelled:
            return
        early = rng.random() < rates.early
        days = rng.uniform(20, 50) if rng.random() < rates.late else rng.uniform(0.2, 10)
        labelled_ms = at_ms if early else at_ms + int(days * DAY_MS)
        fields = {} if not early and rng.random() < rates.looked_up else _place(record)
        name = record["transaction_id"]
        value = _label(name, labelled_ms, fraud=fraud, **fields)
        if early:
            yield Outgoing(True, name.encode(), value)
        else:
            self._later(labelled_ms, value)
        if rng.random() < rates.repeated:
            self._later(labelled_ms + rng.randrange(DAY_MS), value)
        if rng.random() < rates.corrected:
            corrected_ms = labelled_ms + rng.choice((0, rng.randrange(3 * DAY_MS)))
            overtakes = rng.random() < 0.3 and not early
            due_ms = labelled_ms - HOUR_MS if overtakes else corrected_ms
            self._later(due_ms, _label(name, corrected_ms, fraud=not fraud, **fields))

    def _later(self, due_ms: int, value: bytes | None) -> None:
        number = next(self._numbers)
        label = Outgoing(True, b"%d" % number, value)
        heapq.heappush(self._waiting, (due_ms, number, label))


def _place(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: record[name] for name in ("card_id", "terminal_id", "event_time") if name in record
    }


def _label(transaction_id: str, labelled_at_ms: int, *, fraud: bool, **fields: Any) -> bytes:
    return orjson.dumps(
        {
            "transaction_id": transaction_id,
            "is_fraud": fraud,
            "labelled_at": labelled_at_ms,
            **fields,
        }
    )
