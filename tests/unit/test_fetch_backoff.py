"""Partitions that rest are left out of fetches, and only those, and only for a while."""

from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.fetcher import Fetcher
from aiokafka.structs import TopicPartition
from faust.types import TP

from app.blocks.faust.fetch_backoff import MOST_SECONDS, REST_SECONDS, FetchBackoff, leave_out

HERE, THERE = TopicPartition("t", 0), TopicPartition("t", 1)


def fetched(resting: FetchBackoff) -> set[Any]:
    """The partitions that aiokafka's own fetcher would ask for."""
    fetcher: Any = Fetcher.__new__(Fetcher)
    fetcher._records, fetcher._in_flight, fetcher._preferred_read_replica = {}, set(), {}
    fetcher._client = SimpleNamespace(
        cluster=SimpleNamespace(leader_for_partition=lambda _: 1), _isolation_level=0
    )
    fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes, fetcher._fetch_max_bytes = 1, 1, 1
    fetcher._max_partition_fetch_bytes = 1
    fetcher._isolation_level, fetcher._client_rack, fetcher._fetcher_timeout = 0, None, 1
    state = SimpleNamespace(has_valid_position=True, paused=False, position=0)
    leave_out(fetcher, resting)
    requests, *_ = fetcher._get_actions_per_node(
        SimpleNamespace(tps=[HERE, THERE], state_value=lambda _: state)
    )
    return {
        (topic, partition)
        for _, request in requests
        for topic, partitions in request._topics
        for partition, *_ in partitions
    }


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.lacking: set[TP] = set()
        self.forwarded: set[TP] = set()
        self.resting = FetchBackoff(
            lambda: self.now, lambda tp: tp in self.lacking, lambda tp: tp in self.forwarded
        )


def test_a_partition_that_rests_is_left_out_for_a_while() -> None:
    world = World()
    assert fetched(world.resting) == {HERE, THERE}
    world.resting.begin(TP(*HERE))
    assert fetched(world.resting) == {THERE}
    world.now = REST_SECONDS
    assert fetched(world.resting) == {HERE, THERE}


def test_one_that_lacks_something_does_not_rest() -> None:
    world = World()
    world.resting.begin(TP(*HERE))
    world.lacking = {TP(*HERE)}
    assert fetched(world.resting) == {HERE, THERE}


def test_after_a_rebalance_nothing_rests() -> None:
    world = World()
    world.resting.begin(TP(*HERE))
    world.resting.end()
    assert fetched(world.resting) == {HERE, THERE}


def test_one_that_gets_only_what_is_passed_on_is_seldom_fetched() -> None:
    world = World()
    world.resting.begin(TP(*HERE))
    world.forwarded = {TP(*HERE)}
    for number in range(1, int(MOST_SECONDS / REST_SECONDS)):
        world.now = number * REST_SECONDS
        assert fetched(world.resting) == {THERE}
    world.now = MOST_SECONDS
    assert fetched(world.resting) == {HERE, THERE}, "Faust and pages want to see where its log ends"


def test_one_that_gets_nothing_more_is_fetched_after_its_rest() -> None:
    world = World()
    world.resting.begin(TP(*HERE))
    world.forwarded = {TP(*HERE)}
    world.now = REST_SECONDS
    assert fetched(world.resting) == {THERE}
    world.forwarded = set()
    world.now = 2 * REST_SECONDS
    assert fetched(world.resting) == {HERE, THERE}
