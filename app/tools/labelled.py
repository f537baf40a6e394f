"""Labelled transactions of a file, for training: the files that `fraudstream produce` reads, with a label."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson
from joblib import Parallel, delayed

from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.input_records import RecordRules, parse_transaction
from app.settings import Settings
from app.tools.producing.amounts import Rounding
from app.tools.producing.columns import Plan, make_plan
from app.tools.producing.records import Converter
from app.tools.producing.sources import JsonSource, MalformedRecordError, Source, open_source
from app.tools.producing.verdicts import verdict

#: Looked for in this order when no label column is named.
USUAL_LABELS = ("is_fraud", "TX_FRAUD")
#: A file is of the past: nothing in it is too early for a broker's clock.
_NO_CLOCK_MS = 1 << 62
#: Rows that one process gets at a time.
_CHUNK_ROWS = 5_000
#: Smaller files are read before another process has started.
_ALONE_BYTES = 2_000_000

Progress = Callable[[int], None]


@dataclass(frozen=True)
class LabelledTransactions:
    """Transactions in the file's order, row i of every array being transaction i.

    Attributes:
        transaction_id, card_id, terminal_id: strings; terminal_id is empty where there is none.
        amount_minor: minor units, int64.
        event_time_ms: epoch milliseconds, int64.
        is_fraud: the label, bool.
        rounded: how many had an amount that was rounded.
    """

    transaction_id: np.ndarray
    card_id: np.ndarray
    terminal_id: np.ndarray
    amount_minor: np.ndarray
    event_time_ms: np.ndarray
    is_fraud: np.ndarray
    rounded: int = 0

    def __len__(self) -> int:
        return len(self.event_time_ms)

    def take(self, rows: slice) -> "LabelledTransactions":
        """These rows alone; `rounded` stays that of all."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})


_COLUMNS = tuple(each.name for each in fields(LabelledTransactions) if each.name != "rounded")


def read_labelled(
    path: Path,
    settings: Settings,
    *,
    label: str | None = None,
    mapping: Mapping[str, str] | None = None,
    zone: ZoneInfo | None = None,
    rounding: Rounding | None = None,
    progress: Progress | None = None,
    cores: int = 1,
) -> LabelledTransactions:
    """Read a whole file; every row must be a valid transaction with a label.

    Args:
        path: CSV, JSON lines (both also gzipped) or Parquet.
        settings: currency and its digits.
        label: column that says what is fraud (0 and 1, true and false); None: one of `USUAL_LABELS`.
        mapping: field of the input record -> column of the file.
        zone: time zone of event times that name none.
        rounding: rounds amounts; None refuses those with more decimals than the currency has.
        progress: told now and then how far the file is read: bytes, or rows of Parquet.
        cores: how many processes make columns of the rows, which takes nine tenths of the time.

    Raises:
        UsageError: a column is missing, or a row is malformed; the text names file and line.
    """
    with open_source(path) as source:
        label = _label_column(path, source.columns, label)
        # only what features and labels need
        plan = make_plan(
            path, source.columns, mapping=mapping, only_known=True, zone=zone, rounding=rounding
        )
        plan = replace(plan, targets={**plan.targets, label: label})
        rules = RecordRules(settings.currency, settings.minor_unit_digits, 0)
        make = delayed(_Maker(plan, rules, label, json=isinstance(source, JsonSource)))
        source.rename(plan.targets)
        chunks, parts = _Chunks(source), []
        processes = cores if path.stat().st_size > _ALONE_BYTES else 1
        with Parallel(n_jobs=processes, return_as="generator") as parallel:
            for part, fault in parallel(make(lines, rows) for lines, rows in chunks):
                if fault:
                    raise UsageError(source.place(*fault))
                parts.append(part)
                if progress:
                    progress(source.position())
        if chunks.fault:
            raise chunks.fault
    if not parts:
        msg = f"{path} holds no transactions"
        raise UsageError(msg)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS
    }
    return LabelledTransactions(**columns, rounded=sum(part.rounded for part in parts))


class _Chunks:
    """Rows of a file with their lines, so many at a time.

    Attributes:
        fault: why it ends where it does, if that is not the file's end.
    """

    def __init__(self, source: Source) -> None:
        self.fault: UsageError | None = None
        self._source = source

    def __iter__(self) -> Iterator[tuple[list[int], list[Any]]]:
        source = self._source
        lines: list[int] = []
        rows: list[Any] = []
        try:
            for row in source:
                lines.append(source.line)
                rows.append(row)
                if len(rows) == _CHUNK_ROWS:
                    yield lines, rows
                    lines, rows = [], []
        except MalformedRecordError as error:
            self.fault = UsageError(source.place(error))
        except UsageError as error:
            self.fault = error
        if rows:
            yield lines, rows


@dataclass(frozen=True)
class _Maker:
    """Makes columns of rows, in any process."""

    plan: Plan
    rules: RecordRules
    label: str
    json: bool

    def __call__(
        self, lines: list[int], rows: list[Any]
    ) -> tuple[LabelledTransactions, tuple[Exception, int] | None]:
        """The columns, and where the rows end before their time, what is wrong there and its line."""
        converter = Converter(self.plan)
        convert: Any = converter.json_row if self.json else converter.table_row
        names: tuple[list[str], list[str], list[str]] = ([], [], [])
        amounts, times, frauds = array("q"), array("q"), array("b")
        fault: tuple[Exception, int] | None = None
        for line, row in zip(lines, rows, strict=True):
            try:
                key, body, _event_ms = convert(row)
                transaction = parse_transaction(body, key, _NO_CLOCK_MS, self.rules)
                frauds.append(verdict(orjson.loads(body).get(self.label), self.label))
            except (DeadRecordError, MalformedRecordError) as error:
                fault = UsageError(str(error)), line
                break
            # only columns are kept: a million transactions are a hundred megabytes, not a thousand
            names[0].append(transaction.transaction_id)
            names[1].append(transaction.card_id)
            names[2].append(transaction.terminal_id or "")
            amounts.append(transaction.minor)
            times.append(transaction.event_time_ms)
        transactions, cards, terminals = (np.array(each, dtype=str) for each in names)
        made = LabelledTransactions(
            transactions,
            cards,
            terminals,
            np.array(amounts, dtype=np.int64),
            np.array(times, dtype=np.int64),
            np.array(frauds, dtype=bool),
            converter.rounded,
        )
        return made, fault


def _label_column(path: Path, columns: tuple[str, ...], label: str | None) -> str:
    wanted = (label,) if label else USUAL_LABELS
    found = next((name for name in wanted if name in columns), None)
    if found is None:
        msg = (
            f"{path} has no column {' or '.join(wanted)} that says what is fraud: "
            f"give --label COLUMN; its columns are {', '.join(columns)}"
        )
        raise UsageError(msg)
    return found
