"""One connection to one Cassandra node, inside the event loop: handshake, one prepared statement, batches.

No thread and no future a batch: an answer calls back as it is read. Made for one sender on one loop.
"""

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.cassandra import cql_lz4
from app.cassandra import cql_wire as wire
from app.encrypted_credentials import others_can_read, to_cassandra

#: Streams of one connection: far more than the batches that are ever on their way.
_STREAMS = 1024
#: A silent firewall is noticed while nothing is written, seconds.
_KEEPALIVE_SECONDS = 60


class LinkError(Exception):
    """The connection cannot be made, or the node refused the handshake.

    Attributes:
        failure: the server's own words; None when it said nothing.
    """

    def __init__(self, message: str, failure: wire.ServerError | None = None) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass(frozen=True)
class LinkOptions:
    """How a link speaks to its node.

    Attributes:
        user, password: empty user: no authentication.
        tls: None without TLS.
        statement: the one that is prepared.
        columns: the number of its values.
        compression: `none` or `lz4`.
        unencrypted: whether a password may go to other machines without TLS.
        timeout_seconds: for connection and handshake together, and for each later answer to PREPARE.
    """

    user: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None
    statement: str
    columns: int
    compression: str = "none"
    unencrypted: bool = False
    timeout_seconds: float = 10.0


#: Gets the tag of a batch and what went wrong, None if it was acknowledged.
OnAnswer = Callable[[Any, wire.ServerError | None], None]


