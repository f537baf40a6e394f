"""Rows of a CSV as dicts of text; a header line names the columns."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from app.errors import UsageError
from app.ops.files.file_source import UNREADABLE, MalformedRecordError, Row, Source
from app.ops.files.text_encoding import MAX_LINE, open_text

#: What Excel writes in front of the header, and reads.
_EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
#: How JSON begins, and not a column such as [CARD ID].
_JSON = re.compile(r"\s*(\{|\[\s*(\{|$))")
_LINE_FEEDS = re.compile(r"\s*[\r\n]+\s*")
#: A line of nothing else is blank; DOS ends files with the last one.
_BLANK = " \t\x1a"
_UNCLOSED = "not CSV: a quote is not closed"


class _Lines:
    """Lines of text; those of a record that turns out to be several can be read again.

    Attributes:
        number: of the line read last, from 1.
        taken: lines read since `begin`.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.number = 0
        self.taken: list[str] = []
        self._text = text
        self._again: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._text.readline(MAX_LINE)
        if not line:
            raise StopIteration
        if len(line) == MAX_LINE:
            msg = f"line {self.number + 1} has more than {MAX_LINE:,} characters"
            raise OSError(msg)
        self.taken.append(line)
        self.number += 1
        return line

    def begin(self) -> None:
        """A record begins with the next line."""
        self.taken.clear()

    def keep_first(self) -> None:
        """Read all lines of this record but the first once more."""
        again = self.taken[1:]
        self._again.extendleft(reversed(again))
        self.number -= len(again)


class CsvSource(Source):
    """A CSV: commas, semicolons, tabs or pipes; RFC 4180 quotes; UTF-8, or UTF-16 with a byte order mark."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        content = open_text(path, file)
        # a byte that is no UTF-8 becomes a surrogate here, and is refused with its line later
        text = io.TextIOWrapper(content, "utf-8", errors="surrogateescape", newline="")
        self._lines = _Lines(text)
        try:
            self._delimiter, self.columns = self._header()
        except UNREADABLE as error:
            msg = f"{path} cannot be read: {error}"
            raise UsageError(msg) from error
        self._reader = self._new_reader()
        self._names = self._wanted(dict(zip(self.columns, self.columns, strict=True)))

    def _header(self) -> tuple[str, tuple[str, ...]]:
        first = next(self._lines, "")
        if separator := _EXCEL_SEPARATOR.fullmatch(first):
            first = next(self._lines, "")
        if not first.strip():
            line = self._lines.number
            if self._text_follows():
                msg = f"{self.path}, line {line} is blank: it must name the columns"
                raise UsageError(msg)
            return ",", ()
        if any("\udc80" <= letter <= "\udcff" for letter in first):
            msg = f"{self.path}, line {self._lines.number}, not UTF-8 text"
            raise UsageError(msg)
        if _JSON.match(first):
            msg = f"{self.path} looks like JSON: give it a name that ends in .jsonl, with one object per line"
            raise UsageError(msg)
        delimiter = separator[1] if separator else max(",;\t|", key=first.count)
        place = f"{self.path}, line {self._lines.number}"
        self._lines.begin()
        try:
            cells = self._cells(first, delimiter)
        except csv.Error as error:
            msg = f"{place} does not contain column names: {error}"
            raise UsageError(msg) from error
        names = tuple(_LINE_FEEDS.sub(" ", name.strip()) for name in cells)
        named = [name for name in names if name]
        if len(set(named)) < len(named):
            msg = f"{self.path} names a column twice: {', '.join(named)}"
            raise UsageError(msg)
        return delimiter, names

    def _text_follows(self) -> bool:
        return any(line.strip() for line in self._lines)

    def _cells(self, first: str, delimiter: str) -> list[str]:
        """The cells of the header, whose names may have line feeds in them."""

        def lines() -> Iterator[str]:
            yield first
            yield from self._lines

        try:
            return next(csv.reader(lines(), delimiter=delimiter, strict=True))
        except TypeError as error:  # a delimiter that csv does not take
            raise csv.Error(str(error)) from error

    def _new_reader(self) -> Iterator[list[str]]:
        # strict: else a quote that is never closed would take all rows after it into its own
        return csv.reader(self._lines, delimiter=self._delimiter, strict=True)

    def _wanted(self, targets: Mapping[str, str | None]) -> tuple[str | None, ...]:
        """Names of the cells of a row; a column without a name (an index of pandas) is left out."""
        return tuple(targets.get(name) if name else None for name in self.columns)

    def _rename(self, targets: Mapping[str, str | None]) -> None:
        self._names = self._wanted(targets)

    def _read(self) -> Row:
        row = self._row()
        if len(row) != len(self._names):
            fault = f"{len(row)} columns where the header has {len(self._names)}"
            raise MalformedRecordError(None, fault)
        return {
            name: value for name, value in zip(self._names, row, strict=True) if name is not None
        }

    def _row(self) -> list[str]:
        lines = self._lines
        row: list[str] = []
        while not row or (len(row) == 1 < len(self._names) and not row[0].strip(_BLANK)):
            lines.begin()
            try:
                row = next(self._reader)
            except csv.Error as error:
                self.line = lines.number - len(lines.taken) + 1
                several = len(lines.taken) > 1 or "unexpected end" in str(error)
                self._resume()
                raise MalformedRecordError(
                    None, _UNCLOSED if several else f"not CSV: {error}"
                ) from error
        self.line = lines.number - len(lines.taken) + 1
        if len(lines.taken) > 1 and self._swallows(row):
            self._resume()
            raise MalformedRecordError(None, _UNCLOSED)
        return row

    def _resume(self) -> None:
        """Go on with the second line of the present record, which is none of it."""
        self._lines.keep_first()
        self._reader = self._new_reader()

    def _swallows(self, row: list[str]) -> bool:
        """Whether lines within a quoted field are rows: its quote was not closed where it should have been.

        The last line ends the field. It counts only where the field is not among the first two, or
        every text of two lines would be refused.
        """
        width = len(self._names)
        at = next((at for at, cell in enumerate(row) if "\n" in cell or "\r" in cell), 0)
        inner = self._lines.taken[1:] if at > 1 else self._lines.taken[1:-1]
        return any(len(cells) == width for cells in csv.reader(inner, delimiter=self._delimiter))
