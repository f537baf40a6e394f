"""Write simulated transactions to files; the suffix says the format.

A file appears under its name only when it is complete: until then it is called `NAME.part`.
The same simulation gives the same bytes (gzip files carry no time).
"""

import gzip
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from app.errors import UnavailableError, UsageError
from app.lab.simulation.arrivals import BROKEN, Deliveries
from app.lab.simulation.frauds import KINDS
from app.lab.simulation.transactions import CHUNK, SimulatedTransactions
from app.ops.files.suffixes import LABEL_FIELDS, STDOUT, file_format
from app.ops.pyarrow_extra import require_pyarrow

FIELDS = ("transaction_id", "card_id", "terminal_id", "amount", "currency", "event_time")

Progress = Callable[[int], None]


def write_deliveries(
    path: Path, deliveries: Deliveries, *, labels: bool = True, progress: Progress | None = None
) -> int:
    """Write all arrivals in their order.

    Args:
        path: file to write, or `-`.
        deliveries: what to write.
        labels: add the columns `is_fraud` (0 or 1) and `fraud_kind`.
        progress: called with the number of records written so far.

    Returns:
        The number of records.

    Raises:
        UsageError: an unknown suffix, a missing folder, broken records in a table format, or
            Parquet without pyarrow.
        UnavailableError: the file cannot be written.
    """
    suffix = file_format(path)
    tell = progress or (lambda _count: None)
    if not suffix.startswith(".jsonl") and deliveries.broken:
        msg = f"broken records can only be written as JSON lines: use .jsonl instead of {suffix}"
        raise UsageError(msg)
    if suffix == ".parquet":
        require_pyarrow()
    with _complete(path) as out:
        if suffix == ".parquet":
            _write_parquet(out, deliveries.valid, labels, tell)
        elif suffix.startswith(".csv"):
            header = FIELDS + (LABEL_FIELDS if labels else ())
            out.write((",".join(header) + "\n").encode())
            _write_lines(out, _csv_lines(deliveries.valid, labels), tell)
        else:
            _write_lines(out, _json_lines(deliveries, labels), tell)
    return len(deliveries)


def write_labels(path: Path, transactions: SimulatedTransactions) -> int:
    """Write a CSV of transaction_id, is_fraud and fraud_kind; returns the number of rows.

    Raises:
        UsageError: the suffix is not .csv or .csv.gz, or the folder is missing.
        UnavailableError: the file cannot be written.
    """
    if path == STDOUT or not file_format(path).startswith(".csv"):
        msg = f"labels are written as CSV: {path} must end in .csv or .csv.gz"
        raise UsageError(msg)
    with _complete(path) as out:
        out.write((",".join(("transaction_id", *LABEL_FIELDS)) + "\n").encode())
        for part in transactions.chunks():
            names, kinds = part.transaction_id.tolist(), part.kind.tolist()
            rows = zip(names, kinds, strict=True)
            out.write(
                "".join(f"{name},{kind > 0:d},{KINDS[kind]}\n" for name, kind in rows).encode()
            )
    return len(transactions)


@contextmanager
def _complete(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when everything is in it."""
    if path == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not path.parent.is_dir():
        msg = f"there is no folder {path.parent} to write {path.name} into"
        raise UsageError(msg)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as raw:
            if path.suffix.lower() == ".gz":
                # no name and no time in the header: equal content, equal bytes
                with (
                    gzip.GzipFile("", "wb", 4, raw, mtime=0) as packed,
                    io.BufferedWriter(packed) as out,
                ):
                    yield out
            else:
                yield raw
        os.replace(partial, path)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise UnavailableError(msg) from error
    finally:
        partial.unlink(missing_ok=True)


def _write_lines(out: BinaryIO, lines: Iterable[bytes], tell: Progress) -> None:
    lines = iter(lines)
    written = 0
    while chunk := list(islice(lines, CHUNK)):
        out.write(b"".join(chunk))
        written += len(chunk)
        tell(written)


def _json_lines(deliveries: Deliveries, labels: bool) -> Iterator[bytes]:
    endings = [
        f',"is_fraud":{kind > 0:d},"fraud_kind":"{name}"}}\n' for kind, name in enumerate(KINDS)
    ]
    tails = [ending.encode() for ending in endings]
    for _key, line, kind in deliveries.lines():
        # a broken record stays as broken as it is
        yield line[:-1] + tails[kind] if labels and kind != BROKEN else line + b"\n"


def _csv_lines(transactions: SimulatedTransactions, labels: bool) -> Iterator[bytes]:
    amount, currency = transactions.names.amount, transactions.names.currency
    tails = [f",{kind > 0:d},{name}\n" if labels else "\n" for kind, name in enumerate(KINDS)]
    for part in transactions.chunks():
        for (name, card, terminal, minor, when), kind in zip(
            part.rows(), part.kind.tolist(), strict=True
        ):
            text = f"{name},{card},{terminal},{amount(minor)},{currency},{when}{tails[kind]}"
            yield text.encode()


def _write_parquet(
    out: BinaryIO, transactions: SimulatedTransactions, labels: bool, tell: Progress
) -> None:
    pa = require_pyarrow()
    import pyarrow.parquet as pq

    digits = transactions.names.minor_digits
    money = pa.decimal128(18, digits)  # exact, as the JSON is: never a float
    columns = [
        ("transaction_id", pa.string()),
        ("card_id", pa.string()),
        ("terminal_id", pa.string()),
        ("amount", money),
        ("currency", pa.string()),
        ("event_time", pa.timestamp("ms", tz="UTC")),
    ]
    if labels:
        columns += [("is_fraud", pa.int8()), ("fraud_kind", pa.string())]
    schema = pa.schema(columns)
    written = 0
    with pq.ParquetWriter(out, schema) as writer:
        for part in transactions.chunks():
            amounts = [transactions.names.amount(minor) for minor in part.amount_minor.tolist()]
            values = [
                part.transaction_id.tolist(),
                part.card_id.tolist(),
                [terminal or None for terminal in part.terminal_id.tolist()],
                pa.array(amounts).cast(money),
                [transactions.names.currency] * len(part),
                pa.array(part.event_time_ms).cast(pa.timestamp("ms", tz="UTC")),
            ]
            if labels:
                values += [part.is_fraud.astype("int8"), part.fraud_kind.tolist()]
            writer.write_table(
                pa.table(dict(zip(schema.names, values, strict=True)), schema=schema)
            )
            written += len(part)
            tell(written)
