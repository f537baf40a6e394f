r"""How the answer to a fetch is parsed, for every consumer of this process: see `install` and `watch`.

aiokafka's parser raises on whatever it cannot read, and its fetcher takes every error for one of the network: it asks
again, for ever. This one tells the cases apart:

- A header name that is not UTF-8 is no reason to refuse a record: the name is read with escapes (`\xff`).
- What a producer has sent wrong (the checksum fits) will never become readable: an `Unreadable` value stands in for
  the record, or for the whole batch, and goes the way of records that are refused.
- What does not fit its checksum may be damage of this transfer: it is fetched again, and if it stays so, a stand-in
  takes the place of the batch, provided that it is certain where the batch ends.
- Where not even that is certain, the partition stops at this offset: `DamagedLogError` says so.

A stand-in for a batch has the batch's last offset: from wherever inside the batch a fetch begins, it gives the same.
"""

import math
import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.structs import TopicPartition

from app.blocks.faust import decompression
from app.blocks.faust.decompression import EXPANSION_BYTES
from app.blocks.faust.record_by_record import HEADER, Record, read_carefully
from app.blocks.faust.unreadable_batches import UnreadableBatchPolicy
from app.wire.unreadable import Unreadable

#: So many bytes are expanded of one answer, and one batch more; the rest is fetched again.
_ANSWER_BYTES = 16 << 20

_ATTRIBUTES = _DefaultRecordBatchPy.ATTRIBUTES_OFFSET
_OVERHEAD = struct.calcsize(">qi")  # base offset and length
_MAGIC = 16
#: A batch that does not fit its checksum is not believed to have more records than this.
_MOST_RECORDS = 1 << 24
#: The shortest batch of any format: version 0 without key and value.
_SHORTEST = _OVERHEAD + 14
_CODEC_MASK = _DefaultRecordBatchPy.CODEC_MASK


