"""Kafka over TLS with users: every way in."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from app.errors import UnavailableError
from app.kafka.clients import cluster_id
from app.settings import Settings
from tests.secure import CLIENT, PASSWORD, Secured

pytestmark = pytest.mark.integration


def mtls(secured: Secured, tmp_path: Path, name: str, **issue: Any) -> Settings:
    certificate, key = secured.authority.issue(name, **issue)
    return secured.settings(
        tmp_path, "mtls", kafka_security="SSL", kafka_cert_file=certificate, kafka_key_file=key
    )  # fmt: skip


def by_token(secured: Secured, tmp_path: Path, provider: str, **more: Any) -> Settings:
    return secured.settings(
        tmp_path, kafka_sasl_mechanism="OAUTHBEARER", kafka_token_provider=provider, **more
    )


def in_file(secured: Secured, tmp_path: Path, **claims: Any) -> Settings:
    file = tmp_path / f"token-{len(list(tmp_path.iterdir()))}"
    file.write_text(secured.token(CLIENT, **claims))
    return by_token(secured, tmp_path, f"file:{file}")


@pytest.fixture
def issuer(secured: Secured) -> Iterator[str]:
    """An identity provider that gives tokens to `CLIENT`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            from base64 import b64encode

            said = self.headers["Authorization"]
            right = said == "Basic " + b64encode(f"{CLIENT}:{PASSWORD}".encode()).decode()
            self.send_response(200 if right else 401)
            self.end_headers()
            if right:
                self.wfile.write(f'{{"access_token":"{secured.token(CLIENT)}"}}'.encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_every_way_in(secured: Secured, tmp_path: Path, issuer: str) -> None:
    ways = [
        secured.settings(tmp_path),
        secured.settings(tmp_path, kafka_sasl_mechanism="PLAIN"),
        secured.settings(tmp_path, "sasl_plaintext", kafka_security="SASL_PLAINTEXT"),
        mtls(secured, tmp_path, "fraud-client"),
        in_file(secured, tmp_path),
        by_token(secured, tmp_path, issuer),
    ]
    assert len({await cluster_id(way) for way in ways}) == 1


async def test_the_system_s_authorities_are_the_default(
    secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = secured.settings(tmp_path, kafka_ca_file=None)
    with pytest.raises(
        UnavailableError, match="an authority that is not trusted here: name its cert"
    ):
        await cluster_id(settings)
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.authority.ca))  # where OpenSSL looks
    assert await cluster_id(settings)
