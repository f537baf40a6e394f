"""The few messages of Cassandra's native protocol v5 that writing rows needs, as bytes. Pure, no I/O.

Frames: a 9-byte header (version, flags, stream, opcode, length) and a body. After the handshake, v5 carries
frames in segments of at most 128 KiB, each with a checksum over its header and one over its payload.
Reference: doc/native_protocol_v5.spec in Cassandra's source.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

VERSION = 5
# Opcodes: requests, then responses.
STARTUP, PREPARE, BATCH, AUTH_RESPONSE = 0x01, 0x09, 0x0D, 0x0F
ERROR, READY, AUTHENTICATE, RESULT, AUTH_CHALLENGE, AUTH_SUCCESS = 0, 2, 3, 8, 0x0E, 0x10

#: Authenticators that take user and password; any other gets none.
PASSWORD_LOGINS = frozenset(
    f"org.apache.cassandra.auth.{name}"
    for name in ("PasswordAuthenticator", "MutualTlsWithPasswordFallbackAuthenticator")
)
#: Takes the client certificate of the connection for a login.
CERTIFICATE_LOGIN = "org.apache.cassandra.auth.MutualTlsAuthenticator"

HEADER_BYTES = 9
#: The largest answer that is read: ours are of a few hundred bytes, errors name a table or a node.
ANSWER_BYTES = 16 << 20
_RESPONSE = 0x80
_FLAG_TRACING, _FLAG_PAYLOAD, _FLAG_WARNING = 0x02, 0x04, 0x08
_UNLOGGED = b"\x01"
_FLAG_TIMESTAMP = 0x20
_RESULT_PREPARED = 4
_header = struct.Struct(">BBhBi")
_batch_tail = struct.Struct(">HIq").pack

SEGMENT_PAYLOAD = (1 << 17) - 1
_SELF_CONTAINED = 1 << 17
_SEGMENT_HEADER, SEGMENT_TRAILER = 6, 4
CRC32_START = zlib.crc32(b"\xfa\x2d\x55\xca")
_CRC24_START, _CRC24_POLYNOMIAL = 0x875060, 0x1974F0B


class ProtocolError(Exception):
    """The peer sent what the protocol does not allow, or a checksum does not match."""


@dataclass(frozen=True)
class ServerError:
    """What an ERROR message says.

    Attributes:
        code: the protocol's error code.
        message: one line of the server's.
    """

    code: int
    message: str


def frame(opcode: int, stream: int, body: bytes) -> bytes:
    """One request frame."""
    return _header.pack(VERSION, 0, stream, opcode, len(body)) + body


def startup(compression: str = "none") -> bytes:
    """The body that opens a conversation; with `lz4`, segments are those of cql_lz4.py."""
    options = {"CQL_VERSION": "3.0.0", "DRIVER_NAME": "fraudstream"}
    if compression != "none":
        options["COMPRESSION"] = compression
    return struct.pack(">H", len(options)) + b"".join(
        _string(text) for pair in options.items() for text in pair
    )


def plain_credentials(user: str, password: str) -> bytes:
    """The body that answers AUTHENTICATE with user and password (SASL PLAIN)."""
    token = b"\0" + user.encode() + b"\0" + password.encode()
    return struct.pack(">i", len(token)) + token


def empty_credentials() -> bytes:
    """The body that answers AUTHENTICATE where the certificate says who we are."""
    return struct.pack(">i", 0)


def read_authenticator(flags: int, body: bytes) -> str:
    """The class name that an AUTHENTICATE body has."""
    body = _without_extras(flags, body)
    size = int.from_bytes(body[:2], "big")
    return body[2 : 2 + size].decode(errors="replace")


def prepare(query: str) -> bytes:
    """The body that prepares a statement."""
    text = query.encode()
    return struct.pack(">i", len(text)) + text + struct.pack(">I", 0)


def statement_head(statement_id: bytes, columns: int) -> bytes:
    """What stands before each row's values in a BATCH body: prepared, its id, the number of values."""
    return b"".join((
        b"\x01", struct.pack(">H", len(statement_id)), statement_id, struct.pack(">H", columns),
    ))  # fmt: skip


def batch(head: bytes, rows: Sequence[bytes], consistency: int, timestamp_us: int) -> bytes:
    """The body of an unlogged batch of one prepared statement.

    Args:
        head: see `statement_head`.
        rows: packed values, one a row.
        consistency: the level's number.
        timestamp_us: of every cell, epoch microseconds; a repeated batch must repeat it.
    """
    count = len(rows).to_bytes(2, "big")
    tail = _batch_tail(consistency, _FLAG_TIMESTAMP, timestamp_us)
    return b"".join((_UNLOGGED, count, head, head.join(rows), tail))


def read_header(data: bytes | bytearray | memoryview) -> tuple[int, int, int, int]:
    """Flags, stream, opcode and body length of a response header.

    Raises:
        ProtocolError: it is no response of this version.
    """
    version, flags, stream, opcode, length = _header.unpack_from(data)
    # The handshake's answer may come in an older version when the server does not know ours.
    if version & 0x7F != VERSION and opcode != ERROR or not version & _RESPONSE or length < 0:
        msg = f"not a response of protocol v{VERSION}: {bytes(data[:HEADER_BYTES])!r}"
        raise ProtocolError(msg)
    if length > ANSWER_BYTES:
        msg = f"the server announces an answer of {length} bytes; the limit is {ANSWER_BYTES}"
        raise ProtocolError(msg)
    return flags, stream, opcode, length


