"""Kafka record batches by hand: one or a few for a block, past Faust's producer buffer."""

import asyncio
import math
from collections.abc import Awaitable, Iterable
from typing import Any

from app.blocks.rows import RECORD_OVERHEAD_BYTES, Row
from app.errors import StateError

#: For so long a broker knows a producer at least (producer.id.expiration.ms is a day).
_KNOWN_SECONDS = 3600.0

#: key, value, headers
OutRecord = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
#: Outputs of a block: records by destination, in order.
Outputs = dict[tuple[str, int], list[OutRecord]]


def _fill(producer: Any, records: Iterable[OutRecord], limit_bytes: int) -> Iterable[Any]:
    builder, filled = producer.create_batch(), 0
    for key, value, headers in records:
        size = len(key or b"") + len(value or b"") + RECORD_OVERHEAD_BYTES
        size += sum(4 * len(name) + len(raw or b"") + 8 for name, raw in headers)
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


class OutputSender:
    """Hands outputs to the producer so that each destination gets them in order, or no further ones.

    A broker refuses what follows a refused batch of an idempotent producer, by its sequence number. But
    it takes any number from a producer that it does not know (yet, or any more): were the first batch
    refused, the second would leave a gap that the next stage takes for a replay. So the first batch
    for a destination is acknowledged before the next one is handed over.

    Args:
        limit_bytes: largest batch.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._known_until: dict[tuple[str, int], float] = {}

    async def send(self, producer: Any, outputs: Outputs) -> Awaitable[Any]:
        """Hand the outputs of one block over.

        Args:
            producer: a started, idempotent aiokafka producer, always the same one.
            outputs: records by (topic, partition).

        Returns:
            Resolves once every batch is acknowledged; fails if one cannot be.
        """
        futures = []
        time = asyncio.get_running_loop().time
        for destination, records in outputs.items():
            topic, partition = destination
            for batch in _fill(producer, records, self._limit_bytes):
                future = await producer.send_batch(batch, topic, partition=partition)
                if self._known_until.get(destination, -math.inf) < time():
                    await future
                self._known_until[destination] = time() + _KNOWN_SECONDS
                futures.append(future)
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
