"""The queue of aiokafka's producer: one request at a time is on its way to a broker, what comes meanwhile waits here.

`AIOKafkaProducer.send_batch` lets one batch wait for each partition and everybody else wait for it to leave; whoever
wakes first goes next, and each round takes more from the others' time than it took: with a hundred partitions that
write to one, it gave up (`KafkaTimeoutError`) after a second in place of twenty. Here batches stand in line, and a
record may join one for as long as that has not left: so many small batches become one.
"""

import time
from copy import copy
from typing import Any

from aiokafka.errors import ProducerClosed, UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition

#: Topic and partition.
Destination = tuple[str, int]


async def await_topic(producer: Any, topic: str) -> None:
    """Wait until the producer knows a topic's partitions.

    Raises:
        UnknownTopicOrPartitionError: there is none, and none came while a batch may wait.
    """
    began = time.monotonic()
    while True:  # the client gives up after one request, which is shorter
        try:
            await producer.client._wait_on_metadata(topic)
        except UnknownTopicOrPartitionError:
            if time.monotonic() - began > producer._request_timeout_ms / 1000:
                raise
        else:
            return


def last_unsent(producer: Any, destination: Destination) -> Any:
    """The last batch in line for a destination, if records may join it; None otherwise."""
    line = producer._message_accumulator._batches.get(TopicPartition(*destination))
    if not line:
        return None
    batch = line[-1]
    # one that is sent again has its sequence numbers already, and so many records
    return None if batch.retry_count or batch._builder.closed() else batch


def enqueue(producer: Any, builder: Any, destination: Destination) -> Any:
    """Put a batch in line; it may be open, for `last_unsent`.

    Raises:
        KafkaError: the producer is closed, or has failed for good.
    """
    accumulator = producer._message_accumulator
    if accumulator._exception is not None:
        raise copy(accumulator._exception)  # one for each who waits
    if accumulator._closed:
        raise ProducerClosed
    return accumulator._append_batch(builder, TopicPartition(*destination))
