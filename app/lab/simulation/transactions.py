"""What a simulation returns: columns, sorted by event time, and the records made of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.lab.simulation.frauds import KINDS

#: Rows turned into text at a time: large enough to be fast, small enough for memory not to show.
CHUNK = 10_000


@dataclass(frozen=True)
class Names:
    """How numbers become identifiers and amounts: `s7-0000012`, `C00042`, `T00123`, 57.10 EUR.

    Attributes:
        run: prefix of transaction ids.
        currency: ISO 4217 code of every transaction.
        minor_digits: digits after the decimal point in that currency.
        widths: least digits of a transaction's, a card's and a terminal's number.
    """

    run: str
    currency: str
    minor_digits: int
    widths: tuple[int, int, int]

    def cards(self, count: int) -> list[str]:
        """Identifiers of the first so many cards."""
        return _identifiers("C", np.arange(count), self.widths[1]).tolist()

    def terminals(self, count: int) -> list[str]:
        """Identifiers of the first so many terminals."""
        return _identifiers("T", np.arange(count), self.widths[2]).tolist()

    def amount(self, minor: int) -> str:
        """The amount as a decimal literal in major units, with all its digits."""
        if not self.minor_digits:
            return str(minor)
        whole, part = divmod(minor, 10**self.minor_digits)
        return f"{whole}.{part:0{self.minor_digits}d}"


@dataclass(frozen=True)
class SimulatedTransactions:
    """Labelled transactions, row i of every array being transaction i; sorted by event time.

    Attributes:
        number: transaction numbers, int64 (the position in time order).
        card: card numbers, int32.
        terminal: terminal numbers, int32; -1 is none.
        amount_minor: amounts in minor units, int64.
        event_time_ms: epoch milliseconds, int64.
        kind: 0 for none, else 1 amount, 2 terminal, 3 card (`frauds.KINDS`), int8.
        names: how numbers become identifiers.
    """

    number: np.ndarray
    card: np.ndarray
    terminal: np.ndarray
    amount_minor: np.ndarray
    event_time_ms: np.ndarray
    kind: np.ndarray
    names: Names

    def __len__(self) -> int:
        return len(self.number)

    @property
    def is_fraud(self) -> np.ndarray:
        """The label, bool."""
        return self.kind > 0

    @property
    def transaction_id(self) -> np.ndarray:
        """Identifiers, numpy strings."""
        return _identifiers(f"{self.names.run}-", self.number, self.names.widths[0])

    @property
    def card_id(self) -> np.ndarray:
        """Card identifiers, numpy strings."""
        return _identifiers("C", self.card, self.names.widths[1])

    @property
    def terminal_id(self) -> np.ndarray:
        """Terminal identifiers, numpy strings; empty where there is no terminal."""
        named = _identifiers("T", np.maximum(self.terminal, 0), self.names.widths[2])
        return np.where(self.terminal < 0, "", named)

    @property
    def event_time(self) -> np.ndarray:
        """Event times as ISO 8601 text in UTC with milliseconds, numpy strings ending in Z."""
        times = self.event_time_ms.astype("datetime64[ms]")
        return np.datetime_as_string(times, unit="ms", timezone="UTC")

    @property
    def fraud_kind(self) -> np.ndarray:
        """Names of the kinds, numpy strings."""
        return np.array(KINDS)[self.kind]

    def take(self, rows: np.ndarray | slice) -> "SimulatedTransactions":
        """The chosen rows, in the chosen order."""
        return SimulatedTransactions(
            self.number[rows],
            self.card[rows],
            self.terminal[rows],
            self.amount_minor[rows],
            self.event_time_ms[rows],
            self.kind[rows],
            self.names,
        )

    def chunks(self) -> Iterator["SimulatedTransactions"]:
        """The same rows in pieces of at most `CHUNK`."""
        for begin in range(0, len(self), CHUNK):
            yield self.take(slice(begin, begin + CHUNK))

    def records(self) -> Iterator[dict[str, Any]]:
        """Input records as dicts, without labels; the amount is a number in major units."""
        digits = self.names.minor_digits
        for part in self.chunks():
            for transaction, card, terminal, minor, when in part.rows():
                record: dict[str, Any] = {"transaction_id": transaction, "card_id": card}
                if terminal:
                    record["terminal_id"] = terminal
                record["amount"] = minor / 10**digits if digits else minor
                record["currency"] = self.names.currency
                record["event_time"] = when
                yield record

    def pairs(self) -> Iterator[tuple[bytes, bytes]]:
        """Kafka key and value (JSON) of each input record, without labels."""
        for key, line, _label in self.lines():
            yield key, line

    def lines(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Kafka key, JSON and kind of each transaction."""
        currency, amount = self.names.currency, self.names.amount
        for part in self.chunks():
            kinds = part.kind.tolist()
            for (transaction, card, terminal, minor, when), kind in zip(
                part.rows(), kinds, strict=True
            ):
                # identifiers are of our own making: nothing in them needs escaping
                place = f'"terminal_id":"{terminal}",' if terminal else ""
                line = (
                    f'{{"transaction_id":"{transaction}","card_id":"{card}",{place}"amount":'
                    f'{amount(minor)},"currency":"{currency}","event_time":"{when}"}}'
                )
                yield card.encode(), line.encode(), kind

    def rows(self) -> Iterator[tuple[str, str, str, int, str]]:
        """Transaction id, card id, terminal id ("" for none), minor units and ISO event time."""
        return zip(
            self.transaction_id.tolist(),
            self.card_id.tolist(),
            self.terminal_id.tolist(),
            self.amount_minor.tolist(),
            self.event_time.tolist(),
            strict=True,
        )


def _identifiers(prefix: str, numbers: np.ndarray, width: int) -> np.ndarray:
    return np.strings.add(prefix, np.strings.zfill(numbers.astype("U"), width))
