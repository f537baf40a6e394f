"""Results of a replay on their way to its topics, its keyspace and the comparison."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from cassandra.cluster import Session

from app.blocks.faust.output_sender import Outputs, OutputSender
from app.cassandra.prediction_rows import PackedRows, RowPacker, tables_of
from app.cassandra.replay_targets import ReplayTargets
from app.cassandra.row_writer import RowWriter
from app.kafka.clients import answered, client_kwargs, started
from app.ops.replaying.comparison import Comparison
from app.topics import Topics, batch_bytes

#: Blocks of results on their way to Kafka and Cassandra at once.
_IN_FLIGHT = 4
#: A block of results takes well below a second where both servers answer.
_TAKE_SECONDS = 300.0


class Results:
    """Results on their way: Kafka and Cassandra, a few blocks at once.

    Args:
        hand_over: sends outputs; its result resolves once Kafka has them.
        write: gives rows to Cassandra; its result resolves once it has them.
        packer: makes rows of predictions.
        predictions: the topic of which rows are made.
        comparison: is told of each prediction.
    """

    def __init__(
        self,
        hand_over: Callable[[Outputs], Awaitable[Awaitable[Any]]],
        write: Callable[[PackedRows], Awaitable[Any]],
        packer: RowPacker,
        predictions: str,
        comparison: Comparison,
    ) -> None:
        self._hand_over = hand_over
        self._write = write
        self._packer = packer
        self._predictions = predictions
        self._comparison = comparison
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def send(self, outputs: Outputs) -> None:
        """Take the results of a block; waits while there are too many on their way."""
        values = [
            value
            for (topic, _), records in outputs.items()
            if topic == self._predictions
            for _, value, _ in records
            if value is not None
        ]
        for value in values:
            self._comparison.replayed(orjson.loads(value))
        sent = await self._hand_over(outputs)
        self._waiting.append(asyncio.gather(sent, self._write(self._packer.pack_many(values))))
        await self.settle(_IN_FLIGHT)

    async def settle(self, left: int) -> None:
        """Wait until no more than so many blocks are on their way."""
        while len(self._waiting) > left:
            what = "Kafka and Cassandra did not accept the results of a block"
            await answered(self._waiting.popleft(), what, _TAKE_SECONDS)


@asynccontextmanager
async def sending(
    shadow: ReplayTargets, session: Session, comparison: Comparison
) -> AsyncIterator[Results]:
    """Where results go; when the block ends, they are all there."""
    settings = shadow.settings
    largest = batch_bytes(settings)
    kwargs = client_kwargs(settings)
    producer = AIOKafkaProducer(
        **kwargs, acks="all", enable_idempotence=True, linger_ms=0,
        max_batch_size=largest, max_request_size=largest * 2,
    )  # fmt: skip
    sender = OutputSender(largest)
    writer, conflicts = (RowWriter(session, settings, table) for table in tables_of(settings))

    def write(packed: PackedRows) -> Awaitable[Any]:
        return asyncio.gather(writer.submit(packed.rows), conflicts.submit(packed.conflicting))

    async with started(producer, settings):
        try:
            results = Results(
                lambda outputs: sender.send(producer, outputs),
                write,
                RowPacker.of(settings),
                Topics(settings).predictions.name,
                comparison,
            )
            yield results
            await results.settle(0)
        finally:
            await writer.close()
            await conflicts.close()
