"""TLS to a real Cassandra: the server behind a proxy that speaks TLS with certificates of our own."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
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
from tests.tcp_proxy import TcpProxy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (ca.pem), a server's certificate for 127.0.0.1, and a stranger's."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "stranger"):
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=node",
        "-keyout", "node.key", "-out", "node.csr",
    )  # fmt: skip
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        "x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-extfile", "names", "-out", "node.pem",
    )  # fmt: skip
    return folder


@pytest.fixture
async def tls_proxy(stack: Servers, certificates: Path) -> AsyncIterator[TcpProxy]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "node.pem", certificates / "node.key")
    async with TcpProxy(*stack.endpoints.cassandra[0], tls=context) as proxy:
        yield proxy


def through(settings: Settings, proxy: TcpProxy, authority: Path | None) -> Settings:
    return settings.model_copy(
        update={"cassandra": f"127.0.0.1:{proxy.port}", "cassandra_ca_file": authority}
    )


async def test_sessions_and_the_writer_speak_tls(
    settings: Settings, tls_proxy: TcpProxy, certificates: Path
) -> None:
    safe = through(settings, tls_proxy, certificates / "ca.pem")
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
    settings: Settings, tls_proxy: TcpProxy, certificates: Path
) -> None:
    wrong = through(settings, tls_proxy, certificates / "stranger.pem")
    with pytest.raises(UnavailableError, match="signed by an authority that is not trusted here"):
        await asyncio.to_thread(connect, wrong)


async def test_a_server_without_tls(stack: Servers, settings: Settings, certificates: Path) -> None:
    wrong = settings.model_copy(update={"cassandra_ca_file": certificates / "ca.pem"})
    with pytest.raises(UnavailableError, match="Cassandra at "):
        await asyncio.to_thread(connect, wrong, timeout_seconds=3.0)


async def test_the_link_says_why_it_cannot_be_made(
    stack: Servers, settings: Settings, tls_proxy: TcpProxy, certificates: Path
) -> None:
    def access(statement: str, authority: str | None = None) -> LinkOptions:
        context = None
        if authority:
            context = ssl.create_default_context(cafile=str(certificates / authority))
        return LinkOptions("", "", context, statement, 1, timeout_seconds=2.0)

    host, port = stack.endpoints.cassandra[0]
    cases = [
        (host, port, access("SELECT nonsense"), "expecting K_FROM"),
        (host, port, access("SELECT * FROM nowhere.t"), "keyspace nowhere does not exist"),
        (host, port, access("x", "ca.pem"), "."),
        ("127.0.0.1", 1, access("x"), "Connect call failed"),
        ("127.0.0.1", tls_proxy.port, access("x", "stranger.pem"), "CERTIFICATE_VERIFY_FAILED"),
        ("127.0.0.1", tls_proxy.port, access("x"), "."),
    ]
    for to_host, to_port, how, said in cases:
        with pytest.raises(LinkError, match=said):
            await open_link(to_host, to_port, how, lambda tag, failure: None)
