"""Passwords go to what is known to take them, and into no log."""

import asyncio
import logging
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.protocol.admin import SaslAuthenticateRequest
from aiokafka.protocol.metadata import MetadataRequest
from cassandra import AuthenticationFailed

from app.blocks.faust.kafka_connections import describe
from app.cassandra import cql_wire as wire
from app.cassandra.cql_connection import LinkError, LinkOptions, open_link
from app.cassandra.credentials import Logins
from app.settings import Settings

PASSWORD = "Zq8-hidden"
KNOWN = "org.apache.cassandra.auth.PasswordAuthenticator"
BY_CERTIFICATE = "org.apache.cassandra.auth.MutualTlsAuthenticator"
STRANGER = "evil.Authenticator"


def driver_answer(authenticator: str, user: str | None) -> bytes:
    settings = Settings(_env_file=None, cassandra_username=user, cassandra_password=PASSWORD if user else None)  # type: ignore[call-arg]  # fmt: skip
    login = Logins(settings).new_authenticator("127.0.0.1")
    login.server_authenticator_class = authenticator
    return login.initial_response()


async def link_answer(authenticator: str, user: str) -> bytes:
    """What our own client answers a node that asks by this authenticator; then the node goes away."""
    got: list[bytes] = []

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header = await reader.readexactly(9)
        await reader.readexactly(struct.unpack(">i", header[5:])[0])
        name = authenticator.encode()
        body = struct.pack(">H", len(name)) + name
        writer.write(struct.pack(">BBhBi", 0x85, 0, 0, wire.AUTHENTICATE, len(body)) + body)
        data = bytearray()
        while chunk := await reader.read(4096):
            data += chunk
            for payload in wire.take_segments(data):
                got.append(payload[13:])  # behind the frame's header and the token's length
                writer.close()
        writer.close()

    server = await asyncio.start_server(node, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    access = LinkOptions(user, PASSWORD, None, "SELECT", 1, timeout_seconds=5.0)
    try:
        with pytest.raises(LinkError) as caught:
            await open_link("127.0.0.1", port, access, lambda tag, failure: None)
    finally:
        server.close()
    return got[0] if got else str(caught.value).encode()


async def test_only_a_known_authenticator_gets_the_password() -> None:
    sent = f"\0u\0{PASSWORD}".encode()
    assert driver_answer(KNOWN, "u") == await link_answer(KNOWN, "u") == sent
    assert driver_answer(BY_CERTIFICATE, "u") == await link_answer(BY_CERTIFICATE, "u") == b""
    assert driver_answer(BY_CERTIFICATE, None) == await link_answer(BY_CERTIFICATE, "") == b""
    with pytest.raises(AuthenticationFailed, match="unknown authenticator evil"):
        driver_answer(STRANGER, "u")
    assert b"evil.Authenticator, which fraudstream does not know" in await link_answer(
        STRANGER, "u"
    )
    with pytest.raises(AuthenticationFailed, match="requires authentication"):
        driver_answer(KNOWN, None)
    assert b"it requires a user" in await link_answer(KNOWN, "")


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%s".__mod__, "%r".__mod__])
def test_requests_that_hold_secrets_are_shown_without_them(show: Any) -> None:
    request = SaslAuthenticateRequest(PASSWORD.encode()).prepare({36: (0, 1)})
    assert PASSWORD not in show(request)
    metadata = MetadataRequest(["transactions"]).prepare({3: (0, 1)})
    assert "transactions" in show(metadata)


def test_answers_are_shown_without_records() -> None:
    assert describe(SimpleNamespace(API_KEY=1)) == "SimpleNamespace(...)"
    assert describe.__wrapped__  # type: ignore[attr-defined]


def test_access_is_shown_without_its_password(caplog: pytest.LogCaptureFixture) -> None:
    access = LinkOptions("u", PASSWORD, None, "SELECT", 1)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("any").debug("%s %r", access, access)
    assert PASSWORD not in caplog.text
