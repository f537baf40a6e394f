"""Appends rows to a changelog: one record batch by hand, and the offset where it begins."""

import asyncio
from functools import partial
from typing import Any

from app.blocks.core.row_groups import Row
from app.blocks.faust.unsent_batches import await_topic, enqueue
from app.errors import StateError


async def append_rows(producer: Any, topic: str, partition: int, rows: list[Row]) -> int:
    """Append rows as one record batch; returns the offset of its first record once acknowledged."""
    await await_topic(producer, topic)
    return await hand_over_rows(producer, topic, partition, rows)


def hand_over_rows(
    producer: Any, topic: str, partition: int, rows: list[Row]
) -> "asyncio.Future[int]":
    """As `append_rows`, at once, for a topic that the producer knows."""
    builder = producer.create_batch()
    for key, raw in rows:
        if builder.append(key=key, value=raw, timestamp=None) is None:
            msg = f"{len(rows)} rows do not fit one record batch of {topic}"
            raise StateError(msg)
    builder.close()
    batch = enqueue(producer, builder, (topic, partition))
    first: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    batch.future.add_done_callback(partial(_tell_first, first))
    return first


def _tell_first(first: "asyncio.Future[int]", batch: "asyncio.Future[Any]") -> None:
    error = None if batch.cancelled() else batch.exception()
    if first.done():  # cancelled
        return
    if batch.cancelled():
        first.cancel()
    elif error is not None:
        first.set_exception(error)
    else:
        first.set_result(batch.result().offset)  # that of the FIRST record
