"""A TCP proxy between a client and a real server, which can be cut, refuse, or fall silent."""

import asyncio
import ssl
from typing import Self


class TcpProxy:
    """Forwards bytes from a free local port to a server.

    Args:
        host, port: the server.
        tls: speak TLS to clients.

    Attributes:
        port: where clients connect.
        silent: while True, what the server says is kept back.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.silent = False
        self._target = (host, port)
        self._tls = tls
        self._refuse = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *args: object) -> None:
        assert self._server
        self._server.close()
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self, *, refuse: bool = False) -> None:
        """Break every connection; with `refuse`, also those to come, until `mend`."""
        self._refuse = refuse
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Take connections again, and speak."""
        self._refuse = self.silent = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuse:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, server_writer}
        try:
            await asyncio.gather(
                self._forward(reader, server_writer, False),
                self._forward(server_reader, writer, True),
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, server_writer):
                one.transport.abort()
                self._writers.discard(one)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            while self.silent and answers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if writer.transport.is_closing():
                break
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
        raise ConnectionResetError  # ends the other direction too
