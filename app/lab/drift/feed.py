"""A simulated stream through the code of both stages, in one thread, with rows in memory."""

import copy
import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import orjson

from app.domain.label_outcomes import TerminalStage
from app.domain.transaction import DeadRecordError, hash_id
from app.domain.transaction_outcomes import CardStage, Duplicate, Enriched
from app.lab.drift.faults import Arrival
from app.lab.simulation.simulate import SimulatedTransactions
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.deployed_features import catalogue_of
from app.windows.waiting_labels import MAX_WAITING_LABELS, EntryLabel
from app.windows.window_row import RowRules, WindowRow
from app.wire.input_records import RecordRules, parse_transaction

#: From an event to its append, milliseconds.
_TRAVEL_MS = 50


class Scored(NamedTuple):
    """A transaction with its features.

    Attributes:
        features: in the order of the catalogue.
        flags: of the first stage.
        card, terminal: numbers of their ids; of no terminal 0.
        fraud: what its label will say.
    """

    features: list[float]
    flags: list[str]
    event_time_ms: int
    received_ms: int
    card_id: str
    terminal_id: str
    amount: float
    fraud: bool


class Feed:
    """Both stages of a deployment, and what arrived.

    Args:
        settings: of the deployment.

    Attributes:
        scored: transactions that would be scored, newest last; taken away by whoever looks at them.
        outcomes: what became of each record, newest last: `scored`, `duplicate` or a reason.
        labels: arrival and verdict of each label, newest last.
        now_ms: arrival of the newest record.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._rules = RecordRules.of(settings)
        catalogue = catalogue_of(settings)
        self._unit = 10**settings.minor_unit_digits
        self._cards = CardStage(catalogue, settings.allowed_lateness, lambda _key: 0)
        self._terminals = TerminalStage(catalogue, settings.label_wait, MAX_WAITING_LABELS)
        self._card_rules, self._terminal_rules = row_rules(settings), terminal_rules(settings)
        self._card_rows: dict[str, WindowRow] = {}
        self._terminal_rows: dict[str, WindowRow] = {}
        self._due: list[tuple[int, int, str, int, bytes, bool]] = []
        self._number = 0
        self.scored: list[Scored] = []
        self.outcomes: deque[str] = deque()
        self.labels: deque[tuple[int, bool]] = deque()
        self.now_ms = 0

    def copy(self) -> "Feed":
        """The same state once more; what is done to one does not touch the other."""
        twin = Feed(self.settings)
        for name in ("_card_rows", "_terminal_rows", "_due", "scored", "outcomes", "labels"):
            setattr(twin, name, copy.deepcopy(getattr(self, name)))
        twin._number, twin.now_ms = self._number, self.now_ms  # noqa: SLF001 -- our own
        return twin

    def take(
        self, arrival: Arrival, said: Callable[[bool], bool | None] = lambda fraud: fraud
    ) -> None:
        """A record arrives, after the labels that are due.

        Args:
            arrival: the record.
            said: what becomes of a label that arrives now; None: it does not.
        """
        self.now_ms = max(self.now_ms, arrival.received_ms)
        self._take_labels(said)
        record = arrival.record
        value, key = orjson.dumps(record), record["card_id"].encode()
        try:
            transaction = parse_transaction(value, key, arrival.received_ms, self._rules)
        except DeadRecordError as error:
            self.outcomes.append(error.reason)
            return
        card = _row(self._card_rows, transaction.card_id, self._card_rules)
        outcome = self._cards.apply(transaction, card, 0)
        if not isinstance(outcome, Enriched):
            self.outcomes.append("duplicate" if isinstance(outcome, Duplicate) else "other")
            return
        name = transaction.terminal_id
        row = None
        if name is not None:
            row = _row(self._terminal_rows, name, self._terminal_rules)
        at, id8 = transaction.event_time_ms, transaction.id8
        told, _ = self._terminals.apply(row, at, transaction.minor, outcome.flags, id8)
        self.outcomes.append("scored")
        self.scored.append(
            Scored(
                outcome.features + told,
                outcome.flags,
                at,
                arrival.received_ms,
                transaction.card_id,
                name or "",
                transaction.minor / self._unit,
                arrival.fraud,
            )
        )
        self._number += 1
        due = arrival.received_ms + self.settings.label_delay
        heapq.heappush(self._due, (due, self._number, name or "", at, id8, arrival.fraud))

    def _take_labels(self, said: Callable[[bool], bool | None]) -> None:
        while self._due and self._due[0][0] <= self.now_ms:
            due, _, terminal, at, id8, fraud = heapq.heappop(self._due)
            verdict = said(fraud)
            if verdict is None:
                continue
            self.labels.append((due, verdict))
            if terminal:
                label = EntryLabel(at, id8, verdict, due, due, b"")
                self._terminals.label(self._terminal_rows[terminal], label)


def _row(rows: dict[str, WindowRow], name: str, rules: RowRules) -> WindowRow:
    row = rows.get(name)
    if row is None:
        row = rows[name] = WindowRow(name.encode(), rules, _nothing)
    return row


def _nothing(_key: bytes) -> None:
    return None


def arrivals(transactions: SimulatedTransactions) -> Iterator[Arrival]:
    """Simulated transactions as they arrive, without any fault."""
    times = transactions.event_time_ms.tolist()
    frauds = transactions.is_fraud.tolist()
    for record, at, fraud in zip(transactions.records(), times, frauds, strict=True):
        yield Arrival(record, at, at + _TRAVEL_MS, fraud)


def number_of(identifier: str) -> int:
    """A number for an identifier; 0 for none."""
    return int.from_bytes(hash_id(identifier), "big") >> 1 if identifier else 0
