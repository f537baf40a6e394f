"""Reads a record batch record by record, where aiokafka cannot: slowly, and each record for itself."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from aiokafka.record.default_records import _DefaultRecordBatchPy

from app.wire.unreadable import Unreadable

#: The fields before the records of a batch of format 2.
HEADER = _DefaultRecordBatchPy.HEADER_STRUCT
_BY_BROKER = _DefaultRecordBatchPy.TIMESTAMP_TYPE_MASK


class Record(NamedTuple):
    """A record as aiokafka's parser gives it."""

    offset: int
    timestamp: int
    timestamp_type: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: int | None = None


class UnreadableRecordListener(Protocol):
    """Where the batch came from: told of what cannot be read (`fetching.FetchedBatches`)."""

    def lost(
        self, raw: memoryview, offsets: tuple[int, int], time_ms: int, reason: str, what: str
    ) -> Record:
        """The stand-in for records of these offsets."""

    def note(self, offset: int, message: str) -> None:
        """The record at this offset cannot be read."""


def read_carefully(raw: memoryview, answer: UnreadableRecordListener) -> Iterator[Record]:
    """The records of an uncompressed batch, each for itself: one that cannot be read has a stand-in.

    Slow; for batches that aiokafka cannot read.
    """
    fields = HEADER.unpack_from(raw)
    base, attributes, delta, first_ms, newest_ms, count = (
        fields[0], fields[5], fields[6], fields[7], fields[8], fields[12],
    )  # fmt: skip
    by_broker = bool(attributes & _BY_BROKER)
    reader = _Reader(raw)
    reached = -1
    for _ in range(count):
        rest = reader.at
        try:
            end = reader.span()
            reader.varint()  # attributes, of which there are none
            after, number = reader.varint(), reader.varint()
            if not reached < number <= delta:
                raise ValueError(f"a record of number {number} in a batch of {delta + 1}")
        except ValueError as error:
            offsets = base + reached + 1, base + delta
            yield answer.lost(raw[rest:], offsets, newest_ms, "unreadable_batch", str(error))
            return
        reached = number
        key: bytes | None = None
        headers: list[tuple[str, bytes | None]] = []
        try:
            key, value, headers = reader.content(end)
        except ValueError as error:
            message = f"the record at offset {base + number} cannot be read: {error}"
            answer.note(base + number, message)
            value = Unreadable.of(raw[rest:end], "unreadable_record", message)
        reader.at = end
        time_ms = newest_ms if by_broker else first_ms + after
        yield Record(base + number, time_ms, int(by_broker), key, value, headers)


class _Reader:
    """Reads the fields of records; a ValueError says what is wrong."""

    def __init__(self, raw: memoryview) -> None:
        self.at = HEADER.size
        self._raw = raw
        self._end = len(raw)

    def varint(self) -> int:
        """A number in zigzag encoding."""
        value = shift = 0
        while True:
            if self.at >= self._end or shift > 63:
                raise ValueError("it is cut off")
            byte = self._raw[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value >> 1 ^ -(value & 1)
            shift += 7

    def span(self) -> int:
        """Where the field ends whose length comes now."""
        length = self.varint()
        if not 0 <= length <= self._end - self.at:
            raise ValueError(f"a length of {length} with {self._end - self.at} bytes left")
        return self.at + length

    def content(self, end: int) -> tuple[Any, Any, list[tuple[str, bytes | None]]]:
        """Key, value and headers of a record that ends there."""
        self._end, whole = end, self._end
        try:
            key, value = self._bytes(), self._bytes()
            headers = []
            for _ in range(self.varint()):
                name = self._bytes()
                if name is None:
                    raise ValueError("a header without a name")
                headers.append((name.decode(errors="backslashreplace"), self._bytes()))
        finally:
            self._end = whole
        if self.at != end:
            raise ValueError(f"{end - self.at} bytes remain after its headers")
        return key, value, headers

    def _bytes(self) -> bytes | None:
        length = self.varint()
        if length < 0:
            return None
        if length > self._end - self.at:
            raise ValueError(f"a length of {length} with {self._end - self.at} bytes left")
        self.at += length
        return bytes(self._raw[self.at - length : self.at])
