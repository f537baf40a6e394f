"""What becomes of a fetch's answer: every codec as foreign clients write it, and whatever cannot be parsed."""

import gzip
import math
import random
import struct
import tracemalloc
from typing import Any

import cramjam
import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.structs import TopicPartition

from app.blocks.faust import decompression
from app.blocks.faust.fetch_parsing import FetchedBatches
from app.blocks.faust.unreadable_batches import UnreadableBatchPolicy
from app.errors import DamagedLogError
from app.wire.unreadable import Unreadable
from tests.raw_batches import (
    ATTRIBUTES,
    COUNT,
    DELTA,
    HEADER,
    Made,
    batch,
    compressed,
    plain,
    sealed,
)

TP = TopicPartition("transactions", 3)


def read(
    raw: bytes, watch: UnreadableBatchPolicy | None = None, offset: int = 0, **options: Any
) -> list[Any]:
    return list(parse(raw, watch, offset, **options))


def parse(
    raw: bytes,
    watch: UnreadableBatchPolicy | None = None,
    offset: int = 0,
    aborted: Any = None,
    isolation: int = READ_UNCOMMITTED,
    end: float = math.inf,
) -> PartitionRecords:
    answer = FetchedBatches(bytes(raw))
    answer.watch, answer.tp, answer.position = (
        watch or UnreadableBatchPolicy({TP.topic}),
        TP,
        offset,
    )
    answer.end = end
    assert answer.has_next()
    return PartitionRecords(TP, answer, aborted, offset, None, None, True, isolation)


def offsets(records: list[Any]) -> list[int]:
    return [record.offset for record in records]


VALUES = [b'{"n": %d}' % number * 40 for number in range(300)]


def xerial(data: bytes, size: int, version: int = 1) -> bytes:
    out = b"\x82SNAPPY\0" + struct.pack(">ii", version, 1)
    for at in range(0, len(data), size):
        block = bytes(cramjam.snappy.compress_raw(data[at : at + size]))
        out += struct.pack(">i", len(block)) + block
    return out


def lz4(data: bytes, **options: Any) -> bytes:
    compressor = cramjam.lz4.Compressor(**options)
    compressor.compress(data)
    return bytes(compressor.finish())


def halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


