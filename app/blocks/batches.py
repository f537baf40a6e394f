"""Kafka record batches by hand: one or a few for a block, past Faust's producer buffer."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

from app.blocks.rows import RECORD_OVERHEAD_BYTES, Row
from app.errors import StateError

#: key, value, headers
OutRecord = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
#: Outputs of a block: records by destination, in order.
Outputs = dict[tuple[str, int], list[OutRecord]]


def _fill(producer: Any, records: Iterable[OutRecord], limit_bytes: int) -> Iterable[Any]:
    builder, filled = producer.create_batch(), 0
    for key, value, headers in records:
        size = len(key or b"") + len(value or b"") + RECORD_OVERHEAD_BYTES
        size += sum(len(name) + len(raw) + 8 for name, raw in headers)
        # the builder takes an oversized first record and send_batch checks no size: count ourselves
        if size > limit_bytes:
            msg = f"a record of {size} bytes exceeds the producer's batch of {limit_bytes} bytes"
            raise StateError(msg)
        if filled and filled + size > limit_bytes:
            builder.close()
            yield builder
            builder, filled = producer.create_batch(), 0
        if builder.append(key=key, value=value, timestamp=None, headers=headers) is None:
            msg = "a record batch was full before its counted size"
            raise StateError(msg)
        filled += size
    if filled:
        builder.close()
        yield builder


async def send_outputs(producer: Any, outputs: Outputs, limit_bytes: int) -> Awaitable[Any]:
    """Hand outputs to the producer, each destination in order.

    Args:
        producer: a started aiokafka producer.
        outputs: records by (topic, partition).
        limit_bytes: largest batch.

    Returns:
        Resolves once every batch is acknowledged; fails if one cannot be.
    """
    futures = []
    for (topic, partition), records in outputs.items():
        for batch in _fill(producer, records, limit_bytes):
            futures.append(await producer.send_batch(batch, topic, partition=partition))
    return asyncio.gather(*futures)


async def append_rows(producer: Any, topic: str, partition: int, rows: list[Row]) -> int:
    """Append rows as one record batch; returns the offset of its first record once acknowledged."""
    builder = producer.create_batch()
    for key, raw in rows:
        if builder.append(key=key, value=raw, timestamp=None) is None:
            msg = f"{len(rows)} rows do not fit one record batch of {topic}"
            raise StateError(msg)
    builder.close()
    future = await producer.send_batch(builder, topic, partition=partition)
    metadata = await future  # its offset is that of the FIRST record
    offset: int = metadata.offset
    return offset
