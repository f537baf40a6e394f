"""Segments of the native protocol v5 whose payloads are compressed by LZ4. Pure; see cql_wire.py for the others."""

import zlib
from collections.abc import Iterator

import cramjam

from app.cassandra import cql_wire as wire

#: In the header: the length of the payload, of the same uncompressed (0: it is not compressed), and the last flag.
_LENGTH_BITS, _HEADER_BYTES = 17, 5
_CHECKSUM_BYTES = 3


def segments(opcode: int, stream: int, body: bytes) -> bytes:
    """One request frame in as many segments as it needs; a payload that would not become smaller stays as it is."""
    whole = wire.frame(opcode, stream, body)
    alone = len(whole) <= wire.SEGMENT_PAYLOAD
    parts = []
    for at in range(0, len(whole), wire.SEGMENT_PAYLOAD):
        payload = plain = whole[at : at + wire.SEGMENT_PAYLOAD]
        length = 0
        packed = bytes(cramjam.lz4.compress_block(plain, store_size=False))
        if len(packed) < len(plain):
            payload, length = packed, len(plain)
        word = len(payload) | length << _LENGTH_BITS | alone << 2 * _LENGTH_BITS
        parts += [
            wire.segment_header(word, _HEADER_BYTES),
            payload,
            zlib.crc32(payload, wire.CRC32_START).to_bytes(4, "little"),
        ]
    return b"".join(parts)


def take_segments(data: bytearray) -> Iterator[bytes]:
    """Remove whole segments from the front of `data`; gives their payloads, uncompressed.

    Raises:
        ProtocolError: a checksum does not match, or a payload is damaged.
    """
    at, header = 0, _HEADER_BYTES + _CHECKSUM_BYTES
    try:
        while len(data) - at >= header:
            word = int.from_bytes(data[at : at + _HEADER_BYTES], "little")
            if wire.segment_header(word, _HEADER_BYTES) != data[at : at + header]:
                msg = "a segment header's checksum does not match"
                raise wire.ProtocolError(msg)
            end = at + header + (word & wire.SEGMENT_PAYLOAD)
            if len(data) < end + wire.SEGMENT_TRAILER:
                return
            payload = bytes(data[at + header : end])
            at = end + wire.SEGMENT_TRAILER
            if zlib.crc32(payload, wire.CRC32_START).to_bytes(4, "little") != data[end:at]:
                msg = "a segment's checksum does not match"
                raise wire.ProtocolError(msg)
            yield _plain(payload, word >> _LENGTH_BITS & wire.SEGMENT_PAYLOAD)
    finally:
        del data[:at]


def _plain(payload: bytes, length: int) -> bytes:
    if not length:
        return payload
    plain = bytearray(length)
    try:
        written = cramjam.lz4.decompress_block_into(payload, plain, output_len=length)
    except (cramjam.DecompressionError, ValueError) as error:
        msg = f"a segment cannot be decompressed: {error}"
        raise wire.ProtocolError(msg) from error
    if written != length:
        msg = f"a segment has {written} bytes, not the announced {length}"
        raise wire.ProtocolError(msg)
    return bytes(plain)
