"""Labelled transactions of a file, for training: the files that `fraudstream produce` reads, with a label."""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from joblib import Parallel, delayed

from app.domain.features.own_features import OwnField
from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.ops.files.columns import ColumnPlan, FileOptions
from app.ops.files.file_source import MalformedRecordError, Source
from app.ops.files.label_columns import USUAL_LABELS, usual_label
from app.ops.files.opening import open_rows
from app.ops.files.rows_to_records import Converter
from app.ops.files.verdict_columns import verdict
from app.settings import Settings
from app.wire.input_records import RecordRules, parse_transaction
from app.wire.own_features_file import own_of

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
        own: values of the deployment's own fields, a column each.
        rounded: how many had an amount that was rounded.
        refunds: rows with a negative amount, which the stream does not score: they were left out.
        bad: malformed rows that were left out.
        first_bad: what was wrong with the first of them.
    """

    transaction_id: np.ndarray
    card_id: np.ndarray
    terminal_id: np.ndarray
    amount_minor: np.ndarray
    event_time_ms: np.ndarray
    is_fraud: np.ndarray
    own: np.ndarray
    rounded: int = 0
    refunds: int = 0
    bad: int = 0
    first_bad: str | None = None

    def __len__(self) -> int:
        return len(self.event_time_ms)

    def take(self, rows: slice) -> "LabelledTransactions":
        """These rows alone; counts stay those of all."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})


_COUNTS = ("rounded", "refunds", "bad", "first_bad")
_COLUMNS = tuple(each.name for each in fields(LabelledTransactions) if each.name not in _COUNTS)


def read_labelled(
    path: Path,
    settings: Settings,
    options: FileOptions | None = None,
    *,
    label: str | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    cores: int = 1,
) -> LabelledTransactions:
    """Read a whole file; every row must be a valid transaction with a label.

    Args:
        path: CSV, JSON lines (both also gzipped) or Parquet.
        settings: currency and its digits.
        options: how it is read.
        label: the label column; None: the recipe's, or one of the usual names.
        skip_bad: count malformed rows instead of raising.
        progress: told now and then how far the file is read: bytes, or rows of Parquet.
        cores: how many processes make columns of the rows, which takes nine tenths of the time.

    Raises:
        UsageError: a column is missing, or a row is malformed; the text names file and line.
    """
    # only what features and labels need
    own = own_of(settings).fields
    names = tuple(each.name for each in own)
    options = replace(options or FileOptions(), only_known=True, own=names)
    with open_rows(path, options) as (source, planned):
        label = _label_column(source, label or (options.recipe.label if options.recipe else None))
        plan = replace(planned, targets={**planned.targets, label: label})
        rules = replace(
            RecordRules.of(settings), own=()
        )  # files have texts: see `OwnField.from_file`
        make = delayed(_Maker(plan, rules, label, own, json=source.gives_json, skip_bad=skip_bad))
        source.rename(plan.targets)
        chunks, parts, faults = _Chunks(source, skip_bad=skip_bad), [], []
        processes = cores if path.stat().st_size > _ALONE_BYTES else 1
        with Parallel(n_jobs=processes, return_as="generator") as parallel:
            for part, bad in parallel(make(lines, rows) for lines, rows in chunks):
                faults += bad
                parts.append(part)
                if faults and not skip_bad:
                    chunks.ended = True  # joblib warns of tasks that nobody waits for
                if progress:
                    progress(source.position())
        if faults and not skip_bad:
            error, line = faults[0]
            hint = " (--skip-bad skips such rows)" if any(map(len, parts)) else ""
            raise UsageError(source.place(error, line) + hint)
        if chunks.fault:
            raise chunks.fault
        faults = sorted(faults + chunks.bad, key=lambda fault: fault[1])
        first_bad = source.place(*faults[0]) if faults else None
    if not sum(map(len, parts)):
        refunds = sum(part.refunds for part in parts)
        why = [f"{refunds:,} refunds"] if refunds else []
        why += [f"{len(faults):,} malformed rows, the first: {first_bad}"] if faults else []
        msg = ": ".join((f"{path} contains no transactions", *([", ".join(why)] if why else [])))
        raise UsageError(msg)
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS
    }
    rounded, refunds = (
        sum(getattr(part, name) for part in parts) for name in ("rounded", "refunds")
    )
    return LabelledTransactions(
        **columns, rounded=rounded, refunds=refunds, bad=len(faults), first_bad=first_bad
    )


