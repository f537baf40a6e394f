"""Record batches byte by byte, as foreign producers or damaged disks have them, and a way to send them."""

import asyncio
import struct
from collections import namedtuple
from collections.abc import Iterable
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NotLeaderForPartitionError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

HEADER = 61
CRC, ATTRIBUTES, DELTA, COUNT = 17, 21, 23, 57
Made = namedtuple("Made", "value headers", defaults=([],))


def batch(
    values: Iterable[Any],
    base: int = 0,
    codec: int = 0,
    producer: int = -1,
    key: bytes = b"c",
) -> bytearray:
    builder = DefaultRecordBatchBuilder(2, codec, producer >= 0, producer, 0, 0, 1 << 24)
    for number, value in enumerate(values):
        made = value if isinstance(value, Made) else Made(value)
        builder.append(number, 1_700_000_000_000 + number, key, made.value, made.headers)
    raw = bytearray(builder.build())
    raw[:8] = struct.pack(">q", base)
    return raw


def sealed(raw: bytearray) -> bytearray:
    """The batch with its length and checksum as they should be."""
    raw[8:12] = struct.pack(">i", len(raw) - 12)
    raw[CRC : CRC + 4] = struct.pack(">I", calc_crc32c(bytes(raw[ATTRIBUTES:])))
    return raw


def compressed(payload: bytes, codec: int, values: list[bytes], base: int = 0) -> bytearray:
    """A batch of these values with a payload that somebody else has compressed."""
    raw = batch(values, base)[:HEADER] + payload
    raw[ATTRIBUTES + 1] |= codec
    return sealed(raw)


def plain(values: list[bytes]) -> bytes:
    return bytes(batch(values)[HEADER:])


def send_raw(broker: str, topic: str, partition: int, raw: bytes) -> int:
    """Send a batch as it is; returns the offset of its first record."""

    async def send() -> int:
        client = AIOKafkaClient(bootstrap_servers=broker)
        await client.bootstrap()
        try:
            request = ProduceRequest(
                required_acks=-1, timeout=30_000, topics=[(topic, [(partition, bytes(raw))])],
                transactional_id=None,
            )  # fmt: skip
            await client._wait_on_metadata(topic)
            while True:
                leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
                response = await client.send(leader, request)
                ((_, ((_, code, offset, *_rest),)),) = response.topics
                if code not in (
                    0,
                    NotLeaderForPartitionError.errno,
                ):  # a new topic has no leader yet
                    msg = f"Kafka refuses the batch: error {code}"
                    raise AssertionError(msg)
                if code == 0:
                    return int(offset)
                await asyncio.sleep(0.1)
                await client.force_metadata_update()
        finally:
            await client.close()

    return asyncio.run(send())
