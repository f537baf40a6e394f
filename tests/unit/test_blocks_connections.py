"""A connection whose transport is closed is not written to."""

import asyncio
from typing import Any

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.metadata import MetadataRequest

from app.blocks.faust import kafka_connections
from app.blocks.faust.kafka_connections import ANSWER_BYTES, drop_broken


async def connected(port: int, *, tended: bool) -> tuple[AIOKafkaClient, AIOKafkaConnection]:
    """A client and its connection, whose transport is closed; its reader is still busy with what came before."""
    client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}")
    if tended:
        drop_broken(client)
    conn = AIOKafkaConnection(
        "127.0.0.1", port, client_id="t", on_close=client._on_connection_closed
    )
    conn._versions = {request.API_KEY: (0, 0) for request in (ApiVersionRequest, MetadataRequest)}
    conn._reader, conn._writer = await asyncio.open_connection("127.0.0.1", port)
    conn._read_task = asyncio.ensure_future(asyncio.Event().wait())
    client._conns[1, 0] = conn
    assert conn.connected()
    conn._reader.feed_data(b"an answer that its reader has not read yet")
    conn._writer.transport.abort()
    await asyncio.sleep(0.05)
    assert conn._reader._eof
    assert conn.connected()
    return client, conn


def play(*, tended: bool) -> tuple[Any, bool]:
    """What a request raises, and whether the connection is closed then."""

    async def run() -> tuple[Any, bool]:
        server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client, conn = await connected(port, tended=tended)
        raised = None
        try:
            await client.send(1, MetadataRequest([]))
        except Exception as error:
            raised = error
        closed = conn._writer is None
        conn.close()
        server.close()
        return raised, closed

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def test_a_closed_transport_is_a_lost_connection():
    raised, closed = play(tended=True)
    # there is no such broker any more: what a client tries again
    assert isinstance(raised, KafkaConnectionError | NodeNotReadyError)
    assert raised.retriable
    assert closed


def test_uvloop_refuses_to_write_to_it_otherwise():
    raised, closed = play(tended=False)
    assert type(raised) is RuntimeError  # Kafka's own errors are such, too
    assert "closed" in str(raised)
    assert not closed


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"]
)
def test_an_answer_of_any_length_is_not_believed(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever answers there keeps the connection open, as if more were to come."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        await reader.read()
        writer.close()

    async def run() -> str:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=600_000)
        async with server:
            with pytest.raises(KafkaConnectionError):
                await client.bootstrap()
            await client.close()
        return f"127.0.0.1:{port} announces an answer of"

    said = asyncio.run(run())
    assert said in caplog.text
    assert int.from_bytes(answer[:4], "big") > ANSWER_BYTES


async def test_who_does_not_answer_is_asked_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_connections, "_silent", {})
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    silent = server.sockets[0].getsockname()[1]
    client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:1,127.0.0.1:{silent},127.0.0.1:2")
    assert {tuple(port for _, port, _ in client.hosts) for _ in range(200)} > {(1, silent, 2)}
    connection = AIOKafkaConnection("127.0.0.1", silent, client_id="t", request_timeout_ms=100)
    with pytest.raises(TimeoutError):
        await connection.connect()
    assert {client.hosts[-1][1] for _ in range(100)} == {silent}
    server.close()

    async def connect(_connection: object) -> str:
        return "connected"

    monkeypatch.setattr(kafka_connections, "_connect", connect)
    assert await connection.connect() == "connected"
    assert {client.hosts[-1][1] for _ in range(200)} > {silent}, "it answers again"