#: What is wrong with a row, and its line.
_Fault = tuple[Exception, int]


class _Chunks:
    """Rows of a file with their lines, so many at a time.

    Attributes:
        fault: why it ends where it does, if that is not the file's end.
        bad: rows that were left out because they cannot be read.
        ended: set it to have no more.
    """

    def __init__(self, source: Source, *, skip_bad: bool) -> None:
        self.fault: UsageError | None = None
        self.bad: list[_Fault] = []
        self.ended = False
        self._source = source
        self._skip_bad = skip_bad

    def __iter__(self) -> Iterator[tuple[list[int], list[Any]]]:
        source = self._source
        lines: list[int] = []
        rows: list[Any] = []
        try:
            while not self.ended:
                try:
                    rows.append(next(source))
                    lines.append(source.line)
                except MalformedRecordError as error:
                    if not self._skip_bad:
                        raise
                    self.bad.append((error, source.line))
                if len(rows) == _CHUNK_ROWS:
                    yield lines, rows
                    lines, rows = [], []
        except StopIteration:
            pass
        except MalformedRecordError as error:
            self.fault = UsageError(source.place(error))
        except UsageError as error:
            self.fault = error
        if rows:
            yield lines, rows


@dataclass(frozen=True)
class _Maker:
    """Makes columns of rows, in any process."""

    plan: ColumnPlan
    rules: RecordRules
    label: str
    own: tuple[OwnField, ...]
    json: bool
    skip_bad: bool

    def __call__(
        self, lines: list[int], rows: list[Any]
    ) -> tuple[LabelledTransactions, list[_Fault]]:
        """The columns, and what is wrong with rows: with the first one, at which they end, or with all."""
        converter = Converter(self.plan)
        convert: Any = converter.json_row if self.json else converter.table_row
        names: tuple[list[str], list[str], list[str]] = ([], [], [])
        amounts, times, frauds = array("q"), array("q"), array("b")
        own: list[list[Any]] = []
        faults: list[_Fault] = []
        refunds = 0
        for line, row in zip(lines, rows, strict=True):
            try:
                key, body, _event_ms = convert(row)
                transaction = parse_transaction(body, key, _NO_CLOCK_MS, self.rules)
                record = orjson.loads(body)
                fraud = verdict(record.get(self.label), self.label)
                said = [each.from_file(record.get(each.name)) for each in self.own]
            except (DeadRecordError, MalformedRecordError) as error:
                faults.append((UsageError(str(error)), line))  # those have no way between processes
                if self.skip_bad:
                    continue
                break
            if transaction.minor < 0:
                refunds += 1
                continue
            frauds.append(fraud)
            # only columns are kept: a million transactions are a hundred megabytes, not a thousand
            names[0].append(transaction.transaction_id)
            names[1].append(transaction.card_id)
            names[2].append(transaction.terminal_id or "")
            amounts.append(transaction.minor)
            times.append(transaction.event_time_ms)
            own.append(said)
        transactions, cards, terminals = (np.array(each, dtype=str) for each in names)
        made = LabelledTransactions(
            transactions,
            cards,
            terminals,
            np.array(amounts, dtype=np.int64),
            np.array(times, dtype=np.int64),
            np.array(frauds, dtype=bool),
            np.array(own, dtype=object).reshape(len(frauds), len(self.own)),
            converter.rounded,
            refunds,
        )
        return made, faults


def _label_column(source: Source, label: str | None) -> str:
    found = label or usual_label(source.columns)
    if not source.columns:
        return found or "is_fraud"
    if found not in source.columns:
        wanted = label or " or ".join(USUAL_LABELS)
        msg = (
            f"{source.path} has no label column {wanted}: give --label COLUMN; "
            f"its columns are {', '.join(filter(None, source.columns))}"
        )
        raise UsageError(msg)
    assert found
    return found
