"""JSON lines: one object per line, whose values stay JSON text until somebody needs them."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import orjson

from app.domain.json_limits import refuse_repeated_keys
from app.domain.transaction import DeadRecordError
from app.errors import UsageError
from app.ops.files.file_source import UNREADABLE, MalformedRecordError, Row, Source
from app.ops.files.text_encoding import MAX_LINE, open_text

#: Records and bytes that are read ahead to learn which fields the file has.
PEEKED_RECORDS = 1_000
_PEEKED_BYTES = MAX_LINE

#: How values begin.
_OBJECT_OR_ARRAY = (b"{", b"[")
_NUMBER = frozenset(bytes([byte]) for byte in b"-0123456789")
Fields = dict[str, msgspec.Raw]


class JsonNumber(str):
    """A number as its JSON text: its digits survive, and it still differs from a string of digits."""

    __slots__ = ()


class JsonSource(Source):
    """Rows are (line, fields); a field's value is its JSON text, untouched."""

    gives_json = True

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        self._lines = open_text(path, file)
        self._decoder = msgspec.json.Decoder(Fields)
        self._ahead: deque[bytes | None] = deque()
        names: dict[str, None] = {}
        peeked = 0
        try:
            while len(self._ahead) < PEEKED_RECORDS and peeked < _PEEKED_BYTES:
                line = self._line()
                if line == b"":
                    break
                self._ahead.append(line)
                peeked += len(line or b"")
        except UNREADABLE as error:
            msg = f"{path} cannot be read: {error}"
            raise UsageError(msg) from error
        for line in self._ahead:
            try:
                names |= dict.fromkeys(self._decoder.decode(line or b""))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # told when its turn comes
        first = next((line for line in self._ahead if line and not line.isspace()), b"").strip()
        if first == b"[" or (first[:1] == b"[" and not names):
            msg = f"{path} is one JSON array: write one object per line, such as with `jq -c '.[]'`"
            raise UsageError(msg)
        self.columns = tuple(names)

    def _read(self) -> tuple[bytes, Fields]:
        line = b""
        while not line:
            line = self.raw().strip()
        try:
            line.decode()
            fields = self._decoder.decode(line)
            # as the stream's parser: any other count may hide a key that stands twice, and so may a space
            if line.count(b'":') != len(fields) or b'" ' in line or b'"\t' in line:
                refuse_repeated_keys(line)
            return line, fields
        except DeadRecordError as error:
            raise MalformedRecordError(None, str(error)) from error
        except UnicodeDecodeError as error:
            raise MalformedRecordError(None, f"not UTF-8 at byte {error.start + 1}") from error
        except msgspec.ValidationError as error:
            raise MalformedRecordError(None, "a JSON value, but not an object") from error
        except msgspec.DecodeError as error:
            more = "; write one object per line, such as with `jq -c .`" if line == b"{" else ""
            raise MalformedRecordError(None, f"not JSON: {error}{more}") from error
        except RecursionError as error:
            raise MalformedRecordError(None, "objects and arrays are nested too deep") from error
        except ValueError as error:  # Python's int() takes 4,300 digits
            raise MalformedRecordError(None, "a number has too many digits") from error

    def raw(self) -> bytes:
        """The next line as it is, without its line feed.

        Raises:
            StopIteration: the file has ended.
            MalformedRecordError: it is too long to be held.
        """
        line = self._ahead.popleft() if self._ahead else self._line()
        if line == b"":
            raise StopIteration
        self.line += 1
        if line is None:
            raise MalformedRecordError(None, f"more than {MAX_LINE:,} bytes")
        return line.removesuffix(b"\n")

    def _line(self) -> bytes | None:
        """The next line, empty at the end; None for one that is too long, of which all is skipped."""
        line = self._lines.readline(MAX_LINE)
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            return line
        while line and not line.endswith(b"\n"):
            line = self._lines.readline(MAX_LINE)
        return None


def values_of(fields: Mapping[str, msgspec.Raw]) -> Row:
    """The fields of a line as a row: text, `JsonNumber`, bool, None; objects and arrays as JSON text.

    Raises:
        MalformedRecordError: a value cannot be decoded.
    """
    return {name: value_of(raw) for name, raw in fields.items()}


def value_of(raw: msgspec.Raw) -> Any:
    """One field, as `values_of` has it."""
    text = bytes(raw)
    if text[:1] in _OBJECT_OR_ARRAY:
        return orjson.Fragment(text)
    if text[:1] in _NUMBER:  # never as a number: a double may be too small for it
        return JsonNumber(text.decode())
    return msgspec.json.decode(raw)
