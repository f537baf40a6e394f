"""What files of every format have in common: rows in turn, a place for each fault, columns under other names.

A source is an iterator that survives its errors: after a malformed row, `next` continues with the row
after it.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

from app.errors import UsageError

#: Faults of the file itself: what comes after them cannot be read.
UNREADABLE = (EOFError, zlib.error, OSError, UnicodeError)

Row = dict[str, Any]


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
        columns: its columns; of JSON lines, the fields of the first records.
        count: records begun so far, malformed ones included.
        line: number of the line (Parquet: row) at which the record read last begins, from 1.
        size: what `position` reaches at the end.
    """

    unit = "line"
    #: Rows are (line, fields) of JSON text, not dicts of values.
    gives_json = False

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.columns: tuple[str, ...] = ()
        self.count = 0
        self.line = 0
        self.size = path.stat().st_size
        self._file = file
        self._stack = ExitStack()
        self._stack.callback(file.close)
        self._derive: Callable[[Any, int], Row] | None = None
        self._targets: Mapping[str, str | None] = {}

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
        self.count += 1
        try:
            row = self._read()
        except UNREADABLE as error:
            msg = f"{self.path} cannot be read beyond {self.unit} {self.line}: {error}"
            raise UsageError(msg) from error
        if self._derive is None:
            return row
        targets = self._targets
        return {
            target: value
            for name, value in self._derive(row, self.count).items()
            if (target := targets.get(name)) is not None
        }

    def derive(self, columns: tuple[str, ...], make: Callable[[Any, int], Row]) -> None:
        """Add columns that the file does not have.

        Args:
            columns: their names.
            make: a row as this source reads it, and its number from 1 -> a row with them.
        """
        self.columns = tuple(dict.fromkeys((*self.columns, *columns)))
        self._derive, self.gives_json = make, False

    def rename(self, targets: Mapping[str, str | None]) -> None:
        """Call the columns otherwise in the rows to come; None leaves one out.

        Rows of JSON lines keep their names: each may have others, so whoever converts them renames.
        """
        self._targets = dict(targets)
        if self._derive is None:
            self._rename(targets)

    def position(self) -> int:
        """How much of `size` has been read: bytes of the file as it is stored."""
        return 0 if self._file.closed else self._file.tell()

    def place(self, error: Exception, line: int | None = None) -> str:
        """The error with the file and line that it is about; None: the one read last."""
        return f"{self.path}, {self.unit} {self.line if line is None else line}, {error}"

    @abstractmethod
    def _read(self) -> Any: ...

    def _rename(self, targets: Mapping[str, str | None]) -> None:
        """Have `_read` call columns otherwise; not for rows of JSON."""
        del targets


class EmptySource(Source):
    """A file of no bytes, whatever its format."""

    def _read(self) -> Any:
        raise StopIteration
