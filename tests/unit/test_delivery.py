"""The sink's delivery tells how long each row took, once Cassandra has it, and nothing of rows it has not."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from app.cassandra.prediction_rows import PackedRows
from app.cassandra.sink_delivery import Delivery
from app.cassandra.table_ttl import TtlCheck
from app.errors import UnavailableError
from app.metrics.counters import SinkStatus
from app.settings import Settings


class Writer:
    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def submit(self, rows: Any) -> "asyncio.Future[None]":
        return self.future


async def delivered(outcome: BaseException | None) -> tuple[list[float], list[float]]:
    appended: list[float] = []
    happened: list[float] = []
    delivery = Delivery(
        Settings(_env_file=None),  # type: ignore[call-arg]
        status=SinkStatus(),
        clock_ms=lambda: 1_000.0,
        since_append=appended.extend,
        since_event=happened.extend,
    )
    writer = Writer()
    delivery._writers._writers["predictions"] = writer  # type: ignore[assignment]
    delivery._writers.connected = True
    durable = await delivery.deliver(0, PackedRows([b"a", b"b"], [990, 995], [900, 950], []))
    assert not appended
    if outcome is None:
        writer.future.set_result(None)
        await durable
    else:
        writer.future.set_exception(outcome)
        with pytest.raises(type(outcome)):
            await durable
    await asyncio.sleep(0)  # the callback's turn
    return appended, happened


async def test_partitions_that_are_revoked_while_it_connects_leave_nothing_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = threading.Event()

    def connect(_settings: Settings) -> Any:
        if not answer.wait(0.05):
            msg = "no Cassandra at here"
            raise UnavailableError(msg)
        return None

    monkeypatch.setattr("app.cassandra.sink_delivery.shared_session", connect)
    monkeypatch.setattr("app.cassandra.sink_delivery._RECONNECT_SECONDS", 0.01)
    status = SinkStatus()
    delivery = Delivery(
        Settings(_env_file=None),  # type: ignore[call-arg]
        status=status,
        clock_ms=lambda: 0.0,
        since_append=lambda _: None,
        since_event=lambda _: None,
    )
    rows = PackedRows([b"a"], [0], [0])
    waiting = [asyncio.create_task(delivery.deliver(number, rows)) for number in range(2)]
    async with asyncio.timeout(60):
        while status.reason is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        assert status.reason == "no Cassandra at here"
        waiting[1].cancel()
        await asyncio.wait(waiting)
        assert status.reason is None
        monkeypatch.setattr(
            "app.cassandra.sink_delivery.TtlCheck", lambda *_: SimpleNamespace(look=lambda: None)
        )
        monkeypatch.setattr("app.cassandra.sink_delivery.RowWriter", lambda *_, **__: Writer())
        answer.set()
        await delivery.deliver(0, rows)  # the next one takes up where they were


def test_a_changed_ttl_is_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    tables: dict[str, Any] = {}
    keyspaces = {"fraud_detection": SimpleNamespace(tables=tables)}
    session = SimpleNamespace(
        cluster=SimpleNamespace(metadata=SimpleNamespace(keyspaces=keyspaces))
    )
    settings = Settings(_env_file=None, prediction_ttl="400d")  # type: ignore[call-arg]
    kept_for = TtlCheck(session, settings, "predictions")  # type: ignore[arg-type]
    kept_for.look()
    tables["predictions"] = SimpleNamespace(options={"default_time_to_live": 400 * 86_400})
    kept_for.look()
    assert not caplog.records
    tables["predictions"] = SimpleNamespace(options={"default_time_to_live": 86_400})
    kept_for.look()
    kept_for.look()
    (record,) = caplog.records
    assert "keeps new rows 1d, but FRAUDSTREAM_PREDICTION_TTL is 400d" in record.getMessage()


async def test_latencies_count_from_the_append_and_from_the_event() -> None:
    assert await delivered(None) == ([10.0, 5.0], [100.0, 50.0])


async def test_rows_that_were_not_written_have_no_latency() -> None:
    assert await delivered(ValueError("no")) == ([], [])
