"""Frames and segments of the native protocol, against the driver's own implementation."""

import io
import random
import struct
import zlib

import cramjam
import pytest
from cassandra.protocol import _UNSET_VALUE, BatchMessage, PrepareMessage, ProtocolHandler
from cassandra.query import BatchType
from cassandra.segment import SegmentCodec

from app.cassandra import cql_lz4
from app.cassandra import cql_wire as wire


def response(opcode: int, body: bytes, stream: int = 7, flags: int = 0) -> bytes:
    return struct.pack(">BBhBi", 0x85, flags, stream, opcode, len(body)) + body


def by_driver(frame: bytes) -> bytes:
    buffer = io.BytesIO()
    SegmentCodec().encode(buffer, frame)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [0, 1, 1000, 131_062, 131_063, 400_000])
def test_segments_equal_those_of_the_driver(size: int) -> None:
    body = random.Random(size).randbytes(size)
    assert wire.segments(wire.BATCH, 300, body) == by_driver(wire.frame(wire.BATCH, 300, body))


def lz4_by_driver(frame: bytes) -> bytes:
    buffer = io.BytesIO()
    driver_lz4().encode(buffer, frame)
    return buffer.getvalue()


def driver_lz4() -> SegmentCodec:
    """The driver's codec with our library: the one that it looks for is not installed."""
    return SegmentCodec(
        lambda data: bytes(4) + bytes(cramjam.lz4.compress_block(data, store_size=False)),
        lambda data: bytes(
            cramjam.lz4.decompress_block(data[4:], output_len=int.from_bytes(data[:4], "big"))
        ),
    )


@pytest.mark.parametrize("size", [0, 1, 1000, 131_062, 131_063, 400_000])
@pytest.mark.parametrize("alphabet", [2, 256])
def test_compressed_segments_equal_those_of_the_driver(size: int, alphabet: int) -> None:
    body = bytes(random.Random(size).choices(range(alphabet), k=size))
    made = cql_lz4.segments(wire.BATCH, 300, body)
    assert made == lz4_by_driver(wire.frame(wire.BATCH, 300, body))
    assert (len(made) < len(body)) == (alphabet == 2 and size > 1)


@pytest.mark.parametrize(("step", "large"), [(1, 900), (1000, 200_000), (10**6, 200_000)])
def test_compressed_answers_may_come_in_pieces(step: int, large: int) -> None:
    sizes = [0, 4, 300, large, 1]
    stream = b"".join(
        lz4_by_driver(response(wire.RESULT, b"x" * size, size % 99)) for size in sizes
    )
    segments, waiting, got = bytearray(), bytearray(), []
    for at in range(0, len(stream), step):
        segments += stream[at : at + step]
        for payload in cql_lz4.take_segments(segments):
            waiting += payload
        got += [len(body) for *_, body in wire.take_frames(waiting)]
    assert got == sizes
    assert not segments and not waiting


@pytest.mark.parametrize("at", [0, 4, 6, 12, -1])
def test_a_flipped_bit_of_a_compressed_segment_is_found(at: int) -> None:
    damaged = bytearray(lz4_by_driver(response(wire.RESULT, b"\0\0\0\1" * 90)))
    damaged[at] ^= 0x10
    with pytest.raises(wire.ProtocolError, match="checksum"):
        list(cql_lz4.take_segments(damaged))


def test_a_compressed_segment_of_another_length_is_refused() -> None:
    payload = bytes(cramjam.lz4.compress_block(b"x" * 900, store_size=False))
    header = wire.segment_header(len(payload) | 901 << 17 | 1 << 34, 5)
    checksum = zlib.crc32(payload, wire.CRC32_START).to_bytes(4, "little")
    with pytest.raises(wire.ProtocolError, match="decompressed|announced"):
        list(cql_lz4.take_segments(bytearray(header + payload + checksum)))


