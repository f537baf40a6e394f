"""The durable memory of who was told of what: the topic `notifications`.

A route's memory of a partition of `alerts` is the partition of the same number: whoever takes the partition over reads
it first. Records are forgotten after two days; an alert does not come back after that.

The same topic has the alerts that a receiver will not take: they are parked, and tried once more by the next process.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

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
#: Begins the key of a parked alert; no route's name has it.
_PARKED = b"!"


class Parked(NamedTuple):
    """An alert that the receiver would not take.

    Attributes:
        partition, offset: its record on `alerts`.
        severity, handled_at: as the notice had them.
        parked_at: when, epoch milliseconds.
    """

    partition: int
    offset: int
    severity: str
    handled_at: int
    parked_at: int


class Told:
    """What one route was told, in the partitions that this process has.

    Args:
        settings: the deployment.
        route: the route's name.
        producer: writes to Kafka; acknowledged by all replicas.

    Attributes:
        parked: by a notice's name, what the receiver would not take.
    """

    def __init__(self, settings: Settings, route: str, producer: Any) -> None:
        self._settings = settings
        self._topic = Topics(settings).notifications.name
        self._prefix = f"{route}/".encode()
        self._parked_prefix = _PARKED + self._prefix
        self._producer = producer
        self.parked: dict[str, Parked] = {}
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
        self._newer, self._older, self.parked = {}, {}, {}
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
        """Whether the route was told of a notice of this name, at least as severe, or will not be."""
        hashed = _name(name)
        known = max(self._newer.get(hashed, -1), self._older.get(hashed, -1))
        if parked := self.parked.get(name):
            known = max(known, rank(parked.severity))
        return known >= rank(severity)

    def parked_since(self, after_ms: int) -> int:
        """How many alerts were parked after a moment (epoch milliseconds)."""
        return sum(one.parked_at > after_ms for one in self.parked.values())

    async def park(
        self, message: Message, notices: Sequence[Notice], reason: str, at_ms: int
    ) -> None:
        """Write down that a message about alerts will not be taken; returns as `remember` does."""
        value = {"message": message.id, "parked_at": at_ms, "reason": reason}
        await self._write(
            [
                (
                    one.partition,
                    self._parked_prefix + one.name.encode(),
                    orjson.dumps(
                        {
                            "severity": one.severity,
                            "offset": one.offset,
                            "handled_at": one.handled_at,
                            **value,
                        }
                    ),
                )
                for one in notices
            ]
        )
        for one in notices:
            self.parked[one.name] = Parked(
                one.partition, one.offset, one.severity, one.handled_at, at_ms
            )

    async def remember(self, message: Message, notices: Sequence[Notice], at_ms: int) -> None:
        """Write down that a message about alerts was taken; returns once that is durable, however long it takes."""
        value = {"message": message.id, "delivered_at": at_ms}
        records: list[tuple[int, bytes, bytes | None]] = [
            (
                one.partition,
                self._prefix + one.name.encode(),
                orjson.dumps({"severity": one.severity, **value}),
            )
            for one in notices
        ]
        records += [
            (one.partition, self._parked_prefix + one.name.encode(), None)
            for one in notices
            if one.name in self.parked
        ]
        await self._write(records)
        for one in notices:
            self.parked.pop(one.name, None)
        if at_ms - self._since_ms > NOTIFIED_MS:
            self._older, self._newer, self._since_ms = self._newer, {}, at_ms
        for notice in notices:
            self._add(notice.name, notice.severity)

    async def _write(self, records: Sequence[tuple[int, bytes, bytes | None]]) -> None:
        """Append records (partition, key, value); returns once they are durable, however long it takes."""
        while True:
            try:
                sent = [
                    await self._producer.send(self._topic, value, key=key, partition=partition)
                    for partition, key, value in records
                ]
                await asyncio.gather(*sent)
                return
            except KafkaError as error:
                logger.warning("Kafka does not accept the record of a delivery: %r", error)
                await asyncio.sleep(_AGAIN_SECONDS)

    def _read(self, record: Any) -> None:
        key = record.key or b""
        if key.startswith(self._parked_prefix):
            name = key[len(self._parked_prefix) :].decode()
            self.parked.pop(name, None)
            if record.value:
                found = orjson.loads(record.value)
                self.parked[name] = Parked(
                    record.partition, found["offset"], found["severity"], found["handled_at"],
                    found["parked_at"],
                )  # fmt: skip
        elif record.value and key.startswith(self._prefix):
            self._add(key[len(self._prefix) :].decode(), orjson.loads(record.value)["severity"])

    def _add(self, name: str, severity: str) -> None:
        hashed = _name(name)
        self._newer[hashed] = max(rank(severity), self._newer.get(hashed, -1))


def _name(name: str) -> int:
    """A number in place of a text: a third of the memory."""
    return int.from_bytes(hash_id(name), "big")
