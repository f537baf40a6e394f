"""What became of each record of a run, from the topics: every source position in exactly one set."""

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.adapters.kafka import client_kwargs, started
from app.domain.card_stage import LATE, OUT_OF_ORDER
from app.errors import UnavailableError
from app.records import origin_of
from app.settings import Settings
from app.tools.demo.positions import Offsets
from app.topics import Topics, TopicSpec

#: Suspicious transactions that are remembered: several may be of one card.
_REMEMBERED = 200
_POLL_MS = 1_000
#: Without an answer for so many polls, Kafka is gone.
_SILENT_POLLS = 30


@dataclass
class Account:
    """The records of a run by what they became, each as a set of source positions.

    Attributes:
        read: every record of the run.
        scored: in time, with a prediction.
        late: with a prediction, not counted for others.
        duplicate: repeated.
        dead: no transactions.
        moved: sent on to another partition, where they are read once more.
        out_of_order: how many of `scored` came behind a newer one of their card.
        flagged: how many of `scored` and `late` the model calls fraud.
        reasons: dead records by reason.
    """

    read: set[int] = field(default_factory=set)
    scored: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)
    duplicate: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    moved: set[int] = field(default_factory=set)
    out_of_order: int = 0
    flagged: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    _top: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)

    @property
    def outcomes(self) -> dict[str, set[int]]:
        """The sets by name, in the order in which people think of them."""
        return {
            "scored": self.scored,
            "late": self.late,
            "duplicate": self.duplicate,
            "dead": self.dead,
            "moved": self.moved,
        }

    @property
    def missing(self) -> int:
        """Records that became nothing, or that nobody sent."""
        return len(self.read.symmetric_difference(set().union(*self.outcomes.values())))

    @property
    def repeated(self) -> int:
        """How often a record is in a further set."""
        sets = self.outcomes.values()
        return sum(map(len, sets)) - len(set().union(*sets))

    def predicted(self, prediction: dict[str, Any]) -> None:
        """Take one prediction record."""
        position = _pack(prediction["source_partition"], prediction["source_offset"])
        if position not in self.read or position in self.scored or position in self.late:
            return
        flags = prediction["flags"]
        (self.late if LATE in flags else self.scored).add(position)
        self.out_of_order += OUT_OF_ORDER in flags
        self.flagged += prediction["is_fraud"]
        if prediction["reasons"]:
            entry = (prediction["score"], position, prediction)
            if len(self._top) < _REMEMBERED:
                heapq.heappush(self._top, entry)
            else:
                heapq.heappushpop(self._top, entry)

    def suspicious(self, count: int) -> list[dict[str, Any]]:
        """The prediction records with the highest scores, one a card, highest first."""
        found: dict[str, dict[str, Any]] = {}
        for _score, _position, prediction in sorted(self._top, reverse=True):
            found.setdefault(prediction["card_id"], prediction)
        return list(found.values())[:count]


async def take_account(
    settings: Settings, begins: Mapping[str, Offsets], ends: Mapping[str, Offsets]
) -> Account:
    """Read what was written between two moments.

    Args:
        settings: the deployment.
        begins: first offset of the run by topic and partition.
        ends: the offset after its last one.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    topics, account = Topics(settings), Account()
    source = topics.transactions.name
    kwargs = client_kwargs(settings)
    consumer = AIOKafkaConsumer(**kwargs, auto_offset_reset="earliest")
    async with started(consumer, kwargs["bootstrap_servers"]):

        def between(topic: TopicSpec) -> AsyncIterator[Any]:
            return _records(consumer, topic.name, begins[topic.name], ends[topic.name])

        moved: set[int] = set()
        async for record in between(topics.transactions):
            account.read.add(_pack(record.partition, record.offset))
            if origin := origin_of(record.headers):
                moved.add(_position(origin))
        account.moved = moved & account.read
        async for record in between(topics.predictions):
            prediction = orjson.loads(record.value)
            if prediction["source_topic"] == source:
                account.predicted(prediction)
        async for record in between(topics.dead_letters):
            position = _position(record.key)
            if position in account.read and position not in account.dead:
                account.dead.add(position)
                account.reasons[dict(record.headers)["reason"].decode()] += 1
        async for record in between(topics.duplicates):
            value = orjson.loads(record.value)
            position = _pack(value["source_partition"], value["source_offset"])
            if position in account.read:
                account.duplicate.add(position)
    return account


async def _records(
    consumer: AIOKafkaConsumer, topic: str, begins: Offsets, ends: Offsets
) -> AsyncIterator[Any]:
    """The records of a topic from `begins` up to, not including, `ends`."""
    wanted = {
        TopicPartition(topic, number): end
        for number, end in ends.items()
        if end > begins.get(number, 0)
    }
    if not wanted:
        return
    silent = 0
    try:
        consumer.assign(list(wanted))
        for tp in wanted:
            consumer.seek(tp, begins.get(tp.partition, 0))
        while wanted:
            fetched = await consumer.getmany(*wanted, timeout_ms=_POLL_MS, max_records=5_000)
            silent = 0 if fetched else silent + 1
            if silent > _SILENT_POLLS:
                msg = f"Kafka gives no more records of {topic}, though there are some"
                raise UnavailableError(msg)
            for tp, records in fetched.items():
                for record in records:
                    if record.offset < wanted[tp]:
                        yield record
            for tp in list(fetched):
                if await consumer.position(tp) >= wanted[tp]:
                    del wanted[tp]
                    consumer.pause(tp)
    except KafkaError as error:
        msg = f"Kafka does not answer: {type(error).__name__} {error}"
        raise UnavailableError(msg) from error


def _pack(partition: int, offset: int) -> int:
    return offset << 10 | partition  # there are at most 1,024 partitions


def _position(name: bytes) -> int:
    """The position that `topic/partition/offset` names."""
    _topic, partition, offset = name.rsplit(b"/", 2)
    return _pack(int(partition), int(offset))
