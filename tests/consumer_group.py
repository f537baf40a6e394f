"""A consumer group without Kafka, to see what an assignor makes of it."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from faust.assignor.partition_assignor import PartitionAssignor

from app.blocks.faust.assignor import PlacingAssignor

#: Ids, addresses and timeouts of a member in Kafka's record of the group.
_MEMBER_BYTES = 200
CHANGELOGS = {"cards-changelog", "terminals-changelog", "labels-changelog"}
#: What a worker subscribes to.
TOPICS = {
    "transactions", "labels", "control", "enriched", "predictions", "refunds", "alerts", *CHANGELOGS,
}  # fmt: skip


class Group:
    """A consumer group without Kafka: members report, a leader assigns, members take what they get."""

    def __init__(self, partitions: int, replicas: int) -> None:
        self.members: dict[str, PartitionAssignor] = {}
        self.places: dict[str, tuple[str, str]] = {}
        self._replicas = replicas
        self._cluster: Any = SimpleNamespace(partitions_for_topic=lambda _: set(range(partitions)))

    def join(self, name: str, *, host: str, zone: str | None = None, earlier: bool = False) -> None:
        """A new member; an earlier release does not report its place."""
        app: Any = SimpleNamespace(
            tables=SimpleNamespace(changelog_topics=CHANGELOGS, data={}),
            conf=SimpleNamespace(canonical_url=f"http://{name}:6066"),
            client_rack=zone,
            host_name=host,
        )
        kind = PartitionAssignor if earlier else PlacingAssignor
        self.members[name] = kind(app, replicas=self._replicas)
        self.places[name] = ("", name) if earlier else (zone or "", host)

    def leave(self, names: Iterable[str]) -> None:
        """Members die."""
        for name in list(names):
            del self.members[name], self.places[name]

    def rebalance(self, leader: str) -> int:
        """Assign everything; returns the bytes that Kafka keeps of the group, in one record."""
        reports = {name: one.metadata(TOPICS) for name, one in self.members.items()}
        found = self.members[leader]._perform_assignment(self._cluster, reports)
        for name, one in self.members.items():
            one.on_assignment(found[name])
        sent = (*reports.values(), *found.values())
        return sum(len(one.encode()) for one in sent) + _MEMBER_BYTES * len(reports)

    @property
    def actives(self) -> dict[int, str]:
        """Who processes each partition, the same for all topics."""
        return {
            partition: name
            for name, one in self.members.items()
            for partition in one._assignment.actives.get("cards-changelog", ())
        }

    @property
    def standbys(self) -> dict[int, set[str]]:
        """Who has a replica of each partition."""
        found: dict[int, set[str]] = {}
        for name, one in self.members.items():
            assert len({tuple(sorted(one._assignment.standbys.get(t, ()))) for t in TOPICS}) == 1
            for partition in one._assignment.standbys.get("cards-changelog", ()):
                found.setdefault(partition, set()).add(name)
        return found

    def state(self) -> Any:
        """All that was assigned."""
        return self.actives, self.standbys

    def near(self, members: Iterable[str], member: str) -> tuple[int, int]:
        """How many of some members are in the zone of another one, and on its host."""
        zone, host = self.places[member]
        others = [self.places[one] for one in members if one != member]
        return sum(one[0] == zone for one in others), others.count((zone, host))

    def check(self, partitions: int, replicas: int) -> None:
        """Every partition has one worker and its replicas, none of them nearer to another copy than it must be."""
        actives, standbys = self.state()
        assert sorted(actives) == list(range(partitions))
        most = min(replicas, len(self.members) - 1)
        for partition, active in actives.items():
            copies = standbys.get(partition, set())
            assert len(copies) == most, f"partition {partition} has {copies}"
            assert active not in copies
            for one in copies:
                others = {active, *copies} - {one}
                free = self.members.keys() - others - {one}
                best = min((self.near(others, name) for name in free), default=(99, 99))
                assert self.near(others, one) <= best, f"{partition}: {active}, {copies}"
