"""The writer against a node that stops to answer, and against partitions that are taken away during an outage."""

import asyncio
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.cassandra import cql_nodes, row_batches, row_writer, write_retries
from app.cassandra import cql_wire as wire
from app.cassandra.packed_rows import PackedTable
from app.cassandra.prediction_rows import PREDICTIONS
from app.cassandra.row_writer import RowWriter
from app.metrics.counters import SinkStatus
from app.settings import Settings

UNPREPARED = struct.pack(">IH", 0x2500, 4) + b"gone" + b"\0\2id"
TIMED_OUT = wire.ServerError(0x1100, "Operation timed out")
#: Guards against hanging only.
PATIENCE_SECONDS = 60


class Node(asyncio.Protocol):
    """Speaks as much of the protocol as the writer needs.

    Args:
        healthy: whether it takes rows; else it answers the first batch with UNPREPARED, and then nothing.
    """

    def __init__(self, healthy: bool) -> None:
        self.healthy = healthy
        self.prepared = 0
        self.segments = bytearray()
        self.frames = bytearray()
        self.segmented = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def answer(self, opcode: int, stream: int, body: bytes) -> None:
        frame = struct.pack(">BBhBi", 0x85, 0, stream, opcode, len(body)) + body
        if self.segmented:
            head = wire.segment_header(len(frame) | wire._SELF_CONTAINED)
            frame = head + frame + zlib.crc32(frame, wire.CRC32_START).to_bytes(4, "little")
        self.transport.write(frame)

    def data_received(self, data: bytes) -> None:
        if self.segmented:
            self.segments += data
            for payload in wire.take_segments(self.segments):
                self.frames += payload
        else:
            self.frames += data
        while len(self.frames) >= 9:
            _, _, stream, opcode, size = struct.unpack_from(">BBhBi", self.frames)
            if len(self.frames) < 9 + size:
                return
            del self.frames[: 9 + size]
            self.asked(opcode, stream)

    def asked(self, opcode: int, stream: int) -> None:
        if opcode == wire.STARTUP:
            self.answer(wire.READY, stream, b"")
            self.segmented = True
        elif opcode == wire.PREPARE:
            self.prepared += 1
            if self.healthy or self.prepared == 1:
                self.answer(wire.RESULT, stream, struct.pack(">IH", 4, 2) + b"id")
        elif opcode == wire.BATCH and self.healthy:
            self.answer(wire.RESULT, stream, struct.pack(">I", 1))
        elif opcode == wire.BATCH:
            self.answer(wire.ERROR, stream, UNPREPARED)


class OneNode:
    """See `ReplicaMap`."""

    def __init__(self, port: int) -> None:
        self.nodes = [("127.0.0.1", port)]
        self.groups = [tuple(self.nodes)]
        self.new = True

    def refresh(self) -> bool:
        new, self.new = self.new, False
        return new

    def split(self, rows: list[bytes]) -> list[tuple[int, list[bytes]]]:
        return [(0, rows)]


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None)  # type: ignore[call-arg]


