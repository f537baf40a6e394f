"""How long the stream was silent while a broker or node was away: something waited, and nothing came out."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import orjson
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from app.kafka.clients import admin
from app.ops.verification.topic_log import open_log
from app.settings import Settings
from app.topics import Topics

#: In one partition, or in storing. Clients give up a server that says nothing after 20 s, workers are killed at the
#: same time, and a loaded machine does everything several times more slowly.
MOST_SILENT_SECONDS = 180.0


@dataclass(frozen=True)
class Period:
    """From one moment to another, epoch seconds."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended - self.began

    def meets(self, other: "Period") -> bool:
        """Whether they overlap."""
        return self.began < other.ended and other.began < self.ended


@dataclass(frozen=True)
class Outage(Period):
    """One broker or node was away.

    Attributes:
        what: such as `broker crash`.
    """

    what: str


def silences(done: Iterable[tuple[int, float, float]]) -> list[Period]:
    """The times in which something of a partition waited and nothing of it was finished.

    Args:
        done: partition, when a record arrived, and when it was finished, epoch seconds.
    """
    by_partition: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for partition, arrived, finished in done:
        by_partition[partition].append((finished, arrived))
    found = []
    for records in by_partition.values():
        records.sort()
        waits_since = [0.0] * len(records)  # the oldest of what is finished then or later
        oldest = float("inf")
        for index in range(len(records) - 1, -1, -1):
            oldest = min(oldest, records[index][1])
            waits_since[index] = oldest
        last = 0.0
        for (finished, _), since in zip(records, waits_since, strict=True):
            began = max(last, since)
            if finished > began:
                found.append(Period(began, finished))
            last = finished
    return found


def pauses(moments: Iterable[float]) -> list[Period]:
    """The times between moments, epoch seconds, at which something was finished."""
    return [Period(*pair) for pair in pairwise(sorted(moments))]


def stamp_predictions(settings: Settings) -> None:
    """Let the broker note when it appended a prediction: a producer's own time is that of its first attempt."""

    async def alter() -> None:
        topic = Topics(settings).predictions
        configs = {**topic.config, "message.timestamp.type": "LogAppendTime"}
        async with admin(settings) as client:
            await client.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic.name, configs=configs)]
            )

    asyncio.run(alter())


def scoring_silences(settings: Settings) -> list[Period]:
    """`silences` of scoring, by partition of `transactions`: from its record there to its first prediction."""

    async def read() -> list[tuple[int, float, float]]:
        arrived: dict[tuple[int, int], float] = {}
        scored: dict[tuple[int, int], float] = {}
        async with open_log(settings) as log:
            for topic in (log.topics.transactions, log.topics.predictions):
                ends = zip(await log.begins(topic), await log.ends(topic), strict=True)
                for number, (begin, end) in enumerate(ends):
                    async for records in log.read(topic, number, begin, end):
                        for one in records:
                            at = one.timestamp / 1000
                            if topic is log.topics.transactions:
                                arrived[number, one.offset] = at
                                continue
                            said = orjson.loads(one.value)
                            place = said["source_partition"], said["source_offset"]
                            scored[place] = min(at, scored.get(place, at))
        return [(place[0], arrived[place], at) for place, at in scored.items()]

    return silences(asyncio.run(read()))


def figures(
    outages: Sequence[Outage], scoring: Sequence[Period], storing: Sequence[Period]
) -> list[tuple[str, str]]:
    """The longest silences, a line per kind of outage."""
    found = []
    for what in sorted({one.what for one in outages}):
        ours = [one for one in outages if one.what == what]
        longest = [
            max((one.seconds for one in silent if any(map(one.meets, ours))), default=0.0)
            for silent in (scoring, storing)
        ]
        text = f"{len(ours)} times, longest silence {longest[0]:.1f} s in scoring, {longest[1]:.1f} s in storing"
        found.append((what, text))
    return found


def too_long(
    outages: Sequence[Outage], scoring: Sequence[Period], storing: Sequence[Period]
) -> str | None:
    """What was silent for too long while a broker or node was away; None: nothing was."""
    for name, silent in (("scoring", scoring), ("storing", storing)):
        for one in silent:
            if one.seconds > MOST_SILENT_SECONDS:
                during = [outage.what for outage in outages if outage.meets(one)]
                if during:
                    return (
                        f"{name} was silent for {one.seconds:.0f} s ({', '.join(during)}), more than "
                        f"{MOST_SILENT_SECONDS:g} s"
                    )
    return None
