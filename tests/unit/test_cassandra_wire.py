"""Frames and segments of the native protocol, against the driver's own implementation."""

import io
import random
import struct

import pytest
from cassandra.protocol import _UNSET_VALUE, BatchMessage, PrepareMessage, ProtocolHandler
from cassandra.query import BatchType
from cassandra.segment import SegmentCodec

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
    with pytest.raises(wire.ProtocolError, match="no response of protocol v5"):
        list(wire.take_frames(bytearray(b"HTTP/1.1 400 Bad Request\r\n")))


def test_an_error_is_read_behind_warnings_tracing_and_payload() -> None:
    text = b"Batch too large\nsecond line"
    error = struct.pack(">iH", 0x2200, len(text)) + text
    assert wire.read_failure(0, error) == wire.Failure(0x2200, "Batch too large")
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
    with pytest.raises(wire.ProtocolError, match="an answer of 16777217 bytes is announced"):
        list(wire.take_frames(bytearray(announced)))
