"""Decompression of record batches, with a bound on what they may expand to.

aiokafka expands without a bound: 127 KB of gzip took 264 MB. Formats as Java, librdkafka and Go clients write them:
gzip with several members; snappy raw or in the blocks of snappy-java ("xerial"); LZ4 frames with or without sizes
and checksums; several zstd frames one after the other.
"""

import zlib

import cramjam

#: Codec numbers of the record format.
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
NAMES = ("none", "gzip", "snappy", "lz4", "zstd")

#: What the records of one compressed batch may expand to, as a multiple of the largest message of a deployment.
EXPANSION = 64
#: The same in bytes, where nothing else is said.
EXPANSION_BYTES = 64 << 20

_XERIAL = b"\x82SNAPPY\0"
_XERIAL_HEADER = 16  # the mark and two versions
_XERIAL_START = int.from_bytes(_XERIAL[:4], "big")
#: First guess of how many times as large the result is; each further one is four times the last.
_GUESS = 8
_GUESS_BYTES = 16 * 1024
_FULL = "failed to write whole buffer"


class ExpandError(Exception):
    """The bytes are not what their codec says."""


class TooLargeError(ExpandError):
    """They expand to more than the limit."""


def expand(codec: int, data: memoryview, limit: int) -> bytes | bytearray | memoryview:
    """Decompress the records of a batch; no more than about `limit` bytes are taken for it.

    Args:
        codec: GZIP, SNAPPY, LZ4 or ZSTD.
        data: compressed bytes.
        limit: largest result, bytes.

    Raises:
        TooLargeError: the result would be larger.
        ExpandError: the bytes are damaged or cut off.
    """
    try:
        if codec == GZIP:
            return _gzip(data, limit)
        if codec == SNAPPY:
            return _snappy(data, limit)
        return _stream(cramjam.lz4 if codec == LZ4 else cramjam.zstd, data, limit)
    except (zlib.error, cramjam.DecompressionError, OSError, ValueError) as error:
        raise ExpandError(f"{NAMES[codec]}: {error}") from error


def _gzip(data: memoryview, limit: int) -> bytes:
    parts: list[bytes] = []
    rest: bytes | memoryview = data
    room = limit
    while True:
        member = zlib.decompressobj(31)
        part = member.decompress(rest, room + 1)
        room -= len(part)
        if room < 0:
            raise _too_large(limit)
        parts.append(part)
        if not member.eof:
            raise ExpandError("gzip: cut off")
        rest = member.unused_data
        if not rest.startswith(b"\x1f\x8b"):  # as Java does: what is no further member is padding
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _snappy(data: memoryview, limit: int) -> bytes | bytearray:
    if bytes(data[: len(_XERIAL)]) != _XERIAL:
        return _snappy_block(data, limit)
    out = bytearray()
    at = _XERIAL_HEADER
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == _XERIAL_START:  # another stream behind the first
            at += _XERIAL_HEADER
            continue
        at += 4
        if at + size > len(data):
            raise ExpandError("snappy: cut off")
        out += _snappy_block(data[at : at + size], limit - len(out))
        at += size
    return out


def _snappy_block(data: memoryview, limit: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise _too_large(limit)
    return bytes(cramjam.snappy.decompress_raw(data))


def _stream(module: object, data: memoryview, limit: int) -> memoryview:
    """By ever larger buffers: neither format has to say how large the result is, and what it says may be wrong."""
    size = min(limit, max(_GUESS_BYTES, _GUESS * len(data)))
    while True:
        out = bytearray(size)
        try:
            used = module.decompress_into(data, out)  # type: ignore[attr-defined]
        except cramjam.DecompressionError as error:
            if _FULL not in str(error):
                raise
            if size == limit:
                raise _too_large(limit) from None
            size = min(limit, 4 * size)
        else:
            return memoryview(out)[:used]


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"it expands to more than {limit} bytes")
