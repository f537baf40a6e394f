"""The durable memory of who was told of what: the topic `notifications`.

A route's memory of a partition of `alerts` is the partition of the same number: whoever takes the partition over reads
it first. Records are forgotten after two days; an alert does not come back after that.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.domain.alert_policy import rank
from app.domain.transaction import hash_id
from app.kafka.clients import consumer
from app.notify.message_text import Message, Notice
from app.settings import Settings
from app.topics import NOTIFIED_MS, Topics

logger = logging.getLogger("fraudstream")

_AGAIN_SECONDS, _FETCH_MS = 1.0, 1_000


class Told:
    """What one route was told, in the partitions that this process has.

    Args:
        settings: the deployment.
        route: the route's name.
        producer: writes to Kafka; acknowledged by all replicas.
    """

    def __init__(self, settings: Settings, route: str, producer: Any) -> None:
        self._settings = settings
        self._topic = Topics(settings).notifications.name
        self._prefix = f"{route}/".encode()
        self._producer = producer
        # by hash of the notice's name, the highest severity told: of this period, and of the one before
        self._newer: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self._since_ms = 0

    async def load(self, partitions: Sequence[int]) -> None:
        """Read the memory of partitions in place of what was known.

        Raises:
            UnavailableError: Kafka does not answer.
            KafkaError: it stopped to.
        """
        self._newer, self._older = {}, {}
        tps = [TopicPartition(self._topic, number) for number in partitions]
        if not tps:
            return
        async with consumer(self._settings) as client:
            client.assign(tps)
            await client.seek_to_beginning(*tps)
            ends = await client.end_offsets(tps)
            while [tp for tp in tps if await client.position(tp) < ends[tp]]:
                for records in (await client.getmany(timeout_ms=_FETCH_MS)).values():
                    for record in records:
                        self._read(record)

    def knows(self, name: str, severity: str) -> bool:
        """Whether the route was told of a notice of this name, at least as severe."""
        hashed = _name(name)
        known = max(self._newer.get(hashed, -1), self._older.get(hashed, -1))
        return known >= rank(severity)

    async def remember(self, message: Message, notices: Sequence[Notice], at_ms: int) -> None:
        """Write down that a message about alerts was taken; returns once that is durable, however long it takes."""
        value = {"message": message.id, "delivered_at": at_ms}
        while True:
            try:
                sent = [
                    await self._producer.send(
                        self._topic,
                        orjson.dumps({"severity": one.severity, **value}),
                        key=self._prefix + one.name.encode(),
                        partition=one.partition,
                    )
                    for one in notices
                ]
                await asyncio.gather(*sent)
                break
            except KafkaError as error:
                logger.warning("Kafka does not accept the record of a delivery: %r", error)
                await asyncio.sleep(_AGAIN_SECONDS)
        if at_ms - self._since_ms > NOTIFIED_MS:
            self._older, self._newer, self._since_ms = self._newer, {}, at_ms
        for notice in notices:
            self._add(notice.name, notice.severity)

    def _read(self, record: Any) -> None:
        if record.key and record.value and record.key.startswith(self._prefix):
            name = record.key[len(self._prefix) :].decode()
            self._add(name, orjson.loads(record.value)["severity"])

    def _add(self, name: str, severity: str) -> None:
        hashed = _name(name)
        self._newer[hashed] = max(rank(severity), self._newer.get(hashed, -1))


def _name(name: str) -> int:
    """A number in place of a text: a third of the memory."""
    return int.from_bytes(hash_id(name), "big")
