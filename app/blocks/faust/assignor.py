"""Assigns partitions as Faust does, and keeps standby replicas off the host of their primary.

Each worker reports its place in its metadata, beside the fields of Faust's own assignor, which ignores it. So workers
with and without this module can be in one group: the leader alone decides, by the release that it runs.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.client_assignment import (
    ClientAssignment,
    ClientMetadata,
    CopartitionedAssignment,
)
from faust.assignor.cluster_assignment import ClusterAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from faust.assignor.partition_assignor import PartitionAssignor

from app.blocks.core.standby_placement import Place, place_standbys


class PlacedMetadata(  # type: ignore[call-arg]
    ClientMetadata, serializer="json", include_metadata=False, namespace="@PlacedMetadata"
):
    """Faust's metadata of a group member, with its place; empty from a release that does not report it."""

    zone: str = ""
    host: str = ""


class GroupAssignor(CopartitionedAssignor):
    """Assigns the partitions of topics that belong together; standby replicas by place.

    Args:
        places: where each member runs.
    """

    def __init__(self, *args: Any, places: Mapping[str, Place], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = {member: places[member] for member in self._client_assignments}

    def get_assignment(self) -> MutableMapping[str, CopartitionedAssignment]:
        """Partitions and standby replicas by member."""
        if not self.replicas:
            return super().get_assignment()
        members = self._client_assignments
        standbys = {member: set(one.standbys) for member, one in members.items()}
        known = {member: set(one.actives) for member, one in members.items()}
        for one in members.values():
            # no replica is dropped yet: a member that has one is preferred for the partition
            one.unassign_extras(self.max_capacity, self.num_partitions)
        self._assign(active=True)
        actives = {member: one.actives for member, one in members.items()}
        placed = place_standbys(actives, standbys, known, self._places, self.replicas)
        for member, one in members.items():
            one.standbys = placed[member]
        return members


class PlacingAssignor(PartitionAssignor):
    """Faust's assignor with `GroupAssignor`. Give `PartitionAssignor=PlacingAssignor` to a `BlockApp`."""

    def metadata(self, topics: set[str]) -> Any:
        """What this member reports to the leader.

        Faust also sends the partitions of all members, as it last heard of them. No leader reads that, and Kafka keeps
        the group in one record of 1 MB: with it, a group of 64 workers and 256 partitions would take 2 MB, without it
        0.3 MB.
        """
        ours = PlacedMetadata(
            assignment=self._assignment,
            url=str(self._url),
            changelog_distribution={},
            external_topic_distribution={},
            topic_groups={},
            zone=self.app.client_rack or "",
            host=self.app.host_name,
        )
        return ConsumerProtocolMemberMetadata(self.version, list(topics), ours.dumps())

    @classmethod
    def _get_client_metadata(cls, metadata: Any) -> PlacedMetadata:
        found: PlacedMetadata = PlacedMetadata.loads(metadata.user_data)
        return found

    def _perform_assignment(
        self, cluster: Any, member_metadata: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """As Faust's, with `GroupAssignor`."""
        told = {member: self._get_client_metadata(one) for member, one in member_metadata.items()}
        places = {member: place_of(member, one) for member, one in told.items()}
        subscriptions = {member: list(one.subscription) for member, one in member_metadata.items()}
        before = ClusterAssignment()
        for member, one in told.items():
            before.add_client(member, subscriptions[member], one)
        self._update_member_urls(told)
        assigned = {member: ClientAssignment(actives={}, standbys={}) for member in told}
        group_of: dict[str, int] = {}
        counts: dict[str, int] = {}
        groups = self._get_copartitioned_groups(before.topics(), cluster, subscriptions)
        for number, (partitions, together) in enumerate(sorted(groups.items())):
            for topics in together:
                group_of |= dict.fromkeys(topics, number)
                counts |= dict.fromkeys(topics, partitions)
                assignor = GroupAssignor(
                    topics, before.copartitioned_assignments(topics), partitions, self.replicas,
                    places=places,
                )  # fmt: skip
                for member, one in assignor.get_assignment().items():
                    assigned[member].add_copartitioned_assignment(one)
        assigned = self._global_table_standby_assignments(assigned, counts)
        found: MutableMapping[str, Any] = self._protocol_assignments(
            assigned,
            self._get_changelog_distribution(assigned),
            self._get_external_topic_distribution(assigned),
            group_of,
        )
        return found


def place_of(member: str, metadata: PlacedMetadata) -> Place:
    """Where a member runs; one that does not report it counts as a host of its own."""
    return Place(metadata.zone, metadata.host or member)
