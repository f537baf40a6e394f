"""Standby replicas stay off the host and zone of their primary, in any group, also while releases are mixed."""

import random
from collections import Counter

import pytest

from app.blocks.faust.assignor import PlacedMetadata, PlacingAssignor
from tests.consumer_group import TOPICS, Group


@pytest.mark.parametrize("case", range(60))
def test_any_group(case: int) -> None:
    rng = random.Random(f"group {case}")
    partitions, replicas = rng.randint(1, 24), rng.randint(1, 3)
    group = Group(partitions, replicas)
    zones = [None, *rng.choice(((), ("z1", "z2"), ("z1", "z2", "z3")))]
    number = 0
    for _ in range(8):
        if group.members and rng.random() < 0.4:
            group.leave(rng.sample(sorted(group.members), rng.randint(0, len(group.members) - 1)))
        for _ in range(rng.randint(1, 3)):
            zone = rng.choice(zones)
            host = f"{zone}-host{rng.randint(0, 3)}"
            group.join(f"m{number}", host=host, zone=zone, earlier=rng.random() < 0.2)
            number += 1
        ours = [n for n, one in group.members.items() if isinstance(one, PlacingAssignor)]
        # an earlier release reads what members report, whichever release they run, and they what it assigns
        leader = rng.choice(sorted(group.members))
        group.rebalance(leader)
        assert sorted(group.actives) == list(range(partitions))
        if ours:
            group.rebalance(rng.choice(ours))
            group.check(partitions, replicas)
            before = group.state()
            group.rebalance(rng.choice(ours))
            assert group.state() == before, "nothing moves when nothing has changed"


def test_replicas_of_a_host_are_on_the_other_host() -> None:
    group = Group(8, 1)
    for name, host in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")):
        group.join(name, host=host)
    group.rebalance("a")
    group.check(8, 1)
    assert set(Counter(name for found in group.standbys.values() for name in found).values()) == {2}
    replicas = group.standbys
    lost = {partition for partition, name in group.actives.items() if name in ("a", "b")}
    group.leave(("a", "b"))
    group.rebalance("c")
    for partition in lost:
        assert group.actives[partition] in replicas[partition], "it has to be rebuilt"


def test_faust_alone_puts_replicas_beside_their_primary() -> None:
    """Else nothing here would prove anything."""
    group = Group(8, 1)
    for name, host in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")):
        group.join(name, host=host, earlier=True)
    group.rebalance("a")
    host = {"a": "one", "b": "one", "c": "two", "d": "two"}
    assert any(
        host[name] == host[active]
        for partition, active in group.actives.items()
        for name in group.standbys[partition]
    )


def test_on_one_host_replicas_are_on_other_workers() -> None:
    group = Group(6, 1)
    for name in "abc":
        group.join(name, host="one")
    group.rebalance("a")
    group.check(6, 1)


def test_a_lone_worker_of_a_host_gets_the_replicas_of_all_others() -> None:
    group = Group(8, 1)
    for name in "abc":
        group.join(name, host="one")
    group.join("d", host="two")
    group.rebalance("a")
    group.check(8, 1)
    ours = {partition for partition, name in group.actives.items() if name != "d"}
    assert {p for p, found in group.standbys.items() if found == {"d"}} == ours


def test_a_member_reports_its_place_and_no_more_than_the_leader_reads() -> None:
    group = Group(64, 1)
    for number in range(8):
        group.join(f"m{number}", host=f"h{number % 4}", zone=f"z{number % 2}")
    group.rebalance("m0")
    found = PlacedMetadata.loads(group.members["m3"].metadata(TOPICS).user_data)
    assert (found.zone, found.host, found.url) == ("z1", "h3", "http://m3:6066")
    assert found.assignment.actives["enriched"]
    assert found.changelog_distribution == {}
    assert len(group.members["m3"].changelog_distribution) == 8, "what pages route by"
