"""Requests that any broker may answer, while one of them is away."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError

from app.kafka import admin_client
from app.kafka.admin_client import AdminClient, ready_broker


class Cluster:
    """Three brokers: those that accept a connection, and who the controller is after each look at the metadata."""

    def __init__(self, ready: set[int], controllers: list[int]) -> None:
        self._ready = ready
        self._controllers = controllers
        self._retry_backoff = 0.0
        self._request_timeout_ms = 1_000
        self.asked: list[int] = []
        self.cluster = self

    def brokers(self) -> list[Any]:
        return [SimpleNamespace(nodeId=number) for number in (1, 2, 3)]

    @property
    def controller(self) -> Any:
        return SimpleNamespace(nodeId=self._controllers[0])

    async def force_metadata_update(self) -> None:
        if len(self._controllers) > 1:
            self._controllers.pop(0)

    async def ready(self, number: int) -> bool:
        return number in self._ready

    async def send(self, number: int, _request: Any) -> str:
        self.asked.append(number)
        return "answer"


def client_of(cluster: Cluster) -> AdminClient:
    client = AdminClient.__new__(AdminClient)
    client._client = cluster
    return client


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "_AGAIN_SECONDS", 0.0)


async def test_a_broker_that_stopped_is_passed_over() -> None:
    cluster = Cluster({3}, [1])
    assert await ready_broker(cluster) == 3
    assert await client_of(cluster)._send_request("what") == "answer"
    assert cluster.asked == [3]


async def test_a_named_broker_is_asked_itself() -> None:
    cluster = Cluster({3}, [1])
    await client_of(cluster)._send_request("what", 2)
    assert cluster.asked == [2]


async def test_none_is_there() -> None:
    with pytest.raises(NodeNotReadyError, match=r"none of the brokers \[1, 2, 3\] accepts"):
        await ready_broker(Cluster(set(), [1]))


async def test_the_next_controller_is_asked() -> None:
    cluster = Cluster({2, 3}, [1, 1, 2])
    assert await client_of(cluster)._send_to_controller("what") == "answer"
    assert cluster.asked == [2]


async def test_no_controller_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "_CONTROLLER_SECONDS", 0.01)
    with pytest.raises(NodeNotReadyError, match=r"controller does not answer within 0\.01 s"):
        await client_of(Cluster({2, 3}, [1]))._send_to_controller("what")
