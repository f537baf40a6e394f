"""Where standby replicas go: away from the zone, and from the host, of the other copies of their partition."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple


class Place(NamedTuple):
    """Where a worker runs.

    Attributes:
        zone: its rack or zone; empty if it names none.
        host: its machine.
    """

    zone: str
    host: str


def place_standbys(
    actives: Mapping[str, Collection[int]],
    standbys: Mapping[str, Collection[int]],
    known: Mapping[str, Collection[int]],
    places: Mapping[str, Place],
    replicas: int,
) -> dict[str, set[int]]:
    """Choose the workers that keep standby replicas.

    A replica goes to the zone, and within that to the host, with the fewest other copies of its partition. So it
    shares a host only if no other host has a worker without a copy. Among equal workers, one that has the rows already
    is chosen, then the one with the fewest replicas. A replica stays where it is, unless a place with fewer copies
    appears, or another worker would have at least two replicas fewer.

    Args:
        actives: partitions that each worker processes. Each partition has one worker.
        standbys: replicas that each worker has kept until now.
        known: partitions that each worker has processed until now: it may still have their rows.
        places: where each worker runs.
        replicas: number of replicas per partition; at most one per other worker is placed.

    Returns:
        Replicas by worker.
    """
    placement = _Placement(actives, places, min(replicas, len(places) - 1))
    for partition in sorted(placement.copies):
        placement.keep(partition, [one for one in places if partition in standbys[one]])
    for partition in sorted(placement.copies):
        placement.fill(partition, {one for one in places if partition in known[one]})
    placement.even_out()
    return placement.placed


class _Placement:
    """Copies of partitions: the worker that processes it first, then those with a replica."""

    def __init__(
        self, actives: Mapping[str, Collection[int]], places: Mapping[str, Place], replicas: int
    ) -> None:
        self.copies = {
            partition: [member] for member, found in actives.items() for partition in found
        }
        self.placed: dict[str, set[int]] = {member: set() for member in places}
        self._places = places
        self._most = replicas + 1

    def keep(self, partition: int, holders: Iterable[str]) -> None:
        """Leave replicas where they are, as long as no other place has fewer copies."""
        left = list(holders)
        while len(self.copies[partition]) < self._most:
            best = min(self._near(partition, one) for one in self._free(partition))
            kept = [
                one for one in self._free(partition, left) if self._near(partition, one) == best
            ]
            if not kept:
                return
            self._add(partition, kept[0])

    def fill(self, partition: int, known: Collection[str]) -> None:
        """Place the replicas that are missing.

        Args:
            partition: which.
            known: workers that may have its rows.
        """

        def key(member: str) -> tuple[tuple[int, int], bool, int]:
            return self._near(partition, member), member not in known, len(self.placed[member])

        while len(self.copies[partition]) < self._most:
            self._add(partition, min(self._free(partition), key=key))

    def even_out(self) -> None:
        """Move replicas to workers with at least two fewer, as long as no replica comes nearer to another copy."""
        moved = True
        while moved:
            moved = False
            for heavy in sorted(self.placed, key=lambda one: -len(self.placed[one])):
                for partition in sorted(self.placed[heavy]):
                    lighter = self._lighter(partition, heavy)
                    if lighter is not None:
                        self.copies[partition].remove(heavy)
                        self.placed[heavy].remove(partition)
                        self._add(partition, lighter)
                        moved = True

    def _lighter(self, partition: int, heavy: str) -> str | None:
        most = len(self.placed[heavy]) - 2
        now = self._near(partition, heavy)
        lighter = [one for one in self._free(partition) if len(self.placed[one]) <= most]
        fits = [one for one in lighter if self._near(partition, one, without=heavy) <= now]
        return min(fits, key=lambda one: len(self.placed[one]), default=None)

    def _free(self, partition: int, members: Iterable[str] | None = None) -> list[str]:
        """Those of some workers, by default of all, that have no copy of a partition."""
        copies = self.copies[partition]
        return [one for one in (self._places if members is None else members) if one not in copies]

    def _near(self, partition: int, member: str, without: str = "") -> tuple[int, int]:
        """Number of other copies of a partition in a worker's zone, and on its host."""
        here = self._places[member]
        others = [
            self._places[one] for one in self.copies[partition] if one not in (member, without)
        ]
        return sum(one.zone == here.zone for one in others), others.count(here)

    def _add(self, partition: int, member: str) -> None:
        self.copies[partition].append(member)
        self.placed[member].add(partition)
