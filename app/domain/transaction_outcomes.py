"""What becomes of a source record, and the card's features: the first stage, pure.

Decided in this order: dead, moved, refund, duplicate, conflicting, late, in time (see docs/architecture.md). Every
record that names a card advances that card's `last_offset`, whatever becomes of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.domain.features import Catalogue
from app.domain.prediction_flags import CONFLICTING, HIGH_AMOUNT, LATE, OUT_OF_ORDER
from app.domain.transaction import Transaction
from app.windows.entries import UNKNOWN
from app.windows.window_row import NEVER, WindowRow


@dataclass(frozen=True, slots=True)
class Enriched:
    """A transaction that is scored, with its card's features and flags."""

    transaction: Transaction
    features: list[float]
    flags: list[str]


@dataclass(frozen=True, slots=True)
class Misrouted:
    """A transaction in another partition than its key's."""

    partition: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A transaction that its card has seen already: same id, event time and amount."""


@dataclass(frozen=True, slots=True)
class Refund:
    """A transaction with a negative amount: it is stored, and counts for nobody."""


Outcome = Enriched | Misrouted | Refund | Duplicate


class CardStage:
    """Applies valid transactions to their card's row.

    Args:
        catalogue: the features.
        allowed_lateness_ms: behind its card's newest event time, a transaction is late beyond this.
        home_partition: gives the partition that a card belongs to.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        allowed_lateness_ms: int,
        home_partition: Callable[[bytes], int],
    ) -> None:
        self.catalogue = catalogue
        self._lateness = allowed_lateness_ms
        self._home_partition = home_partition

    def apply(
        self,
        transaction: Transaction,
        row: WindowRow,
        partition: int,
        *,
        conflicts: bool | None = None,
    ) -> Outcome:
        """Decide what a transaction is, compute its features, add it to the row.

        Args:
            transaction: a valid transaction.
            row: its card's state; changed in place.
            partition: the partition that it came in.
            conflicts: whether it conflicts, where that was decided before; None: the row decides.
        """
        t = transaction.event_time_ms
        if row.newest_ms == NEVER:  # a card that has been counted here is at home here
            home = self._home_partition(row.key)
            if home != partition:
                return Misrouted(home)
        if transaction.minor < 0:
            return Refund()
        id8 = transaction.id8
        conflicting = False
        if row.has(id8):
            # what would leave for this one is out of sight, whether or not the row has changed since
            for at, minor in _same_id(row, id8, t - row.rules.horizon_ms):
                if at == t and minor in (transaction.minor, UNKNOWN):
                    return Duplicate()
                conflicting = True
        if conflicts is not None:
            conflicting = conflicts
        catalogue = self.catalogue
        own = catalogue.own.codes("card", transaction.own) if transaction.own else ()
        features = catalogue.card(row, t, transaction.minor, own)
        flags = catalogue.inexact("card", row, t)
        late = t < row.newest_ms - self._lateness
        if conflicting:  # whatever its event time: it is the odd one out already
            flags.append(CONFLICTING)
        elif late:
            flags.append(LATE)
        elif t < row.newest_ms:
            flags.append(OUT_OF_ORDER)
        if catalogue.is_high(features):
            flags.append(HIGH_AMOUNT)
        counted = not (late or conflicting)
        row.insert(t, transaction.minor, counted=counted, id8=id8, conflicting=conflicting, own=own)
        return Enriched(transaction, features, flags)


def _same_id(row: WindowRow, id8: bytes, after_ms: int) -> Iterator[tuple[int, int]]:
    """Event time in ms and minor units (or `UNKNOWN`) of the entries after a moment that have this id."""
    for entries, start in row.parts():
        for found in entries.same_id(id8, start):
            if found[0] > after_ms:
                yield found
