"""aiokafka's connections: on uvloop, with bounded answers, first to who answers, and without secrets in its log."""

import logging
import struct
import time
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason, collect_hosts
from aiokafka.protocol.struct import Struct

from app.encrypted_credentials import others_can_read, to_kafka

logger = logging.getLogger(__name__)

#: The largest answer that is read. aiokafka fetches at most 50 MB at once, and one batch more.
ANSWER_BYTES = 256 << 20


def drop_broken(client: Any) -> None:
    """Let a client open a connection anew whose transport is closed already.

    aiokafka takes a connection for a good one until its reader has read to the end. What is written to it meanwhile
    asyncio drops and uvloop refuses, with a RuntimeError that aiokafka does not know: its sender ended, and the
    worker with it, when Kafka was restarted (seen in a crash test of a million records).

    Args:
        client: an aiokafka client.
    """
    get = client._get_conn

    async def get_tended(node: Any, **options: Any) -> Any:
        for conn_id, conn in list(client._conns.items()):
            writer = conn._writer
            if conn_id[0] == node and writer is not None and writer.is_closing():
                conn.close(reason=CloseReason.CONNECTION_BROKEN)
        return await get(node, **options)

    client._get_conn = get_tended


async def read_answers(of: Any) -> None:
    """Read answers from a connection until it ends, in place of aiokafka's `_read`, which believes any length.

    What is no Kafka at all shows here first: HTTP's first four bytes announce 1.2 GB, and the request timed out
    without a word.

    Args:
        of: weak reference to the connection.
    """
    connection = of()
    if connection is None:
        return
    reader = connection._reader
    where = f"{connection.host}:{connection.port}"
    del connection
    while True:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        if not 0 <= size <= ANSWER_BYTES:
            msg = f"{where} announces an answer of {size} bytes, which Kafka never sends: is this Kafka's port?"
            logger.error(msg)
            raise ConnectionError(msg)
        answer = await reader.readexactly(size)
        connection = of()
        if connection is None:
            return
        connection._handle_frame(answer)
        del connection


#: Requests and answers that hold passwords, tokens or records: Produce, Fetch, SaslAuthenticate.
_SILENT_APIS = frozenset({0, 1, 36})
_spelled_out = Struct.__repr__


def describe(struct: Any) -> str:
    """A request or answer as aiokafka's debug log has it: without its values where they are nobody's business."""
    if getattr(struct, "API_KEY", None) in _SILENT_APIS:
        return f"{type(struct).__name__}(...)"
    return _spelled_out(struct)


#: When an address last did not answer, by host and port (monotonic seconds).
_silent: dict[tuple[str, int], float] = {}
_connect = AIOKafkaConnection.connect
_unencrypted_allowed = False


def allow_unencrypted_logins(allowed: bool) -> None:  # noqa: FBT001
    """Whether logins without TLS may go to other machines from now on. A process has one deployment."""
    global _unencrypted_allowed  # noqa: PLW0603
    _unencrypted_allowed = allowed


async def connect_and_remember(connection: Any) -> Any:
    """Connect as aiokafka does, and remember who does not answer.

    A broker that is a loopback address by settings may advertise another machine: that one gets no login without TLS.
    """
    where = connection.host, connection.port
    unencrypted = connection._security_protocol == "SASL_PLAINTEXT"
    if unencrypted and others_can_read(connection.host, allowed=_unencrypted_allowed):
        raise ConnectionError(str(to_kafka(connection.host)))
    try:
        connected = await _connect(connection)
    except Exception:
        _silent[where] = time.monotonic()
        raise
    _silent.pop(where, None)
    return connected


def answering_first(client: Any) -> list[Any]:
    """Bootstrap servers in the order in which they are asked: at random, those that lately did not answer last.

    A worker starts with seven clients one after the other. Each waits up to 40 s for a broker that accepts connections
    and does not answer: while one of three was frozen, a start took five minutes.
    """
    hosts = collect_hosts(client._bootstrap_servers)
    return sorted(hosts, key=lambda host: _silent.get(host[:2], 0.0))


def install() -> None:
    """Let every client of this process do so: consumers, producers and admin clients."""
    answering_first.__wrapped__ = AIOKafkaClient.hosts.fget  # type: ignore[attr-defined]  # tests watch it
    AIOKafkaClient.hosts = property(answering_first)
    connect_and_remember.__wrapped__ = _connect  # type: ignore[attr-defined]  # tests watch it
    AIOKafkaConnection.connect = connect_and_remember
    describe.__wrapped__ = _spelled_out  # type: ignore[attr-defined]  # tests watch it
    Struct.__repr__ = describe
    read_answers.__wrapped__ = AIOKafkaConnection._read  # type: ignore[attr-defined]  # tests watch it
    AIOKafkaConnection._read = staticmethod(read_answers)


install()
