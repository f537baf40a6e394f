"""Files of transactions, read row by row: CSV, JSON lines (both also gzipped) and Parquet.

A source is an iterator that survives its errors: after a malformed row, `next` goes on with the
one behind it. The line number of the row read last is in `line`.
"""

import csv
import gzip
import io
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from app.errors import UsageError
from app.tools.parquet import require_pyarrow
from app.tools.simulation.files import file_format

#: Records of a JSON file that are read ahead to learn which fields it has.
PEEKED_RECORDS = 1_000
#: Bytes read at a time.
BUFFER = 1 << 20


class MalformedRecordError(UsageError):
    """A row that cannot be sent; `--skip-bad` counts such rows instead.

    Attributes:
        column: where the fault is, as the file calls it; None for the whole line.
        general: the other rows surely have the same fault: leaving out this one is no remedy.
    """

    def __init__(self, column: str | None, fault: str, *, general: bool = False) -> None:
        super().__init__(f"column {column}: {fault}" if column else fault)
        self.column = column
        self.general = general


class Source(ABC):
    """A file that is being read; also a context manager.

    Attributes:
        path: the file.
        columns: its columns; of JSON lines, the fields of the first `PEEKED_RECORDS` records.
        line: number of the line (Parquet: row) read last, from 1.
        size: what `position` reaches at the end.
    """

    unit = "line"

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.columns: tuple[str, ...] = ()
        self.line = 0
        self.size = path.stat().st_size
        self._file = file
        self._stack = ExitStack()
        self._stack.callback(file.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next row.

        Raises:
            MalformedRecordError: this row cannot be read; the next call reads the one after it.
            UsageError: the rest of the file cannot be read.
        """
        try:
            return self._read()
        except (EOFError, zlib.error, OSError) as error:
            msg = f"{self.path} cannot be read beyond {self.unit} {self.line}: {error}"
            raise UsageError(msg) from error

    @abstractmethod
    def _read(self) -> Any: ...

    @abstractmethod
    def rename(self, targets: Mapping[str, str | None]) -> None:
        """Call the columns of a table otherwise in the rows to come; None leaves one out.

        Rows of JSON lines keep their names: each may have others, so whoever converts them renames.
        """

    def position(self) -> int:
        """How much of `size` has been read: bytes of the file, as it lies on the disk."""
        return 0 if self._file.closed else self._file.tell()

    def place(self, error: Exception, line: int | None = None) -> str:
        """The error with the file and line that it is about; None: the one read last."""
        return f"{self.path}, {self.unit} {self.line if line is None else line}, {error}"

    def _content(self) -> io.BufferedReader:
        """The file's bytes, unpacked."""
        if self.path.suffix != ".gz":
            return io.BufferedReader(self._file, BUFFER)  # type: ignore[arg-type]
        return io.BufferedReader(gzip.GzipFile(fileobj=self._file), BUFFER)


class CsvSource(Source):
    """Rows are dicts of text; a header line names the columns."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        # a byte that is no UTF-8 becomes a surrogate here, and is refused with its line later
        text = io.TextIOWrapper(
            self._content(), encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        try:
            header = text.readline()
        except (EOFError, zlib.error, OSError) as error:
            msg = f"{path} cannot be read: {error}"
            raise UsageError(msg) from error
        if not header.strip():
            msg = f"{path} is empty: the first line must name the columns"
            raise UsageError(msg)
        if not header.isascii() and any("\udc80" <= letter <= "\udcff" for letter in header):
            msg = f"{path}, line 1, not UTF-8 text"
            raise UsageError(msg)
        delimiter = max(",;\t|", key=header.count)
        try:
            names = next(csv.reader([header], delimiter=delimiter, strict=True))
        except csv.Error as error:
            msg = f"{path}, line 1, not the names of columns: {error}"
            raise UsageError(msg) from error
        self.columns = tuple(name.strip() for name in names)
        if len(set(self.columns)) < len(self.columns):
            msg = f"{path} names a column twice: {', '.join(self.columns)}"
            raise UsageError(msg)
        # strict: else a quote that is never closed would take all rows behind it into its own
        self._lines = csv.reader(text, delimiter=delimiter, strict=True)
        self._names: tuple[str | None, ...] = self.columns

    def rename(self, targets: Mapping[str, str | None]) -> None:  # noqa: D102
        self._names = tuple(targets[name] for name in self.columns)

    def _read(self) -> dict[str, str]:
        try:
            row = next(self._lines)
            while not row:  # a blank line
                row = next(self._lines)
        except csv.Error as error:
            self.line += 1  # where it begins: a quote that is not closed ends with the file
            raise MalformedRecordError(None, f"not CSV: {error}") from error
        self.line = self._lines.line_num + 1  # and the header
        if len(row) != len(self._names):
            fault = f"{len(row)} columns where the header has {len(self._names)}"
            raise MalformedRecordError(None, fault)
        return {
            name: value for name, value in zip(self._names, row, strict=True) if name is not None
        }


class JsonSource(Source):
    """Rows are (line, fields); a field's value is its JSON text, untouched."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        self._lines = self._content()
        self._decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._ahead: deque[bytes] = deque()
        names: dict[str, None] = {}
        try:
            while len(self._ahead) < PEEKED_RECORDS and (line := self._lines.readline()):
                self._ahead.append(line)
        except (EOFError, zlib.error, OSError) as error:
            msg = f"{path} cannot be read: {error}"
            raise UsageError(msg) from error
        for line in self._ahead:
            try:
                names |= dict.fromkeys(self._decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # told when its turn comes
        self.columns = tuple(names)

    def _read(self) -> tuple[bytes, dict[str, msgspec.Raw]]:
        line = b""
        while not line:
            line = self.raw().strip()
        try:
            line.decode()
            return line, self._decoder.decode(line)
        except UnicodeDecodeError as error:
            raise MalformedRecordError(None, f"not UTF-8 at byte {error.start + 1}") from error
        except msgspec.ValidationError as error:
            raise MalformedRecordError(None, "a JSON value, but not an object") from error
        except msgspec.DecodeError as error:
            raise MalformedRecordError(None, f"not JSON: {error}") from error
        except RecursionError as error:
            raise MalformedRecordError(None, "objects and arrays are nested too deep") from error

    def rename(self, targets: Mapping[str, str | None]) -> None:  # noqa: D102
        del targets

    def raw(self) -> bytes:
        """The next line as it is, without its line feed.

        Raises:
            StopIteration: the file has ended.
        """
        line = self._ahead.popleft() if self._ahead else self._lines.readline()
        if not line:
            raise StopIteration
        self.line += 1
        return line.removesuffix(b"\n")


class ParquetSource(Source):
    """Rows are dicts of Python values."""

    unit = "row"

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        pa = require_pyarrow()
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            msg = f"{path} is not a Parquet file: {error}"
            raise UsageError(msg) from error
        self.columns = tuple(table.schema_arrow.names)
        self.size = table.metadata.num_rows
        self._targets: dict[str, str | None] = {name: name for name in self.columns}
        self._batches = table.iter_batches(batch_size=2_000)
        self._rows: Iterator[dict[str, Any]] = iter(())

    def rename(self, targets: Mapping[str, str | None]) -> None:  # noqa: D102
        self._targets = dict(targets)

    def position(self) -> int:
        """Rows read."""
        return self.line

    def _read(self) -> dict[str, Any]:
        row = next(self._rows, None)
        while row is None:
            self._rows = iter(_plain(next(self._batches)).to_pylist())
            row = next(self._rows, None)
        self.line += 1
        targets = self._targets
        return {
            target: value for name, value in row.items() if (target := targets[name]) is not None
        }


def _plain(batch: Any) -> Any:
    """The batch with times and decimals as text: a Python object for each would cost more."""
    import pyarrow as pa
    from pyarrow import compute

    for at, column in enumerate(batch.schema):
        values = batch.column(at)
        if pa.types.is_timestamp(column.type):
            zone = "UTC" if column.type.tz else None
            values = values.cast(pa.timestamp("ms", zone), safe=False)
            values = compute.strftime(values, "%Y-%m-%dT%H:%M:%S" + ("Z" if zone else ""))
        elif pa.types.is_decimal(column.type):
            values = values.cast(pa.string())
        else:
            continue
        batch = batch.set_column(at, column.name, values)
    return batch


def open_source(path: Path) -> Source:
    """Open a file by its suffix.

    Raises:
        UsageError: there is no such file, it cannot be read, or its suffix is unknown.
    """
    suffix = file_format(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, without a word
            msg = f"cannot read {path}: it is not a file"
            raise UsageError(msg)
        file = path.open("rb")
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise UsageError(msg) from error
    kind: dict[str, type[CsvSource | JsonSource | ParquetSource]] = {
        ".csv": CsvSource,
        ".jsonl": JsonSource,
        ".parquet": ParquetSource,
    }
    try:
        return kind[suffix.removesuffix(".gz")](path, file)
    except BaseException:
        file.close()
        raise
