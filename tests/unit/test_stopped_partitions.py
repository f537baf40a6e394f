"""A partition that cannot be read further is left out of fetches, and goes on once its offsets are given up."""

import asyncio
import logging

import pytest
from faust.types import TP

from app.blocks.faust.stopped_partitions import LOOK_SECONDS, StoppedPartitions
from app.blocks.faust.unreadable_batches import UnreadableBatchPolicy
from app.errors import DamagedLogError, NotAnsweringError
from app.kafka.skip_records import skip_in, skip_record

TP3 = TP("transactions", 3)


class Operator:
    """Gives offsets up, or does not."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answers: list[int | None | Exception] = []

    async def find_skip(self, error: DamagedLogError) -> int | None:
        assert (error.topic, error.partition, error.offset) == ("transactions", 3, 17)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_it_rests_between_looks_and_goes_on_behind_what_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    operator = Operator()
    watch = UnreadableBatchPolicy({"transactions"})
    stops = StoppedPartitions(watch, lambda: operator.now, operator.find_skip)
    watch.stopped = stops

    async def meet(answer: int | None | Exception) -> None:
        operator.answers.append(answer)
        watch.stop(TP3, 17, "its length is damaged")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def run() -> None:
        await meet(None)
        assert TP3 in stops
        assert TP("transactions", 4) not in stops
        assert "offset 17" in str(stops.current()[TP3])
        operator.now += LOOK_SECONDS
        assert TP3 not in stops  # fetched again
        await meet(NotAnsweringError("nobody there"))
        assert TP3 in stops
        operator.now += LOOK_SECONDS
        await meet(25)
        assert TP3 not in stops
        assert stops.current() == {}
        await meet(None)
        operator.now += 2 * LOOK_SECONDS  # fetched meanwhile, and read: the log was repaired
        assert stops.current() == {}

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert watch.skipped(TP3, 17) == 25
    told = [record.message for record in caplog.records]
    assert len(told) == 2  # the same is not said twice within a minute
    assert told[0].startswith(
        "transactions/3 cannot be read from offset 17 on: its length is damaged"
    )
    assert told[1] == "transactions/3: offsets 17 to 25 are skipped"


def test_topics_of_ours_do_not_stop_one_partition_alone() -> None:
    watch = UnreadableBatchPolicy({"transactions"})
    watch.stopped = StoppedPartitions(watch, lambda: 0.0, Operator().find_skip)
    with pytest.raises(DamagedLogError, match="enriched/0 cannot be read from offset 5 on"):
        watch.stop(TP("enriched", 0), 5, "its length is damaged")


def test_what_gives_offsets_up_is_no_dead_letter() -> None:
    class Record:
        key, headers = skip_record("transactions", 3, 17, 25, by="me", why="disk")
        value = b""

    found = skip_in(Record)
    assert found is not None
    assert (found["first"], found["last"], found["by"], found["why"]) == (17, 25, "me", "disk")
    sound = Record.headers
    for junk in (b"", None, b"{}", b"[]", b"{", b'{"first":1,"last":"2","topic":"t"}'):
        Record.headers = [("skip", junk)]
        assert skip_in(Record) is None
    Record.headers = sound
    Record.key = b"transactions/3/17"
    assert skip_in(Record) is None  # a producer's header alone is none
