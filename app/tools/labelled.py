"""Labelled transactions of a file, for training: the files that `fraudstream produce` reads, with a label."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.input_records import RecordRules, parse_transaction
from app.settings import Settings
from app.tools.producing.amounts import Rounding
from app.tools.producing.columns import make_plan
from app.tools.producing.records import Converter
from app.tools.producing.sources import (
    CsvSource,
    JsonSource,
    MalformedRecordError,
    ParquetSource,
    Source,
    open_source,
)
from app.tools.producing.verdicts import verdict

#: Looked for in this order when no label column is named.
USUAL_LABELS = ("is_fraud", "TX_FRAUD")
#: A file is of the past: nothing in it is too early for a broker's clock.
_NO_CLOCK_MS = 1 << 62
_STEP = 5_000

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


def read_labelled(
    path: Path,
    settings: Settings,
    *,
    label: str | None = None,
    mapping: Mapping[str, str] | None = None,
    zone: ZoneInfo | None = None,
    rounding: Rounding | None = None,
    progress: Progress | None = None,
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

    Raises:
        UsageError: a column is missing, or a row is malformed; the text names file and line.
    """
    with open_source(path) as source:
        label = _label_column(path, source.columns, label)
        # only what features and labels need
        plan = make_plan(
            path, source.columns, mapping=mapping, only_known=True, zone=zone, rounding=rounding
        )
        converter = Converter(replace(plan, targets={**plan.targets, label: label}))
        rules = RecordRules(settings.currency, settings.minor_unit_digits, 0)
        names: tuple[list[str], list[str], list[str]] = ([], [], [])
        amounts, times, frauds = array("q"), array("q"), array("b")
        try:
            for key, body in _records(source, converter):
                # only columns are kept: a million transactions are a hundred megabytes, not a thousand
                transaction = parse_transaction(body, key, _NO_CLOCK_MS, rules)
                names[0].append(transaction.transaction_id)
                names[1].append(transaction.card_id)
                names[2].append(transaction.terminal_id or "")
                amounts.append(transaction.minor)
                times.append(transaction.event_time_ms)
                frauds.append(verdict(orjson.loads(body).get(label), label))
                if progress and len(times) % _STEP == 0:
                    progress(source.position())
        except DeadRecordError as dead:
            raise UsageError(source.place(dead)) from None
        except MalformedRecordError as error:
            raise UsageError(source.place(error)) from None
    if not times:
        msg = f"{path} holds no transactions"
        raise UsageError(msg)
    return LabelledTransactions(
        np.array(names[0]),
        np.array(names[1]),
        np.array(names[2]),
        np.array(amounts, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(frauds, dtype=bool),
        converter.rounded,
    )


def _records(source: Source, converter: Converter) -> Iterator[tuple[bytes, bytes]]:
    if isinstance(source, JsonSource):
        convert: Callable[[Any], tuple[bytes, bytes, int]] = converter.json_row
    else:
        assert isinstance(source, CsvSource | ParquetSource)
        source.rename(converter.targets)
        convert = converter.table_row
    for row in source:
        key, value, _event_ms = convert(row)
        yield key, value


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
