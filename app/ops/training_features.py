"""Features of many transactions at once, by the stream's own code, with rows in memory instead of tables.

Training, and nothing else, learns from these: a model meets the same numbers later in the stream, to the
bit, because `app/domain` computes both.
"""

import heapq
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from app.domain.label_outcomes import TerminalStage
from app.domain.transaction import Transaction
from app.domain.transaction_outcomes import CardStage, Enriched
from app.errors import UsageError
from app.settings import Settings
from app.stages.block_rows import row_rules, terminal_rules
from app.stages.deployed_features import catalogue_of
from app.windows.waiting_labels import EntryLabel
from app.windows.window_row import NEVER, RowRules, WindowRow

#: Called with the number of transactions done so far.
Progress = Callable[[int], None]
#: Pieces of work, many enough that all cores end at about the same time.
_PARTS = 16
#: So many transactions take less time than processes to start.
_ALONE = 50_000


class TransactionColumns(Protocol):
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


def compute_features(
    columns: TransactionColumns,
    settings: Settings,
    progress: Progress | None = None,
    *,
    cores: int = 1,
) -> npt.NDArray[np.float64]:
    """Both stages over all transactions, 15,000 to 50,000 a second and core.

    The first stage knows one card at a time, the second one terminal: each is divided among processes by that,
    and every row sees what it would see alone.

    Args:
        columns: the transactions, in the order of their arrival (that of event time, as a rule), with
            `is_fraud` if any feature needs labels (see `labels_of`), and `own` if the deployment has fields of
            its own: their values, (n, k).
        settings: feature sets, windows, lateness, caps, label delay, currency and time zone.
        progress: told now and then how many are done.
        cores: how many processes work.

    Returns:
        (n, k) float64, k the catalogue's features in order. The row of a duplicate is NaN: the stream does
        not score it either.
    """
    catalogue = catalogue_of(settings)
    if catalogue.own.features and getattr(columns, "own", None) is None:
        names = ", ".join(each.name for each in catalogue.own.fields)
        msg = f"these transactions lack the fields of FRAUDSTREAM_CATALOGUE_FILE: {names}"
        raise UsageError(msg)
    labels = labels_of(columns) if any(each.labels for each in catalogue.columns) else None
    count = len(columns.event_time_ms)
    features = np.full((count, len(catalogue.names)), np.nan)
    flags: dict[int, list[str]] = {}
    kept = np.zeros(count, dtype=bool)
    done = _Done(progress)
    processes = cores if count > _ALONE else 1
    with Parallel(n_jobs=processes, return_as="generator_unordered") as parallel:
        for rows, values, flagged in parallel(
            delayed(_card_part)(settings, rows, *_taken(columns, columns.card_id, rows))
            for rows in _parts(columns.card_id)
        ):
            features[rows, : values.shape[1]] = values
            kept[rows] = True
            flags.update(flagged)
            done.add(len(rows))
        times = np.asarray(columns.event_time_ms, np.int64)
        # of all transactions before: labels arrive by the clock of the stream, not of a terminal
        newest = np.maximum.accumulate(np.where(kept, times, NEVER))
        for rows, values in parallel(
            delayed(_terminal_part)(
                settings,
                rows,
                *_taken(columns, columns.terminal_id, rows),
                newest[rows],
                {row: flags[row] for row in rows.tolist() if row in flags},
                labels and labels.of(rows),
            )
            for part in _parts(columns.terminal_id)
            if len(rows := part[kept[part]])
        ):
            features[rows, features.shape[1] - values.shape[1] :] = values
            done.add(len(rows))
    if progress:
        progress(count)
    return features


