"""Where topics end and how far the workers of the deployment are."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from app.adapters.kafka import admin, client_kwargs, started
from app.errors import UnavailableError
from app.settings import Settings
from app.topics import Topics, TopicSpec

#: Offset by partition.
Offsets = dict[int, int]

#: Nothing at all moved for this long: something is wrong, and waiting on would not mend it.
STALL_SECONDS = 90.0
_POLL_SECONDS = 0.25


class Positions:
    """Asks Kafka; nothing is consumed.

    Args:
        settings: the deployment.
        consumer: a started consumer without a group.
        client: a started admin client.
    """

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, client: AIOKafkaAdminClient
    ) -> None:
        self.topics = Topics(settings)
        self._group = settings.topic_prefix + settings.app_id
        self._consumer = consumer
        self._client = client

    async def ends(self, topic: TopicSpec) -> Offsets:
        """The offset after the newest record of each partition.

        Raises:
            UnavailableError: Kafka does not answer.
        """
        tps = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        try:
            found = await self._consumer.end_offsets(tps)
        except KafkaError as error:
            raise _silent(error) from error
        return {tp.partition: offset for tp, offset in found.items()}

    async def all_ends(self) -> dict[str, Offsets]:
        """The ends of every topic, by name."""
        return {topic.name: await self.ends(topic) for topic in self.topics.all}

    async def done(self) -> dict[str, Offsets]:
        """The offset after the last record that the workers have finished, by topic."""
        deadline = time.monotonic() + STALL_SECONDS
        while True:
            try:
                found = await self._client.list_consumer_group_offsets(self._group)
                break
            except KafkaError as error:  # a new Kafka makes its offsets topic on first use
                if time.monotonic() > deadline:
                    raise _silent(error) from error
                await asyncio.sleep(_POLL_SECONDS)
        done: dict[str, Offsets] = {}
        for tp, committed in found.items():
            done.setdefault(tp.topic, {})[tp.partition] = committed.offset
        return done

    async def drain(self, explain: Callable[[], str]) -> Offsets:
        """Wait until everything that is in `transactions` now is in Cassandra.

        Args:
            explain: what the workers say of themselves, asked when nothing moves.

        Returns:
            The ends of `transactions` that were waited for.

        Raises:
            UnavailableError: nothing moves any more.
        """
        topics = self.topics
        await self._reach(topics.transactions, await self.ends(topics.transactions), explain)
        # again: moved records were sent on to where they belong in it
        ends = await self.ends(topics.transactions)
        await self._reach(topics.transactions, ends, explain)
        for topic in (topics.enriched, topics.predictions):
            await self._reach(topic, await self.ends(topic), explain)
        return ends

    async def _reach(self, topic: TopicSpec, ends: Offsets, explain: Callable[[], str]) -> None:
        last: dict[str, Offsets] = {}
        moved_at = time.monotonic()
        while True:
            done = await self.done()
            own = done.get(topic.name, {})
            behind = sum(max(0, end - own.get(number, 0)) for number, end in ends.items())
            if not behind:
                return
            if done != last:
                last, moved_at = done, time.monotonic()
            elif time.monotonic() - moved_at > STALL_SECONDS:
                said = await asyncio.to_thread(explain)
                msg = (
                    f"nothing moved for {STALL_SECONDS:.0f} s: {behind:,} records of {topic.name} "
                    f"wait; {said}"
                )
                raise UnavailableError(msg)
            await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def positions(settings: Settings) -> AsyncIterator[Positions]:
    """Connect.

    Raises:
        UnavailableError: no broker answers.
    """
    kwargs = client_kwargs(settings)
    consumer = AIOKafkaConsumer(**kwargs)
    async with started(consumer, kwargs["bootstrap_servers"]), admin(settings) as client:
        yield Positions(settings, consumer, client)


def _silent(error: KafkaError) -> UnavailableError:
    return UnavailableError(f"Kafka does not answer: {type(error).__name__} {error}")
