"""The content of a text file as UTF-8: unpacked, without a byte order mark, UTF-16 converted."""

import codecs
import gzip
import io
import re
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import UsageError
from app.ops.files.file_source import UNREADABLE

#: Bytes read at a time.
BUFFER = 1 << 20
#: Longest line: many times what Kafka takes, and little enough to hold.
MAX_LINE = 1 << 24
_RECODED_BYTES = 1 << 16
#: Bytes of a beginning that is looked at.
_START_BYTES = 16
#: How a file begins that has the wrong name, and what it is.
_OTHER_FORMATS = tuple(
    (re.compile(begin, re.IGNORECASE), what)
    for begin, what in (
        (rb"PK\x03\x04", "an Excel workbook or a ZIP archive: unpack it, or export it as CSV"),
        (rb"\xd0\xcf\x11\xe0", "an Excel workbook of the old format: export it as CSV"),
        (rb"\x1f\x8b", "gzip: give it a name that ends in .gz"),
        (rb"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it, or use gzip"),
        (rb"BZh\d1AY", "compressed with bzip2: unpack it, or use gzip"),
        (rb"\xfd7zXZ", "compressed with xz: unpack it, or use gzip"),
        (rb"7z\xbc\xaf", "a 7-Zip archive: unpack it"),
        (rb"PAR1", "Parquet: give it a name that ends in .parquet"),
        (rb"Obj\x01", "Avro: convert it to Parquet or JSON lines"),
        (rb"ORC\n?[^ -~\t\r\n]", "ORC: convert it to Parquet or JSON lines"),
        (rb"ARROW1\0", "Arrow: convert it to Parquet"),
        (rb"SQLite format 3\0", "an SQLite database: export the table as CSV"),
        (rb"\x80[\x02-\x05][^\0]", "a Python pickle: convert it to Parquet or CSV"),
        (rb"%PDF-", "a PDF document: export the data as CSV"),
        (rb"<!DOCTYPE|<html", "a web page, not data: the download may need a login"),
        (rb"version https://", "a Git LFS pointer: `git lfs pull` fetches the file itself"),
        (re.escape(codecs.BOM_UTF32_LE), "UTF-32 text: save it as UTF-8"),
        (re.escape(codecs.BOM_UTF32_BE), "UTF-32 text: save it as UTF-8"),
    )
)


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
        start = content.peek(_START_BYTES)[:_START_BYTES]
        if start.startswith(codecs.BOM_UTF8):
            content.read(len(codecs.BOM_UTF8))
    except UNREADABLE as error:
        msg = f"{path} cannot be read: {error}"
        raise UsageError(msg) from error
    for begin, what in _OTHER_FORMATS:
        if begin.match(start):
            msg = f"{path} is {what}"
            raise UsageError(msg)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return io.BufferedReader(_Recoded(content, "utf-16"), BUFFER)
    if b"\0" in start[:4]:
        msg = f"{path} is not UTF-8 text: UTF-16 needs a byte order mark, or save it as UTF-8"
        raise UsageError(msg)
    return content