def test_a_batch_equals_that_of_the_driver() -> None:
    rows = [[b"a", b"", _UNSET_VALUE], [b"bc" * 300, b"d", b"e"]]
    message = BatchMessage(
        BatchType.UNLOGGED, [(True, b"i" * 16, row) for row in rows], 6, None, 123
    )
    expected = ProtocolHandler.encode_message(message, 9, 5, None, False)
    packed = [
        b"".join(
            struct.pack(">i", -2) if v is _UNSET_VALUE else struct.pack(">i", len(v)) + v
            for v in row
        )
        for row in rows
    ]
    body = wire.batch(wire.statement_head(b"i" * 16, 3), packed, 6, 123)
    assert wire.frame(wire.BATCH, 9, body) == expected


def test_prepare_equals_that_of_the_driver() -> None:
    expected = ProtocolHandler.encode_message(PrepareMessage("SELECT ü"), 1, 5, None, False)
    assert wire.frame(wire.PREPARE, 1, wire.prepare("SELECT ü")) == expected


@pytest.mark.parametrize(
    ("step", "large"), [(1, 900), (7, 9_000), (1000, 200_000), (10**6, 200_000)]
)
def test_answers_may_come_in_pieces(step: int, large: int) -> None:
    sizes = [0, 4, 300, large, 1]
    frames = [response(wire.RESULT, b"x" * size, size % 99) for size in sizes]
    stream = by_driver(frames[0] + frames[1]) + b"".join(map(by_driver, frames[2:]))
    segments, waiting, got = bytearray(), bytearray(), []
    for at in range(0, len(stream), step):
        segments += stream[at : at + step]
        for payload in wire.take_segments(segments):
            waiting += payload
        got += [len(body) for *_, body in wire.take_frames(waiting)]
    assert got == sizes
    assert not segments and not waiting


@pytest.mark.parametrize("at", [0, 2, 4, 10, -1])
def test_a_flipped_bit_is_found(at: int) -> None:
    damaged = bytearray(by_driver(response(wire.RESULT, b"\0\0\0\1" * 9)))
    damaged[at] ^= 0x10
    with pytest.raises(wire.ProtocolError, match="checksum"):
        list(wire.take_segments(damaged))


def test_what_is_no_response_is_refused() -> None:
    with pytest.raises(wire.ProtocolError, match="not a response of protocol v5"):
        list(wire.take_frames(bytearray(b"HTTP/1.1 400 Bad Request\r\n")))


def test_an_error_is_read_behind_warnings_tracing_and_payload() -> None:
    text = b"Batch too large\nsecond line"
    error = struct.pack(">iH", 0x2200, len(text)) + text
    assert wire.read_failure(0, error) == wire.ServerError(0x2200, "Batch too large")
    warnings = struct.pack(">HH", 2, 3) + b"one" + struct.pack(">H", 0)
    payload = struct.pack(">HH", 1, 1) + b"k" + struct.pack(">i", 2) + b"vv"
    extras = b"t" * 16 + warnings + payload
    assert wire.read_failure(0x02 | 0x04 | 0x08, extras + error).code == 0x2200


def test_only_a_prepared_result_has_a_statement() -> None:
    prepared = struct.pack(">iH", 4, 16) + b"i" * 16 + b"metadata"
    assert wire.read_statement_id(0, prepared) == b"i" * 16
    for other in (b"", struct.pack(">i", 1), prepared[:10]):
        with pytest.raises(wire.ProtocolError, match="prepared statement was expected"):
            wire.read_statement_id(0, other)


def test_credentials_are_sasl_plain() -> None:
    assert wire.plain_credentials("ann", "sécret") == b"\0\0\0\x0c\0ann\0s\xc3\xa9cret"


def test_an_answer_of_any_length_is_not_believed() -> None:
    announced = struct.pack(">BBhBi", 0x85, 0, 1, wire.RESULT, wire.ANSWER_BYTES + 1)
    with pytest.raises(wire.ProtocolError, match="announces an answer of 16777217 bytes"):
        list(wire.take_frames(bytearray(announced)))