WRITTEN: dict[str, tuple[int, Any]] = {
    "gzip": (1, gzip.compress),
    "gzip, two members": (1, lambda data: b"".join(map(gzip.compress, halves(data)))),
    "gzip, padded": (1, lambda data: gzip.compress(data) + bytes(16)),
    "snappy, raw": (2, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "snappy, xerial": (2, lambda data: xerial(data, 32 * 1024)),
    "snappy, xerial in small blocks": (2, lambda data: xerial(data, 1000)),
    "snappy, xerial of another version": (2, lambda data: xerial(data, 4000, version=2)),
    "snappy, two xerial streams": (2, lambda data: b"".join(xerial(h, 9000) for h in halves(data))),
    "lz4": (3, lambda data: lz4(data, content_checksum=False, block_linked=False)),
    "lz4, checksum": (3, lambda data: lz4(data, content_checksum=True, block_linked=False)),
    "lz4, linked blocks": (3, lambda data: lz4(data, content_checksum=True, block_linked=True)),
    "lz4, two frames": (3, lambda data: b"".join(map(lz4, halves(data)))),
    "zstd": (4, lambda data: bytes(cramjam.zstd.compress(data))),
    "zstd, level 19": (4, lambda data: bytes(cramjam.zstd.compress(data, level=19))),
    "zstd, two frames": (
        4,
        lambda data: b"".join(bytes(cramjam.zstd.compress(h)) for h in halves(data)),
    ),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_every_codec_is_read_however_it_was_written(how: str) -> None:
    codec, write = WRITTEN[how]
    raw = compressed(write(plain(VALUES)), codec, VALUES, base=17)
    records = read(raw + batch([b"next"], base=317), offset=17)
    assert [record.value for record in records] == [*VALUES, b"next"]
    assert offsets(records) == [*range(17, 318)]
    assert records[1].timestamp == 1_700_000_000_001


@pytest.mark.parametrize("codec", range(5))
def test_our_own_batches_are_read(codec: int) -> None:
    assert [record.value for record in read(batch(VALUES, codec=codec))] == VALUES


def test_an_empty_xerial_stream_is_an_empty_batch() -> None:
    assert bytes(decompression.expand(decompression.SNAPPY, memoryview(xerial(b"", 1)), 10)) == b""


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
@pytest.mark.parametrize("damage", ["cut off", "garbage", "empty"])
def test_what_does_not_decompress_is_one_stand_in(codec: int, damage: str) -> None:
    write = {1: gzip.compress, 2: xerial_default, 3: lz4, 4: zstd}[codec]
    whole = write(plain(VALUES))
    payload = {"cut off": whole[:-20], "garbage": b"\x07" * 400, "empty": b""}[damage]
    raw = compressed(payload, codec, VALUES, base=40)
    records = read(batch([b"before"], base=39) + raw + batch([b"after"], base=340), offset=39)
    assert offsets(records) == [39, 339, 340]
    lost = records[1].value
    assert isinstance(lost, Unreadable)
    assert lost.reason == "unreadable_batch"
    assert "offsets 40 to 339" in lost.message
    assert lost == raw


def xerial_default(data: bytes) -> bytes:
    return xerial(data, 32 * 1024)


def zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data))


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_batch_that_expands_too_far_is_refused_before_it_takes_the_memory(codec: int) -> None:
    write = {1: gzip.compress, 2: xerial_default, 3: lz4, 4: zstd}[codec]
    payload = write(bytes(8 << 20))
    raw = compressed(payload, codec, [b"x"])
    tracemalloc.start()
    (record,) = read(raw, UnreadableBatchPolicy({TP.topic}, expansion_bytes=1 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record.value.reason == "batch_too_large"
    assert record.value == raw
    assert peak < (3 << 20) + 4 * len(raw)


def test_a_declared_size_is_not_believed() -> None:
    # snappy says first how large the result is: 4 GiB here
    raw = compressed(b"\xff\xff\xff\xff\x0f" + b"\0" * 20, 2, [b"x"])
    (record,) = read(raw)
    assert record.value.reason == "batch_too_large"


def test_one_answer_does_not_expand_to_more_than_its_bound() -> None:
    large = [bytes(9 << 20)]
    raw = b"".join(compressed(gzip.compress(plain(large)), 1, large, base=n) for n in range(8))
    parsed = parse(raw)
    assert offsets(list(parsed)) == [0, 1]  # the others are fetched again
    assert parsed.next_fetch_offset == 2


def test_a_codec_that_nobody_knows() -> None:
    raw = compressed(b"whatever", 6, VALUES)
    (record,) = read(raw)
    assert record.offset == 299
    assert record.value.reason == "unknown_codec"


def test_a_header_name_that_is_not_utf8_is_read_with_escapes() -> None:
    raw = batch([b"1", Made(b"2", [("XXXX", b"v"), ("plain", None)]), b"3"], base=5)
    at = raw.index(b"XXXX")
    raw[at : at + 4] = b"\xff\xfea\xfc"
    records = read(sealed(raw), offset=5)
    assert [record.value for record in records] == [b"1", b"2", b"3"]
    assert records[1].headers == ((r"\xff\xfea\xfc", b"v"), ("plain", None))
    assert records[1].key == b"c"
    assert [record.timestamp % 10 for record in records] == [0, 1, 2]
    records[1].headers[0][0].encode()  # it can be sent on


def test_a_record_that_cannot_be_read_does_not_take_its_neighbours_along() -> None:
    raw = batch([b"1", Made(b"2", [("XXXX", b"v")]), b"3"], base=5)
    raw[raw.index(b"XXXX") - 1] = 0x7F  # the name's length: far beyond the record
    records = read(sealed(raw), offset=5)
    assert offsets(records) == [5, 6, 7]
    assert [records[0].value, records[2].value] == [b"1", b"3"]
    assert records[1].value.reason == "unreadable_record"
    assert records[1].key is None
    assert b"XXXX" in records[1].value


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_batch_that_ends_too_early_keeps_what_can_be_read(cut: int) -> None:
    raw = sealed(batch([b"value-%d" % number for number in range(5)], base=5)[:-cut])
    records = read(raw + batch([b"next"], base=10), offset=5)
    values = [record.value for record in records]
    *good, lost, following = values
    assert good == [b"value-%d" % number for number in range(len(good))]
    assert lost.reason == "unreadable_batch"
    assert records[-2].offset == 9
    assert following == b"next"


def test_from_wherever_a_fetch_begins_the_stand_in_is_the_same() -> None:
    raw = compressed(b"", 4, VALUES, base=100)
    for begin in (100, 101, 399):
        (record,) = read(raw, offset=begin)
        assert record.offset == 399
        assert record.value == raw


def test_a_damaged_batch_is_fetched_again_before_it_is_given_up() -> None:
    raw = batch(VALUES, base=100)
    raw[200] ^= 1
    watch = UnreadableBatchPolicy({TP.topic})
    before, after = batch([b"before"], base=99), batch([b"after"], base=400)
    first = parse(before + raw + after, watch, 99)
    assert offsets(list(first)) == [99]
    assert first.next_fetch_offset == 100
    again = parse(raw + after, watch, 100)
    assert list(again) == []
    assert again.next_fetch_offset == 100
    lost, following = read(raw + after, watch, 100)
    assert (lost.offset, following.offset) == (399, 400)
    assert lost.value.reason == "damaged_batch"
    assert lost.value == raw


def test_a_batch_that_was_damaged_on_its_way_only_is_read() -> None:
    sound = batch(VALUES)
    damaged = bytearray(sound)
    damaged[200] ^= 1
    watch = UnreadableBatchPolicy({TP.topic})
    assert read(damaged, watch) == []
    assert offsets(read(sound, watch)) == [*range(300)]


def _with(raw: bytearray, at: int, new: bytes) -> bytearray:
    raw[at : at + len(new)] = new
    return raw


NO_END = {
    "length": lambda raw: _with(raw, 8, b"\x7f"),
    "negative length": lambda raw: _with(raw, 8, b"\xff"),
    "short length": lambda raw: _with(raw, 8, b"\0\0\0\x05"),
    "format": lambda raw: _with(raw, 16, b"\x07"),
    "last offset": lambda raw: _with(raw, DELTA, b"\0\x0f"),
    "count": lambda raw: _with(raw, COUNT, b"\0\x0f"),
    "base": lambda raw: _with(raw, 0, b"\x80"),
    "few bytes": lambda raw: raw[:5],
}


@pytest.mark.parametrize("what", NO_END)
def test_where_no_end_is_certain_the_partition_stops(what: str) -> None:
    raw = NO_END[what](batch(VALUES, base=100))
    if what == "base":
        raw[200] ^= 1  # the checksum does not cover the base
    watch = UnreadableBatchPolicy({TP.topic})
    watch.stopped = {}
    parsed = parse(raw, watch, 100)
    assert list(parsed) == []
    assert parsed.next_fetch_offset == 100
    assert "transactions/3 cannot be read from offset 100 on" in str(watch.stopped[TP])
    assert (watch.stopped[TP].topic, watch.stopped[TP].offset) == (TP.topic, 100)


def test_records_that_were_added_while_the_broker_read_are_taken() -> None:
    """The broker notes the end of its log (here: 3 and 300) first, and reads what is there by then."""
    raw = batch(VALUES, base=0) + batch(VALUES, base=300)
    for end in (3, 300):
        assert offsets(read(raw, end=end)) == [*range(600)]
    watch = UnreadableBatchPolicy({TP.topic})
    watch.stopped = {}
    assert read(batch(VALUES, base=700), watch, 600, end=650) == []  # a gap, and beyond the end
    assert TP in watch.stopped


def test_where_nobody_looks_at_stopped_partitions_it_is_an_error() -> None:
    with pytest.raises(DamagedLogError, match="transactions/3 cannot be read from offset 7 on"):
        read(NO_END["format"](batch(VALUES, base=7)), offset=7)


def test_what_comes_before_is_not_lost_with_it() -> None:
    raw = batch([b"before"], base=6) + NO_END["format"](batch(VALUES, base=7))
    watch = UnreadableBatchPolicy({TP.topic})
    parsed = parse(raw, watch, 6)
    assert offsets(list(parsed)) == [6]
    assert parsed.next_fetch_offset == 7


def test_skipped_offsets_have_one_stand_in() -> None:
    watch = UnreadableBatchPolicy({TP.topic})
    watch.skip(TP, 100, 399)
    parsed = parse(NO_END["length"](batch(VALUES, base=100)), watch, 100)
    (record,) = list(parsed)
    assert record.offset == 399
    assert record.value.reason == "skipped"
    assert record.value == b""
    assert parsed.next_fetch_offset == 400


@pytest.mark.parametrize("payload", [b"", b"garbage"])
def test_a_topic_without_refusals_raises(payload: bytes) -> None:
    with pytest.raises(DamagedLogError, match="transactions/3 cannot be read from offset 0 on"):
        read(compressed(payload, 3, VALUES), UnreadableBatchPolicy())


def test_what_was_aborted_is_not_looked_at() -> None:
    raw = bytearray(compressed(b"garbage", 3, VALUES))
    struct.pack_into(">q", raw, 43, 77)
    raw[ATTRIBUTES + 1] |= 0x10
    after = batch([b"after"], base=300)
    records = read(sealed(raw) + after, aborted=[(77, 0)], isolation=READ_COMMITTED)
    assert [record.value for record in records] == [b"after"]


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1, 2])
def test_older_formats_are_read(magic: Any, codec: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    for number in range(3):
        builder.append(number, 1_700_000_000_000, b"k", b"v%d" % number)
    records = read(builder.build())
    assert [record.value for record in records] == [b"v0", b"v1", b"v2"]


def test_an_older_batch_that_expands_too_far() -> None:
    builder = LegacyRecordBatchBuilder(1, 1, 1 << 24)
    builder.append(0, 1_700_000_000_000, b"k", bytes(4 << 20))
    (record,) = read(builder.build(), UnreadableBatchPolicy({TP.topic}, expansion_bytes=1 << 20))
    assert record.value.reason == "batch_too_large"
    assert record.timestamp == 0  # of the outer message


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_damaged_nothing_is_raised_and_no_offset_comes_twice(seed: int) -> None:
    rng = random.Random(seed)
    sound = b"".join(batch(VALUES[:9], base=9 * n, codec=n % 5) for n in range(6))
    for _ in range(20):
        raw = bytearray(sound)
        for _ in range(rng.choice((1, 1, 5, 100))):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        watch = UnreadableBatchPolicy({TP.topic})
        watch.stopped = {}
        for _ in range(4):
            parsed = parse(raw, watch, 0, end=54)
            before = -1
            for record in parsed:
                assert before < record.offset < 54
                before = record.offset
            assert before < parsed.next_fetch_offset <= 54


@pytest.mark.parametrize("seed", range(30))
def test_whatever_a_producer_sends_nothing_is_raised(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        raw = batch(VALUES[:9], codec=rng.randrange(5))
        for _ in range(rng.choice((1, 1, 5, 100))):
            raw[rng.randrange(HEADER, len(raw))] = rng.randrange(256)
        records = read(sealed(raw))
        assert offsets(records) == sorted(set(offsets(records)))


def test_without_a_watch_aiokafka_hears_of_it_as_before() -> None:
    raw = batch(VALUES)
    raw[200] ^= 1
    with pytest.raises(CorruptRecordException):
        list(PartitionRecords(TP, FetchedBatches(bytes(raw)), None, 0, None, None, True, 0))