def read_failure(flags: int, body: bytes) -> ServerError:
    """What an ERROR body says."""
    body = _without_extras(flags, body)
    code, size = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:6], "big")
    return ServerError(code, body[6 : 6 + size].decode(errors="replace").split("\n", 1)[0])


def read_statement_id(flags: int, body: bytes) -> bytes:
    """The id of the statement that a RESULT body says was prepared.

    Raises:
        ProtocolError: it is another result.
    """
    body = _without_extras(flags, body)
    size = int.from_bytes(body[4:6], "big")
    if int.from_bytes(body[:4], "big") != _RESULT_PREPARED or len(body) < 6 + size:
        msg = f"a prepared statement was expected, not the result {body[:32]!r}"
        raise ProtocolError(msg)
    return body[6 : 6 + size]


def _without_extras(flags: int, body: bytes) -> bytes:
    """The body without what tracing, warnings and payloads put before it."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(body[at : at + size], "big", signed=size == 4)

    at = 16 if flags & _FLAG_TRACING else 0
    if flags & _FLAG_WARNING:
        count, at = number(at, 2), at + 2
        for _ in range(count):
            at += 2 + number(at, 2)
    if flags & _FLAG_PAYLOAD:
        count, at = number(at, 2), at + 2
        for _ in range(count):
            at += 2 + number(at, 2)
            at += 4 + max(0, number(at, 4))
    return body[at:]


def _string(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def segments(opcode: int, stream: int, body: bytes) -> bytes:
    """One request frame in as many segments as it needs."""
    header = _header.pack(VERSION, 0, stream, opcode, len(body))
    size = HEADER_BYTES + len(body)
    if size <= SEGMENT_PAYLOAD:  # nearly always: no copy of the body before the last one
        checksum = zlib.crc32(body, zlib.crc32(header, CRC32_START))
        return b"".join((
            segment_header(size | _SELF_CONTAINED), header, body, checksum.to_bytes(4, "little"),
        ))  # fmt: skip
    whole = header + body
    parts = []
    for at in range(0, size, SEGMENT_PAYLOAD):
        payload = whole[at : at + SEGMENT_PAYLOAD]
        parts += [
            segment_header(len(payload)),
            payload,
            zlib.crc32(payload, CRC32_START).to_bytes(4, "little"),
        ]
    return b"".join(parts)


def take_segments(data: bytearray) -> Iterator[bytes]:
    """Remove whole segments from the front of `data`; gives their payloads.

    Raises:
        ProtocolError: a checksum does not match.
    """
    at = 0
    try:
        while len(data) - at >= _SEGMENT_HEADER:
            word = int.from_bytes(data[at : at + 3], "little")
            if _crc24(word).to_bytes(3, "little") != data[at + 3 : at + 6]:
                msg = "a segment header's checksum does not match"
                raise ProtocolError(msg)
            start = at + _SEGMENT_HEADER
            end = start + (word & SEGMENT_PAYLOAD)
            if len(data) < end + SEGMENT_TRAILER:
                return
            payload = bytes(data[start:end])
            at = end + SEGMENT_TRAILER
            if zlib.crc32(payload, CRC32_START).to_bytes(4, "little") != data[end:at]:
                msg = "a segment's checksum does not match"
                raise ProtocolError(msg)
            yield payload
    finally:
        del data[:at]


def take_frames(data: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Remove whole frames from the front of `data`; gives flags, stream, opcode and body of each.

    Raises:
        ProtocolError: something else than responses stands there.
    """
    at = 0
    try:
        while len(data) - at >= HEADER_BYTES:
            flags, stream, opcode, length = read_header(data[at : at + HEADER_BYTES])
            end = at + HEADER_BYTES + length
            if len(data) < end:
                return
            body = bytes(data[at + HEADER_BYTES : end])
            at = end
            yield flags, stream, opcode, body
    finally:
        del data[:at]


def segment_header(word: int, size: int = 3) -> bytes:
    """A segment's header with its checksum.

    Args:
        word: lengths and flag.
        size: bytes that they take, 5 with compression.
    """
    return (word | _crc24(word, size) << 8 * size).to_bytes(size + 3, "little")


def _crc24(word: int, size: int = 3) -> int:
    """CRC-24 of the bytes of a segment header, lowest byte first."""
    checksum = _CRC24_START
    for shift in range(0, 8 * size, 8):
        checksum = (checksum << 8 & 0xFFFFFF) ^ _CRC24_TABLE[
            (checksum >> 16) ^ (word >> shift & 0xFF)
        ]
    return checksum


def _crc24_entry(byte: int) -> int:
    checksum = byte << 16
    for _ in range(8):
        checksum <<= 1
        if checksum & 0x1000000:
            checksum ^= _CRC24_POLYNOMIAL
    return checksum


_CRC24_TABLE = tuple(_crc24_entry(byte) for byte in range(256))