class _Done:
    """Tells of work that goes over every transaction twice, once in each stage."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._rows = 0

    def add(self, rows: int) -> None:
        self._rows += rows
        if self._progress:
            self._progress(self._rows // 2)


class _Rows(dict[str, WindowRow]):
    """Rows of cards or terminals, each made when it is asked for first; all are in memory."""

    def __init__(self, rules: RowRules) -> None:
        super().__init__()
        self._rules = rules

    def __missing__(self, key: str) -> WindowRow:
        row = self[key] = WindowRow(key.encode(), self._rules, lambda _key: None)
        return row


def _parts(keys: np.ndarray) -> list[npt.NDArray[np.intp]]:
    """The rows of so many keys together, in their order; every row once, no part without any."""
    codes = np.unique(keys, return_inverse=True)[1] % _PARTS
    parts = [np.flatnonzero(codes == part) for part in range(_PARTS)]
    return [part for part in parts if len(part)]


def _taken(
    columns: TransactionColumns, keys: np.ndarray, rows: npt.NDArray[np.intp]
) -> tuple[Any, ...]:
    return (
        columns.transaction_id[rows],
        keys[rows],
        np.asarray(columns.amount_minor)[rows],
        np.asarray(columns.event_time_ms)[rows],
        _own_values(columns, rows),
    )


def _own_values(columns: TransactionColumns, rows: npt.NDArray[np.intp]) -> list[tuple[Any, ...]]:
    own = getattr(columns, "own", None)
    return [()] * len(rows) if own is None else [tuple(values) for values in own[rows].tolist()]


def _card_part(
    settings: Settings,
    rows: npt.NDArray[np.intp],
    transaction_ids: np.ndarray,
    card_ids: np.ndarray,
    minors: np.ndarray,
    times: np.ndarray,
    own: list[tuple[Any, ...]],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], dict[int, list[str]]]:
    """The first stage over some cards: rows that are no duplicates, their features, flags of those that have any."""
    # a single partition: every card is at home in it
    stage = CardStage(catalogue_of(settings), settings.allowed_lateness, lambda _key: 0)
    cards = _Rows(row_rules(settings))
    kept, values, flags = [], [], {}
    every = zip(
        rows.tolist(), transaction_ids.tolist(), card_ids.tolist(), minors.tolist(), times.tolist(),
        own, strict=True,
    )  # fmt: skip
    for row, transaction_id, card_id, minor, event_time_ms, said in every:
        transaction = Transaction(transaction_id, card_id, None, minor, event_time_ms, b"{}", said)
        outcome = stage.apply(transaction, cards[card_id], 0)
        if isinstance(outcome, Enriched):
            kept.append(row)
            values.append(outcome.features)
            if outcome.flags:
                flags[row] = outcome.flags
    return np.array(kept, dtype=np.intp), np.array(values, dtype=np.float64), flags


def _terminal_part(
    settings: Settings,
    rows: npt.NDArray[np.intp],
    transaction_ids: np.ndarray,
    terminal_ids: np.ndarray,
    minors: np.ndarray,
    times: np.ndarray,
    own: list[tuple[Any, ...]],
    newest: np.ndarray,
    flags: dict[int, list[str]],
    labels: "LabelArrivals | None",
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """The second stage over some terminals, of transactions that are no duplicates."""
    stage = TerminalStage(catalogue_of(settings))
    codes = stage.catalogue.own.codes
    terminals = _Rows(terminal_rules(settings))
    values = []
    every = zip(
        rows.tolist(), transaction_ids.tolist(), terminal_ids.tolist(), minors.tolist(), times.tolist(),
        newest.tolist(), own, strict=True,
    )  # fmt: skip
    for place, (row, transaction_id, terminal_id, minor, event_time_ms, now_ms, said) in enumerate(
        every
    ):
        terminal = terminals[terminal_id] if terminal_id else None
        id8 = Transaction(transaction_id, "", None, minor, event_time_ms, b"").id8
        if labels is not None:
            labels.apply(now_ms)
        kept = codes("terminal", said) if said else ()
        told, _flags = stage.apply(
            terminal, event_time_ms, minor, flags.get(row, []), id8, own=kept
        )
        values.append(told)
        if labels is not None and terminal is not None:
            labels.expect(place, terminal, event_time_ms, id8)
    return rows, np.array(values, dtype=np.float64)


class LabelArrivals:
    """The labels of a file, each brought to its terminal when it would have arrived.

    Args:
        fraud: what they say, a transaction each.
        known_at: event times at which they arrive, epoch milliseconds: once the newest event time seen is
            as high. None: with the transaction itself. What is younger than the label delay counts for
            nothing either way, so that it does not matter when within the delay a label comes.
    """

    def __init__(self, fraud: list[bool], known_at: list[int] | None) -> None:
        self._fraud = fraud
        self._known_at = known_at
        self._newest = NEVER
        self._waiting: list[tuple[int, int, WindowRow, EntryLabel]] = []

    def of(self, rows: npt.NDArray[np.intp]) -> "LabelArrivals":
        """Those of some transactions, before any has arrived."""
        fraud, known_at = self._fraud, self._known_at
        return LabelArrivals(
            [fraud[row] for row in rows.tolist()],
            None if known_at is None else [known_at[row] for row in rows.tolist()],
        )

    def expect(self, index: int, row: WindowRow, event_time_ms: int, id8: bytes) -> None:
        """A transaction is in its terminal's row: its label may come from now on."""
        known_at = event_time_ms if self._known_at is None else self._known_at[index]
        label = EntryLabel(event_time_ms, id8, self._fraud[index], known_at, 0, b"")
        if known_at <= self._newest:
            row.label(label)
        else:
            heapq.heappush(self._waiting, (known_at, index, row, label))

    def apply(self, newest_ms: int) -> None:
        """Before a transaction is applied: what has arrived when this is the newest event time seen."""
        self._newest = newest_ms
        while self._waiting and self._waiting[0][0] <= self._newest:
            _, _, row, label = heapq.heappop(self._waiting)
            row.label(label)


def labels_of(columns: TransactionColumns) -> LabelArrivals:
    """The labels of a file: its column `is_fraud`, and `label_known_at_ms` if it has one.

    Raises:
        UsageError: it has no `is_fraud`.
    """
    fraud = getattr(columns, "is_fraud", None)
    if fraud is None:
        msg = (
            "the features of FRAUDSTREAM_FEATURES need labels, and these transactions have none: "
            "choose sets without them, such as label_free"
        )
        raise UsageError(msg)
    known_at = getattr(columns, "label_known_at_ms", None)
    return LabelArrivals(
        np.asarray(fraud, bool).tolist(),
        None if known_at is None else np.asarray(known_at, np.int64).tolist(),
    )
