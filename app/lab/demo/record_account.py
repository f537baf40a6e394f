"""What became of each record of a run, from the topics: every source position in exactly one set."""

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.domain.prediction_flags import CONFLICTING, LATE, OUT_OF_ORDER
from app.lab.demo.fraud_kinds import GENUINE, is_flagged
from app.ops.verification.topic_log import Log, Offsets
from app.topics import TopicSpec
from app.wire.dead_letters import headers_of
from app.wire.output_records import origin_of

#: Suspicious transactions that are remembered: several may be of one card.
_REMEMBERED = 200

KindOf = Callable[[str], str | None]


def unknown(_transaction_id: str) -> None:
    """Nothing is known of what was fraud."""


@dataclass
class Account:
    """The records of a run by what they became, each as a set of source positions.

    Attributes:
        read: every record of the run.
        scored: in time, with a prediction.
        late: with a prediction, not counted for others.
        conflicting: likewise; their id was used before with another time or amount.
        duplicate: repeated.
        refund: with a negative amount.
        dead: no transactions.
        moved: sent on to another partition, where they are read once more.
        out_of_order: how many of `scored` came behind a newer one of their card.
        flagged: how many of `scored`, `late` and `conflicting` the model or a rule flags.
        reasons: dead records by reason.
        caught: frauds that the model called so, by their kind.
        missed: frauds that it did not, by their kind.
        caught_minor: amounts of those that it called so, by kind, minor units.
        missed_minor: the same of those that it did not.
        false_positives_minor: the same of `false_positives`.
        false_positives: what it called fraud and was none; without what nobody knows the truth of.
        labels_dead: labels that were refused or waited in vain, by reason; none is a record of the run.
        labels_waiting: labels that the workers have not finished: for one, that waits for its transaction.
        kind_of: the kind of fraud of a transaction id, `none` for none; None: unknown.
    """

    read: set[int] = field(default_factory=set)
    scored: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)
    conflicting: set[int] = field(default_factory=set)
    duplicate: set[int] = field(default_factory=set)
    refund: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    moved: set[int] = field(default_factory=set)
    out_of_order: int = 0
    flagged: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    caught: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    caught_minor: Counter[str] = field(default_factory=Counter)
    missed_minor: Counter[str] = field(default_factory=Counter)
    false_positives_minor: int = 0
    false_positives: int = 0
    labels_dead: Counter[str] = field(default_factory=Counter)
    labels_waiting: int = 0
    kind_of: KindOf = unknown
    _top: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)

    @property
    def outcomes(self) -> dict[str, set[int]]:
        """The sets by name, in the order in which people think of them."""
        return {
            "scored": self.scored,
            "late": self.late,
            "conflicting": self.conflicting,
            "duplicate": self.duplicate,
            "refund": self.refund,
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
        flags = prediction["flags"]
        became = (
            self.conflicting
            if CONFLICTING in flags
            else self.late
            if LATE in flags
            else self.scored
        )
        if position not in self.read or position in became:
            return
        became.add(position)
        self.out_of_order += OUT_OF_ORDER in flags
        self.flagged += is_flagged(prediction)
        self._compare(prediction)
        if prediction["reasons"]:
            entry = (prediction["score"], position, prediction)
            if len(self._top) < _REMEMBERED:
                heapq.heappush(self._top, entry)
            else:
                heapq.heappushpop(self._top, entry)

    def _compare(self, prediction: dict[str, Any]) -> None:
        kind = self.kind_of(prediction["transaction_id"])
        fraud, minor = is_flagged(prediction), prediction["amount_minor"]
        if kind == GENUINE:
            self.false_positives += fraud
            self.false_positives_minor += minor if fraud else 0
        elif kind is not None:
            (self.caught if fraud else self.missed)[kind] += 1
            (self.caught_minor if fraud else self.missed_minor)[kind] += minor

    def suspicious(self, count: int) -> list[dict[str, Any]]:
        """The prediction records with the highest scores, one a card, highest first."""
        found: dict[str, dict[str, Any]] = {}
        for _score, _position, prediction in sorted(self._top, reverse=True):
            found.setdefault(prediction["card_id"], prediction)
        return list(found.values())[:count]


async def take_account(
    log: Log,
    begins: Mapping[str, Offsets],
    ends: Mapping[str, Offsets],
    kind_of: KindOf = unknown,
) -> Account:
    """Read what was written between two moments.

    Args:
        log: open.
        begins: first offset of the run in each partition, by topic.
        ends: the offset after its last one.
        kind_of: see `Account`.

    Raises:
        UnavailableError: Kafka does not answer.
    """
    topics, account = log.topics, Account(kind_of=kind_of)

    async def records(topic: TopicSpec) -> AsyncIterator[Any]:
        for number, span in enumerate(zip(begins[topic.name], ends[topic.name], strict=True)):
            async for chunk in log.read(topic, number, *span):
                for record in chunk:
                    yield record

    moved: set[int] = set()
    async for record in records(topics.transactions):
        account.read.add(_pack(record.partition, record.offset))
        if origin := origin_of(record.headers):
            moved.add(_position(origin))
    account.moved = moved & account.read
    async for record in records(topics.predictions):
        account.predicted(orjson.loads(record.value))
    async for record in records(topics.dead_letters):
        reason = headers_of(record)["reason"].decode()
        if record.key.startswith(topics.labels.name.encode() + b"/"):
            account.labels_dead[reason] += 1
            continue
        position = _position(record.key)
        if position in account.read and position not in account.dead:
            account.dead.add(position)
            account.reasons[reason] += 1
    for topic, found in ((topics.duplicates, account.duplicate), (topics.refunds, account.refund)):
        async for record in records(topic):
            value = orjson.loads(record.value)
            position = _pack(value["source_partition"], value["source_offset"])
            if position in account.read:
                found.add(position)
    done = await log.done(topics.labels)
    account.labels_waiting = sum(
        max(0, end - at) for end, at in zip(ends[topics.labels.name], done, strict=True)
    )
    return account


def _pack(partition: int, offset: int) -> int:
    return offset << 10 | partition  # there are at most 1,024 partitions


def _position(name: bytes) -> int:
    """The position that `topic/partition/offset` names."""
    _topic, partition, offset = name.rsplit(b"/", 2)
    return _pack(int(partition), int(offset))
