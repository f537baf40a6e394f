"""The partitioner's hash beside aiokafka's."""

import random

from aiokafka.partitioner import murmur2 as kafkas

from app.kafka.partitioner import murmur2
from tests.seed import SEED


def test_it_is_kafkas_for_keys_of_any_length() -> None:
    numbers = random.Random(SEED)
    for length in range(300):
        for key in (numbers.randbytes(length), b"\xff" * length, b"\x00" * length):
            assert murmur2(key) == kafkas(key) & 0xFFFFFFFF, key