async def test_a_node_that_forgets_the_statement_and_falls_silent_is_given_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Node] = []

    def node() -> Node:
        made.append(Node(healthy=bool(made)))  # only the first connection is half dead
        return made[-1]

    server = await asyncio.get_running_loop().create_server(node, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(cql_nodes, "ReplicaMap", lambda *_: OneNode(port))
    status = SinkStatus()
    writer = RowWriter(None, settings, PREDICTIONS, status=status, seed=1)  # type: ignore[arg-type]
    row = writer.submit([b"\0\0\0\1cx"])
    nodes = writer._nodes
    assert nodes is not None
    nodes._access = replace(nodes._access, timeout_seconds=0.1)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await row
    finally:
        await writer.close()
        server.close()
    assert [one.prepared for one in made] == [2, 1]
    assert (status.rows, status.reason) == (1, None)
    assert writer.rows_waiting == 0


class Link:
    """A connection that keeps what is sent."""

    head, ready = b"h", True

    def __init__(self) -> None:
        self.pending: dict[int, tuple[Any, float]] = {}

    def send(self, _body: bytes, tag: Any) -> None:
        self.pending[len(self.pending)] = (tag, asyncio.get_running_loop().time())


class OneLink:
    """See `NodeLinks`."""

    consistency = 6

    def __init__(self, *_: Any, **__: Any) -> None:
        self.link = Link()
        self.links = {"a": self.link}
        self.map = SimpleNamespace(split=lambda rows: [(0, rows)])

    def tend(self) -> None: ...

    def pick(self, _group: int) -> Link:
        return self.link

    async def close(self) -> None: ...


@pytest.fixture
def failing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> tuple[RowWriter, SinkStatus, Callable[[], None]]:
    """A writer, its status, and what fails everything that is on its way."""
    monkeypatch.setattr(row_writer, "NodeLinks", OneLink)
    status = SinkStatus()
    writer = RowWriter(None, settings, PREDICTIONS, status=status, seed=1)  # type: ignore[arg-type]
    writer._rng = random.Random(1)

    def fail() -> None:
        link: Any = writer._nodes.links["a"]  # type: ignore[union-attr, index]
        for stream, (tag, _) in list(link.pending.items()):
            del link.pending[stream]
            writer._answered(tag, TIMED_OUT)

    return writer, status, fail


async def test_a_worker_whose_waiting_rows_are_given_up_waits_for_nothing(
    failing: tuple[RowWriter, SinkStatus, Callable[[], None]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.cassandra.outage_log._WARN_SECONDS", 0.01)
    writer, status, fail = failing
    first, second = writer.submit([b"x" * 100]), writer.submit([b"y" * 100])
    await asyncio.sleep(0)
    fail()
    assert status.reason == "Operation timed out"
    await asyncio.sleep(0.05)
    first.cancel()  # as a partition does that is revoked
    await asyncio.sleep(0)
    assert status.reason == "Operation timed out"  # the other partition's row still waits
    second.cancel()
    await asyncio.sleep(0)
    assert status.reason is None
    assert writer.unavailable_since is None
    said = [record.getMessage() for record in caplog.records]
    assert "has not accepted predictions" in said[0]
    assert said[1:] == ["no predictions wait for Cassandra any more: their partitions were revoked"]
    await writer.close()


async def test_all_that_wait_are_counted(
    failing: tuple[RowWriter, SinkStatus, Callable[[], None]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.cassandra.outage_log._WARN_SECONDS", 0.01)
    monkeypatch.setattr("app.cassandra.outage_log._REMIND_SECONDS", 0.01)
    answers = [20_343, OSError("Kafka is away")]

    async def behind() -> int:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    writer, _, fail = failing
    writer._outage._behind = behind
    row = writer.submit([b"x" * 100])
    await asyncio.sleep(0)
    fail()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(caplog.records) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    first, second = (record.getMessage() for record in caplog.records[:2])
    assert "; 20,343 wait and are retried" in first
    assert "; 1 wait and are retried" in second
    row.cancel()
    await writer.close()


async def test_an_outage_that_goes_on_is_noticed_again(
    failing: tuple[RowWriter, SinkStatus, Callable[[], None]],
) -> None:
    writer, status, fail = failing
    writer.submit([b"x" * 100]).cancel()
    await asyncio.sleep(0)
    again = writer.submit([b"y" * 100])
    await asyncio.sleep(0)
    fail()
    assert status.reason == "Operation timed out"
    again.cancel()
    await writer.close()


def sent(writer: RowWriter) -> list[list[bytes]]:
    """The rows of each batch that is on its way."""
    link: Any = writer._nodes.links["a"]  # type: ignore[union-attr]
    return [tag.rows for tag, _ in link.pending.values()]


def answer(writer: RowWriter, failure: wire.ServerError | None = None) -> None:
    """The first batch on its way is answered."""
    link: Any = writer._nodes.links["a"]  # type: ignore[union-attr, index]
    stream, (tag, _) = next(iter(link.pending.items()))
    del link.pending[stream]
    writer._answered(tag, failure)


async def test_what_is_submitted_in_one_turn_travels_together(
    failing: tuple[RowWriter, SinkStatus, Callable[[], None]],
) -> None:
    writer, _, _ = failing
    first, second = writer.submit([b"a", b"b"]), writer.submit([b"c"])
    await asyncio.sleep(0)
    assert sent(writer) == [[b"a", b"b", b"c"]]
    answer(writer)
    assert first.done() and second.done()
    assert (writer.rows_written, writer.batches_written, writer.rows_waiting) == (3, 1, 0)
    await writer.close()


async def test_what_had_to_wait_travels_together_up_to_the_size(
    failing: tuple[RowWriter, SinkStatus, Callable[[], None]],
) -> None:
    writer, _, _ = failing
    writer._settings = writer._settings.model_copy(update={"sink_in_flight": 1})
    writer._batch_bytes = 3 * (1 + row_batches.ROW_OVERHEAD_BYTES)
    writes = []
    for rows in ([b"a"], [b"b", b"c"], [b"d", b"e"]):
        writes.append(writer.submit(rows))
        await asyncio.sleep(0)
    assert sent(writer) == [[b"a"]]
    answer(writer)
    assert sent(writer) == [[b"b", b"c", b"d"]]
    answer(writer)
    assert [write.done() for write in writes] == [True, True, False]
    assert sent(writer) == [[b"e"]]
    answer(writer)
    assert writes[2].done()
    await writer.close()


async def test_a_row_that_is_refused_fails_its_own_write_only(
    failing: tuple[RowWriter, SinkStatus, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, _, _ = failing
    monkeypatch.setattr(PackedTable, "place", lambda *_: "there")
    good, bad, other = (writer.submit([row]) for row in (b"good", b"bad", b"other"))
    await asyncio.sleep(0)
    while not (good.done() and bad.done() and other.done()):
        refused = b"bad" in sent(writer)[0]
        answer(writer, wire.ServerError(0x2200, "no such row") if refused else None)
    assert good.exception() is None
    assert other.exception() is None
    assert "no such row" in str(bad.exception())
    await asyncio.sleep(0)
    assert writer.rows_waiting == 0
    await writer.close()


async def test_rows_given_up_leave_a_batch_that_is_repeated(
    failing: tuple[RowWriter, SinkStatus, Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write_retries, "_BACKOFF_SECONDS", (0.0, 0.0))
    writer, _, fail = failing
    revoked, kept = writer.submit([b"revoked"]), writer.submit([b"kept"])
    await asyncio.sleep(0)
    fail()
    revoked.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not sent(writer):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert sent(writer) == [[b"kept"]]
    answer(writer)
    assert kept.done()
    await writer.close()