class FetchedBatches:
    """The batches of one partition in the answer to a fetch, in place of aiokafka's `MemoryRecords`.

    Attributes:
        watch: the consumer's; None: it has none.
        tp: topic and partition, where there is a watch.
        position: offset of the next record; known where there is a watch.
        end: offset after the last record of the partition, where there is a watch.
    """

    def __init__(self, raw: bytes) -> None:
        self.watch: UnreadableBatchPolicy | None = None
        self.tp: Any = None
        self.position = 0
        self.end = math.inf
        self._raw = memoryview(raw)
        self._at = 0
        self._expanded = 0
        self._stopped = False

    def size_in_bytes(self) -> int:
        """Of all batches."""
        return len(self._raw)

    def has_next(self) -> bool:
        """Whether there is another batch.

        Brokers cut the last one off. The first one is whole: where its length says otherwise, it is wrong.
        """
        left = len(self._raw) - self._at
        if self._stopped or self._expanded > _ANSWER_BYTES:
            return False
        if not self._at:
            return left > 0
        return left >= _OVERHEAD and self._length() <= left

    def next_batch(self) -> Any:
        """The next batch, as aiokafka's `PartitionRecords` takes it."""
        try:
            raw, batch = self._take()
            sound = batch.validate_crc()
            following = batch.next_offset
            base = getattr(batch, "base_offset", following - 1)  # older formats have only the last
        except Exception as error:  # noqa: BLE001 -- whatever a damaged header leads to
            return self._unsure(str(error))
        if not sound:
            return self._damaged(raw)
        # One that begins here may end beyond `end`: a broker notes where its log ends before it reads records, and
        # some are added in between.
        if not self._fits(base, following) or (base > self.position and following > self.end):
            return self._unsure("its offsets do not match its position in the log")
        self._at += len(raw)
        self.position = following
        if raw[_MAGIC] < 2:
            return _LegacyBatch(self, raw, batch)
        return batch if batch.is_control_batch else _Batch(self, raw, batch)

    def _take(self) -> tuple[memoryview, Any]:
        """The bytes of the batch that comes now, and what aiokafka makes of them."""
        length = self._length()
        raw = self._raw[self._at : self._at + max(0, length)]
        if not _SHORTEST <= length == len(raw):
            raise ValueError("its length is damaged")
        magic = raw[_MAGIC]
        if magic > 2:
            raise ValueError(f"batches of format {magic} are unknown to this release")
        return raw, DefaultRecordBatch(bytes(raw)) if magic == 2 else LegacyRecordBatch(raw, magic)

    def expand(self, codec: int, data: memoryview) -> Any:
        """Decompress; see `codecs.expand`."""
        limit = EXPANSION_BYTES if self.watch is None else self.watch.expansion_bytes
        expanded = decompression.expand(codec, data, limit)
        self._expanded += len(expanded)
        return expanded

    def lost(
        self, raw: memoryview, offsets: tuple[int, int], time_ms: int, reason: str, what: str
    ) -> "Record":
        """The stand-in for a batch, or for what is left of it.

        Raises:
            DamagedLogError: this topic has no place for what cannot be read.
        """
        first, last = offsets
        place = f"offset {last}" if first >= last else f"offsets {first} to {last}"
        message = f"the record batch of {place} cannot be read: {what}"
        self.note(first, message)
        value = Unreadable.of(raw, reason, message)
        return Record(last, max(0, time_ms), None, None, value, [])

    def note(self, offset: int, message: str) -> None:
        """Something at this offset cannot be read.

        Raises:
            DamagedLogError: this topic has no place for it.
        """
        if self.watch is not None:
            self.watch.note(self.tp, offset, message)

    def _length(self) -> int:
        at = self._at + 8
        return _OVERHEAD + int.from_bytes(self._raw[at : at + 4], "big", signed=True)

    def _fits(self, base: int, following: int) -> bool:
        """Whether a batch of these offsets can be here: no checksum covers the first of them."""
        return self.position < following and (not self._at or base >= self.position)

    def _damaged(self, raw: memoryview) -> Any:
        """A batch that does not fit its checksum."""
        if self.watch is None:
            raise CorruptRecordException("a record batch does not match its checksum")
        fields = HEADER.unpack_from(raw) if len(raw) >= HEADER.size else None
        what = "it does not match its checksum"
        # which offsets it has is believed where two of its fields and the place where it stands agree
        if fields is None or raw[_MAGIC] != 2:
            return self._unsure(what)
        base, delta, count, newest_ms = fields[0], fields[6], fields[12], fields[8]
        last = base + delta
        fits = 0 <= delta < _MOST_RECORDS and count == delta + 1
        if not fits or not self._fits(base, last + 1) or last >= self.end:
            return self._unsure(f"{what}, and its header is damaged, too")
        if not self.watch.confirmed(self.tp, base):
            self._stopped = True
            return _Nothing(self.position)
        self._at += len(raw)
        self.position = last + 1
        return _Lost(self.lost(raw, (base, last), newest_ms, "damaged_batch", what))

    def _unsure(self, what: str) -> Any:
        """Nothing can be read from here on: where the next batch begins is not known."""
        self._stopped = True
        if self.watch is None:
            raise CorruptRecordException(f"a record batch cannot be read: {what}")
        if self._at:  # what came before is taken first; then this is the first one of a fetch
            return _Nothing(self.position)
        last = self.watch.skipped(self.tp, self.position)
        if last is None:
            self.watch.stop(self.tp, self.position, what)
            return _Nothing(self.position)
        message = f"the records of offsets {self.position} to {last} were skipped by hand: {what}"
        return _Lost(Record(last, 0, None, None, Unreadable.of(b"", "skipped", message), []))


class _Nothing:
    """No batch: what is here is fetched again."""

    producer_id = None
    is_control_batch = False

    def __init__(self, position: int) -> None:
        self.next_offset = position

    def validate_crc(self) -> bool:
        """Nothing to be done."""
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Lost:
    """A batch of which nothing can be trusted but where it ends."""

    producer_id = None
    is_control_batch = False

    def __init__(self, record: Record) -> None:
        self._record = record
        self.next_offset = record.offset + 1

    def validate_crc(self) -> bool:
        """Done before."""
        return True

    def __iter__(self) -> Iterator[Record]:
        return iter((self._record,))


