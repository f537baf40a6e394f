"""Features of many transactions at once, by the stream's own code, with rows in memory instead of tables.

Training, and nothing else, learns from these: a model meets the same numbers later in the stream, to the
bit, because `app/domain` computes both.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.domain.card_stage import CardStage, Enriched
from app.domain.features import Catalogue
from app.domain.terminal_stage import TerminalStage
from app.domain.transaction import Transaction
from app.domain.window_row import RowRules, WindowRow
from app.settings import Settings

#: Called with the number of transactions done so far.
Progress = Callable[[int], None]
_STEP = 10_000


class Columns(Protocol):
    """Transactions in the order of their arrival, row i of every column being transaction i."""

    @property
    def transaction_id(self) -> np.ndarray:
        """Identifiers, strings."""

    @property
    def card_id(self) -> np.ndarray:
        """Cards, strings."""

    @property
    def terminal_id(self) -> np.ndarray:
        """Terminals, strings; empty where there is none."""

    @property
    def amount_minor(self) -> np.ndarray:
        """Amounts in minor units, int64, not negative."""

    @property
    def event_time_ms(self) -> np.ndarray:
        """Epoch milliseconds, int64."""


def catalogue_of(settings: Settings) -> Catalogue:
    """The features that a deployment computes."""
    return Catalogue(settings.windows, settings.minor_unit_digits, settings.timezone)


def compute_features(
    columns: Columns, settings: Settings, progress: Progress | None = None
) -> npt.NDArray[np.float64]:
    """Both stages over all transactions, about 50,000 a second.

    Args:
        columns: the transactions, in the order of their arrival (that of event time, as a rule).
        settings: windows, lateness, caps, currency and time zone.
        progress: told now and then how many are done.

    Returns:
        (n, k) float64, k the catalogue's features in order. The row of a duplicate is NaN: the stream does
        not score it either.
    """
    catalogue = catalogue_of(settings)
    # a single partition: every card is at home in it
    card_stage = CardStage(catalogue, settings.allowed_lateness, lambda _key: 0)
    terminal_stage = TerminalStage(catalogue)
    rules = RowRules(settings.horizon_ms, settings.max_entries_per_key)
    cards: dict[str, WindowRow] = {}
    terminals: dict[str, WindowRow] = {}

    def row_of(rows: dict[str, WindowRow], key: str) -> WindowRow:
        row = rows.get(key)
        if row is None:
            row = rows[key] = WindowRow(key.encode(), rules, lambda _key: None)
        return row

    features = np.full((len(columns.event_time_ms), len(catalogue.names)), np.nan)
    every = zip(
        columns.transaction_id.tolist(),
        columns.card_id.tolist(),
        columns.terminal_id.tolist(),
        columns.amount_minor.tolist(),
        columns.event_time_ms.tolist(),
        strict=True,
    )
    for index, (transaction_id, card_id, terminal_id, minor, event_time_ms) in enumerate(every):
        terminal = terminal_id or None
        transaction = Transaction(transaction_id, card_id, terminal, minor, event_time_ms, b"{}")
        outcome = card_stage.apply(transaction, row_of(cards, card_id), 0)
        if isinstance(outcome, Enriched):
            row = row_of(terminals, terminal) if terminal else None
            counts, _flags = terminal_stage.apply(
                row, event_time_ms, minor, outcome.flags, transaction.id8
            )
            features[index] = outcome.features + counts
        if progress and index % _STEP == 0:
            progress(index)
    if progress:
        progress(len(features))
    return features
