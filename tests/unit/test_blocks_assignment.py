"""The consumer's partitions, converted once for each assignment."""

from types import SimpleNamespace
from typing import Any

from aiokafka.structs import TopicPartition
from faust.types import TP

from app.blocks.faust import fetch_thread
from app.blocks.faust.fetch_thread import BlockConsumerThread


class Thread:
    """As much of the thread as `assignment` needs."""

    assignment = BlockConsumerThread.assignment
    _assigned = BlockConsumerThread._assigned

    def __init__(self, tps: Any) -> None:
        self.consumer = SimpleNamespace(assignment=lambda: self.tps)
        self.tps = tps

    def _ensure_consumer(self) -> Any:
        return self.consumer


def test_partitions_are_converted_once_for_each_assignment(monkeypatch: Any) -> None:
    converted = []

    def ensure(tps: Any) -> set[TP]:
        converted.append(tps)
        return {TP(*tp) for tp in tps}

    monkeypatch.setattr(fetch_thread, "ensure_TPset", ensure)
    first = frozenset({TopicPartition("t", 0), TopicPartition("t", 1)})
    second = frozenset({TopicPartition("t", 1)})
    thread = Thread(first)
    assert [thread.assignment() for _ in range(3)] == [{TP("t", 0), TP("t", 1)}] * 3  # type: ignore[misc]
    thread.tps = second
    assert thread.assignment() == {TP("t", 1)}  # type: ignore[misc]
    assert all(isinstance(tp, TP) for tp in thread.assignment())  # type: ignore[misc]
    assert converted == [first, second]
    thread.tps = set()
    assert thread.assignment() == frozenset()  # type: ignore[misc]