class CqlLink(asyncio.Protocol):
    """A connection; use `open_link`.

    Args:
        on_answer: called once for each batch that was sent, unless the connection is lost before.

    Attributes:
        head: what `cql_wire.batch` needs of the prepared statement.
        ready: whether batches may be sent.
        pending: tags of batches on their way with the monotonic second they were sent, oldest first.
        closed: resolves when the connection is gone, with the reason.
    """

    def __init__(self, on_answer: OnAnswer) -> None:
        self.head = b""
        self.ready = False
        self.pending: dict[int, tuple[Any, float]] = {}
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_answer = on_answer
        self._requests: dict[int, asyncio.Future[tuple[int, int, bytes]]] = {}
        self._streams = deque(range(_STREAMS))
        self._transport: Any = None
        self._segmented = False
        self._segments: Any = wire
        self._bytes = bytearray()
        self._frames = bytearray()

    def send(self, body: bytes, tag: Any) -> None:
        """Send a BATCH body; the answer comes with `tag`."""
        stream = self._streams.popleft()
        self.pending[stream] = (tag, time.monotonic())
        self._transport.write(self._segments.segments(wire.BATCH, stream, body))
        if self._transport.is_closing():  # the write failed; `connection_lost` follows
            self.ready = False

    def abort(self, reason: str) -> None:
        """Drop the connection at once."""
        if not self.closed.done():
            self.closed.set_result(reason)
        self.ready = False
        if self._transport is not None:
            self._transport.abort()

    async def handshake(self, access: LinkOptions) -> None:
        """Open the conversation and prepare the statement.

        Raises:
            LinkError: the node refuses.
        """
        within = access.timeout_seconds
        start = wire.startup(access.compression)
        flags, opcode, body = await self._request(wire.STARTUP, start, within)
        self._segmented = True  # both answers switch to segments
        self._segments = cql_lz4 if access.compression == "lz4" else wire
        if opcode == wire.AUTHENTICATE:
            answer = _credentials(access, wire.read_authenticator(flags, body))
            _, opcode, _ = await self._request(wire.AUTH_RESPONSE, answer, within)
        if opcode not in {wire.READY, wire.AUTH_SUCCESS}:
            msg = f"unexpected answer {opcode:#x} to the handshake"
            raise LinkError(msg)
        await self.prepare(access)

    async def prepare(self, access: LinkOptions) -> None:
        """Prepare the statement (again); the link is ready afterwards.

        Raises:
            LinkError: the node refuses it or does not answer, or the connection is lost.
        """
        self.ready = False
        flags, opcode, body = await self._request(
            wire.PREPARE, wire.prepare(access.statement), access.timeout_seconds
        )
        if opcode != wire.RESULT:
            msg = f"unexpected answer {opcode:#x} to PREPARE"
            raise LinkError(msg)
        try:
            statement_id = wire.read_statement_id(flags, body)
        except wire.ProtocolError as error:
            raise LinkError(str(error)) from error
        self.head = wire.statement_head(statement_id, access.columns)
        self.ready = not self.closed.done()

    async def _request(self, opcode: int, body: bytes, within: float) -> tuple[int, int, bytes]:
        """Send a request; a node that does not answer it within so many seconds loses the connection."""
        stream = self._streams.popleft()
        answer = asyncio.get_running_loop().create_future()
        self._requests[stream] = answer
        if self.closed.done():
            raise LinkError(self.closed.result())
        encode = self._segments.segments if self._segmented else wire.frame
        self._transport.write(encode(opcode, stream, body))
        try:
            async with asyncio.timeout(within):
                flags, got, content = await answer
        except TimeoutError:
            reason = f"no answer for {within:g} s"
            self.abort(reason)
            raise LinkError(reason) from None
        if got == wire.ERROR:
            failure = wire.read_failure(flags, content)
            raise LinkError(failure.message, failure)
        return flags, got, content

    # ------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            if self._segmented:
                self._bytes += data
                for payload in self._segments.take_segments(self._bytes):
                    self._frames += payload
            else:
                self._frames += data
            for flags, stream, opcode, body in wire.take_frames(self._frames):
                self._answered(flags, stream, opcode, body)
        except wire.ProtocolError as error:
            self.abort(str(error))

    def _answered(self, flags: int, stream: int, opcode: int, body: bytes) -> None:
        waiting = self.pending.pop(stream, None)
        if waiting is not None:
            self._streams.append(stream)
            failure = wire.read_failure(flags, body) if opcode == wire.ERROR else None
            self._on_answer(waiting[0], failure)
            return
        request = self._requests.pop(stream, None)
        if request is not None:
            self._streams.append(stream)
            if not request.done():
                request.set_result((flags, opcode, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        reason = f"connection lost: {exc}" if exc else "connection closed by the server"
        if not self.closed.done():
            self.closed.set_result(reason)
        self.ready = False
        for request in self._requests.values():
            if not request.done():
                request.set_exception(LinkError(self.closed.result()))
        self._requests.clear()


def _credentials(access: LinkOptions, authenticator: str) -> bytes:
    """The answer to what asks who we are; a password only for what is known to take one."""
    if authenticator == wire.CERTIFICATE_LOGIN:
        return wire.empty_credentials()
    if not access.user:
        msg = "it requires a user: set FRAUDSTREAM_CASSANDRA_USERNAME and _PASSWORD"
        raise LinkError(msg)
    if authenticator not in wire.PASSWORD_LOGINS:
        msg = (
            f"it logs in by {authenticator}, which fraudstream does not know: no password was sent"
        )
        raise LinkError(msg)
    return wire.plain_credentials(access.user, access.password)


async def open_link(host: str, port: int, access: LinkOptions, on_answer: OnAnswer) -> CqlLink:
    """A link that is ready for batches.

    Raises:
        LinkError: no connection, or the node refuses; the text says why.
    """
    if access.user and access.tls is None and others_can_read(host, allowed=access.unencrypted):
        raise LinkError(str(to_cassandra(host)))
    loop = asyncio.get_running_loop()
    link: CqlLink | None = None
    try:
        async with asyncio.timeout(access.timeout_seconds):
            _, link = await loop.create_connection(
                lambda: CqlLink(on_answer), host, port, ssl=access.tls
            )
            await link.handshake(access)
    except TimeoutError:
        if link is not None:
            link.abort("no answer to the handshake")
        msg = f"no answer within {access.timeout_seconds:g} s"
        raise LinkError(msg) from None
    except OSError as error:  # also of TLS
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise LinkError(str(reason)) from error
    except BaseException as error:
        if link is not None:
            link.abort(str(error))
        raise
    return link