class _Batch:
    """A batch of format 2 that fits its checksum; its records are read when they are asked for."""

    is_control_batch = False

    def __init__(self, answer: FetchedBatches, raw: memoryview, batch: DefaultRecordBatch) -> None:
        self._answer = answer
        self._raw = raw
        self._batch = batch
        self.producer_id = batch.producer_id
        self.is_transactional = batch.is_transactional
        self.base_offset = batch.base_offset
        self.next_offset = batch.next_offset

    def validate_crc(self) -> bool:
        """Done before."""
        return True

    def __iter__(self) -> Iterator[Any]:
        batch = self._batch
        codec = batch.compression_type
        raw: bytes | memoryview = self._raw
        if codec:
            try:
                raw = self._plain(codec)
            except _UnknownCodecError:
                yield self._lost("unknown_codec", f"codec {codec} is unknown to this release")
                return
            except decompression.TooLargeError as error:
                yield self._lost("batch_too_large", str(error))
                return
            except decompression.ExpandError as error:
                yield self._lost("unreadable_batch", str(error))
                return
            batch = DefaultRecordBatch(raw)
        try:
            yield from batch
        except Exception:  # noqa: BLE001 -- whatever its reading leads to: read again, with care
            yield from read_carefully(memoryview(raw), self._answer)

    def _plain(self, codec: int) -> bytes:
        """The batch as it would be without compression; its checksum is not made anew."""
        if codec not in (
            decompression.GZIP,
            decompression.SNAPPY,
            decompression.LZ4,
            decompression.ZSTD,
        ):
            raise _UnknownCodecError
        expanded = self._answer.expand(codec, self._raw[HEADER.size :])
        head = bytearray(self._raw[: HEADER.size])
        head[_ATTRIBUTES + 1] &= ~_CODEC_MASK & 0xFF
        return b"".join((head, expanded))

    def _lost(self, reason: str, what: str) -> Record:
        batch = self._batch
        offsets = self.base_offset, self.next_offset - 1
        return self._answer.lost(self._raw, offsets, batch.max_timestamp, reason, what)


class _UnknownCodecError(Exception):
    pass


class _LegacyBatch:
    """A message of format 0 or 1 that fits its checksum, perhaps with others inside."""

    producer_id = None
    is_control_batch = False

    def __init__(self, answer: FetchedBatches, raw: memoryview, batch: LegacyRecordBatch) -> None:
        self._answer = answer
        self._raw = raw
        self._batch = batch
        self.next_offset = batch.next_offset

    def validate_crc(self) -> bool:
        """Done before."""
        return True

    def __iter__(self) -> Iterator[Any]:
        last = self.next_offset - 1
        magic = self._raw[_MAGIC]
        codec = self._raw[_MAGIC + 1] & _CODEC_MASK
        reason = "unreadable_batch"
        try:
            if codec:  # aiokafka expands without a bound: try it with one first
                at = _MAGIC + 2 + 8 * magic
                key = int.from_bytes(self._raw[at : at + 4], "big", signed=True)
                self._answer.expand(codec, self._raw[at + 8 + max(0, key) :])
            records = list(self._batch)
        except decompression.TooLargeError as error:
            reason, what = "batch_too_large", str(error)
        except Exception as error:  # noqa: BLE001 -- whatever its reading leads to
            what = str(error) or type(error).__name__
        else:
            yield from records
            return
        time_ms = int.from_bytes(self._raw[18:26], "big", signed=True) if magic else 0
        yield self._answer.lost(self._raw, (last, last), time_ms, reason, what)


def _told(fetcher: Any, topic: str, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """A broker that finds its log damaged says so, and aiokafka asks it again, for ever: as bytes that are no batch."""
    partition, code, end, *rest = answer
    if code != CorruptRecordException.errno:
        return answer
    assignment = fetcher._subscriptions.subscription.assignment
    state = assignment.state_value(TopicPartition(topic, partition)) if assignment else None
    if state is not None and state.highwater is not None:
        end = state.highwater  # an error comes without
    return (partition, 0, end, *rest[:-1], b"damaged")


class _ReceivedBatches(OrderedDict[Any, Any]):
    """What a fetcher has received and nobody has taken, by partition."""

    def __init__(self, watch: UnreadableBatchPolicy) -> None:
        super().__init__()
        self._watch = watch

    def __setitem__(self, tp: Any, result: Any) -> None:
        if isinstance(result, aiokafka_fetcher.FetchResult):
            records = result._partition_records
            answer = records._records
            answer.watch, answer.tp, answer.position = self._watch, tp, records.next_fetch_offset
            answer.end = result._assignment.state_value(tp).highwater
        super().__setitem__(tp, result)


def watch(consumer: Any, by: UnreadableBatchPolicy) -> None:
    """Let a started aiokafka consumer read as this module says."""
    fetcher = consumer._fetcher
    send = fetcher._client.send

    async def send_watched(node: Any, request: Any, **options: Any) -> Any:
        response = await send(node, request, **options)
        if isinstance(request, FetchRequest):
            response.topics = [
                (topic, [_told(fetcher, topic, each) for each in partitions])
                for topic, partitions in response.topics
            ]
        return response

    fetcher._client.send = send_watched
    answers = _ReceivedBatches(by)
    answers.update(fetcher._records)
    fetcher._records = answers


def install() -> None:
    """Let every consumer of this process parse answers by `FetchedBatches`; those of Faust, too."""
    aiokafka_fetcher.MemoryRecords = FetchedBatches


install()
