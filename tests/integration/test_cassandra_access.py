"""TLS to a real Cassandra: the server behind a proxy that speaks TLS with certificates of our own."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from app.cassandra import schema_migration
from app.cassandra.cql_connection import LinkError, LinkOptions, open_link
from app.cassandra.prediction_rows import PREDICTIONS, RowPacker
from app.cassandra.row_writer import RowWriter
from app.cassandra.session import connect, disconnect
from app.errors import UnavailableError
from app.settings import Settings
from tests.prediction_builder import count_predictions, prediction
from tests.real_servers import Servers
from tests.secured_servers import Authority
from tests.tcp_proxy import TcpProxy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs certificates of servers."""
    return Authority(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def speaking_tls(
    stack: Servers, authority: Authority, name: str, host: str = "127.0.0.1", **issue: bool
) -> AsyncIterator[TcpProxy]:
    """The server behind a certificate of its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue(name, host, **issue))  # type: ignore[arg-type]
    async with TcpProxy(*stack.endpoints.cassandra[0], tls=context) as proxy:
        yield proxy


@pytest.fixture
async def tls_proxy(stack: Servers, authority: Authority) -> AsyncIterator[TcpProxy]:
    async with speaking_tls(stack, authority, "node") as proxy:
        yield proxy


def through(settings: Settings, proxy: TcpProxy, authority: Path | None) -> Settings:
    return settings.model_copy(
        update={"cassandra": f"127.0.0.1:{proxy.port}", "cassandra_ca_file": authority}
    )


async def test_sessions_and_the_writer_speak_tls(
    settings: Settings, tls_proxy: TcpProxy, authority: Authority
) -> None:
    safe = through(settings, tls_proxy, authority.ca)
    session = await asyncio.to_thread(connect, safe)
    await asyncio.to_thread(schema_migration.migrate, session, safe)
    writer = RowWriter(session, safe, PREDICTIONS, seed=1)
    records = [prediction(number, note="x" * 1_000 * number) for number in range(150)]
    await asyncio.wait_for(
        writer.write(RowPacker("EUR", 2).pack_many(map(orjson.dumps, records)).rows), 20
    )
    assert await asyncio.to_thread(count_predictions, session, safe) == 150
    await writer.close()
    await asyncio.to_thread(disconnect, session)


async def test_an_unknown_authority_is_refused(
    settings: Settings, tls_proxy: TcpProxy, authority: Authority
) -> None:
    wrong = through(settings, tls_proxy, authority.folder / "stranger-ca.pem")
    with pytest.raises(UnavailableError, match="signed by an authority that is not trusted here"):
        await asyncio.to_thread(connect, wrong)


@pytest.mark.parametrize(
    ("name", "host", "expired", "says"),
    [
        ("other", "db.bank.example", False,
         "is not for the address 127.0.0.1: nodes are checked by the address that they announce"),
        ("local", "localhost", False, "is not for the address 127.0.0.1"),
        ("old", "127.0.0.1", True, "has expired: renew it on the server"),
    ],
    ids=["other-name", "name-of-contact-point", "expired"],
)  # fmt: skip
async def test_a_server_with_a_wrong_certificate(
    stack: Servers, settings: Settings, authority: Authority, name: str, host: str, expired: bool, says: str,
) -> None:  # fmt: skip
    async with speaking_tls(stack, authority, name, host, expired=expired) as proxy:
        with pytest.raises(UnavailableError, match=says) as caught:
            await asyncio.to_thread(connect, through(settings, proxy, authority.ca))
        assert "\n" not in str(caught.value)
        # a name as a contact point does not help: the driver looks it up
        named = through(settings, proxy, authority.ca).model_copy(
            update={"cassandra": f"localhost:{proxy.port}"}
        )
        with pytest.raises(UnavailableError, match=says):
            await asyncio.to_thread(connect, named)
        context = ssl.create_default_context(cafile=str(authority.ca))
        with pytest.raises(LinkError, match="CERTIFICATE_VERIFY_FAILED"):
            await open_link(
                "127.0.0.1",
                proxy.port,
                LinkOptions("", "", context, "x", 1),
                lambda tag, failure: None,
            )


async def test_a_server_without_tls(
    stack: Servers, settings: Settings, authority: Authority
) -> None:
    wrong = settings.model_copy(update={"cassandra_ca_file": authority.ca})
    with pytest.raises(UnavailableError, match="Cassandra at "):
        await asyncio.to_thread(connect, wrong, timeout_seconds=3.0)


async def test_the_link_says_why_it_cannot_be_made(
    stack: Servers, settings: Settings, tls_proxy: TcpProxy, authority: Authority
) -> None:
    def access(statement: str, trusted: str | None = None) -> LinkOptions:
        context = None
        if trusted:
            context = ssl.create_default_context(cafile=str(authority.folder / trusted))
        return LinkOptions("", "", context, statement, 1, timeout_seconds=2.0)

    host, port = stack.endpoints.cassandra[0]
    cases = [
        (host, port, access("SELECT nonsense"), "expecting K_FROM"),
        (host, port, access("SELECT * FROM nowhere.t"), "keyspace nowhere does not exist"),
        (host, port, access("x", "ca.pem"), "."),
        ("127.0.0.1", 1, access("x"), "Connect call failed"),
        ("127.0.0.1", tls_proxy.port, access("x", "stranger-ca.pem"), "CERTIFICATE_VERIFY_FAILED"),
        ("127.0.0.1", tls_proxy.port, access("x"), "."),
    ]
    for to_host, to_port, how, said in cases:
        with pytest.raises(LinkError, match=said):
            await open_link(to_host, to_port, how, lambda tag, failure: None)
