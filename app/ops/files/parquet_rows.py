"""Rows of a Parquet file as dicts of Python values."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import UsageError
from app.ops.files.file_ids import ID_FIELDS
from app.ops.files.file_source import Row, Source
from app.ops.pyarrow_extra import require_pyarrow

_BATCH_ROWS = 2_000
#: Up to here every whole number has a 32-bit float of its own.
_MOST_EXACT = 2**24


class ParquetSource(Source):
    """Times and decimals are text, except decimals that become ids."""

    unit = "row"

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        pa = require_pyarrow()
        import pyarrow.parquet as pq

        self._faults = (pa.ArrowException, OSError, ValueError, OverflowError, TypeError)
        try:
            table = pq.ParquetFile(file)
            self.columns = tuple(table.schema_arrow.names)
            self.size = table.metadata.num_rows
            self._batches = table.iter_batches(batch_size=_BATCH_ROWS)
        except self._faults as error:
            msg = f"{path} is not a Parquet file that can be read: {_line(error)}"
            raise UsageError(msg) from error
        if len(set(self.columns)) < len(self.columns):
            msg = f"{path} names a column twice: {', '.join(self.columns)}"
            raise UsageError(msg)
        self._names: dict[str, str | None] = {name: name for name in self.columns}
        self._rows: Iterator[Row] = iter(())

    def _rename(self, targets: Mapping[str, str | None]) -> None:
        self._names = {name: targets.get(name) for name in self.columns}

    def position(self) -> int:
        """Rows read."""
        return self.line

    def _read(self) -> Row:
        row = next(self._rows, None)
        while row is None:
            self._rows = iter(self._batch())
            row = next(self._rows, None)
        self.line += 1
        names = self._names
        return {target: value for name, value in row.items() if (target := names[name]) is not None}

    def _batch(self) -> list[Row]:
        try:
            rows = _rows_of(_plain(next(self._batches), self._names), self.path, self.line)
        except (StopIteration, UsageError):
            raise
        except self._faults as error:
            msg = f"{self.path} cannot be read beyond row {self.line}: {_line(error)}"
            raise UsageError(msg) from error
        return rows


def _rows_of(batch: Any, path: Path, row: int) -> list[Row]:
    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError, TypeError):  # which column it is, pyarrow does not say
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            try:
                values.to_pylist()
            except (ValueError, OverflowError, TypeError) as error:
                msg = (
                    f"{path}, column {name} after row {row}: values of the type {values.type} are out of range or too "
                    f"precise ({_line(error)}); --drop {name} leaves the column out"
                )
                raise UsageError(msg) from error
        raise
    return rows


def _plain(batch: Any, names: Mapping[str, str | None]) -> Any:
    """The columns that are wanted, with times and decimals as text: a Python object for each would cost more.

    Raises:
        ValueError: floats of 32 bits are ids, and so large that several share one.
    """
    import pyarrow as pa
    from pyarrow import compute

    batch = batch.select([name for name in batch.schema.names if names[name] is not None])
    for at, column in enumerate(batch.schema):
        values = batch.column(at)
        if pa.types.is_timestamp(column.type):
            zone = "UTC" if column.type.tz else None
            values = values.cast(pa.timestamp("ms", zone), safe=False)
            values = compute.strftime(values, "%Y-%m-%dT%H:%M:%S" + ("Z" if zone else ""))
        elif pa.types.is_decimal(column.type) and names[column.name] not in ID_FIELDS:
            values = values.cast(pa.string())
        elif column.type in (pa.time64("ns"), pa.duration("ns")):
            # Python's own types end at microseconds
            us = pa.time64("us") if pa.types.is_time64(column.type) else pa.duration("us")
            values = values.cast(us, safe=False)
        elif pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            try:
                values = values.cast(pa.string())  # older tools write text without saying so
            except pa.ArrowInvalid:
                continue
        elif pa.types.is_float32(column.type) and names[column.name] in ID_FIELDS:
            if compute.any(compute.greater_equal(compute.abs(values), _MOST_EXACT)).as_py():
                msg = (
                    f"column {column.name} has 32-bit floats of 2^24 or more, which have lost digits: store ids "
                    "as text or as integers"
                )
                raise ValueError(msg)
            continue
        else:
            continue
        batch = batch.set_column(at, column.name, values)
    return batch


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
