"""The content of a text file as UTF-8: unpacked, without a byte order mark, UTF-16 converted."""

import codecs
import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import UsageError
from app.ops.files.source import UNREADABLE

#: Bytes read at a time.
BUFFER = 1 << 20
#: Longest line: many times what Kafka takes, and little enough to hold.
MAX_LINE = 1 << 24
_RECODED_BYTES = 1 << 16
#: How a file begins that has the wrong name -> what it is, and what to do.
_OTHER_FORMATS = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive: export it as CSV",
    b"\x1f\x8b": "gzip: give it a name that ends in .gz",
    b"PAR1": "Parquet: give it a name that ends in .parquet",
    codecs.BOM_UTF32_LE: "UTF-32 text: save it as UTF-8",
    codecs.BOM_UTF32_BE: "UTF-32 text: save it as UTF-8",
}


class _Recoded(io.RawIOBase):
    """Text in another encoding, as UTF-8."""

    def __init__(self, content: io.BufferedReader, encoding: str) -> None:
        self._content = content
        self._decode = codecs.getincrementaldecoder(encoding)().decode
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._content.read(_RECODED_BYTES)
            self._ready = self._decode(packed, final=not packed).encode()
            if not packed:
                break
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def open_text(path: Path, file: BinaryIO) -> io.BufferedReader:
    """The bytes of a file as UTF-8 (what is not UTF-8 in it stays as it is).

    Raises:
        UsageError: it is no text; the message says what it is.
    """
    raw: Any = gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file
    content = io.BufferedReader(raw, BUFFER)
    try:
        start = content.peek(4)[:4]
        if start.startswith(codecs.BOM_UTF8):
            content.read(len(codecs.BOM_UTF8))
    except UNREADABLE as error:
        msg = f"{path} cannot be read: {error}"
        raise UsageError(msg) from error
    for magic, what in _OTHER_FORMATS.items():
        if start.startswith(magic):
            msg = f"{path} is {what}"
            raise UsageError(msg)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return io.BufferedReader(_Recoded(content, "utf-16"), BUFFER)
    if b"\0" in start:
        msg = f"{path} is not UTF-8 text: UTF-16 needs a byte order mark, or save it as UTF-8"
        raise UsageError(msg)
    return content
