"""Kafka over TLS with users: every way in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import SettingsError, UnavailableError
from app.kafka.clients import cluster_id
from app.settings import Settings
from tests.local_http_server import LocalHttpServer, QuietHandler
from tests.secret_settings import PASSWORD
from tests.secured_servers import CLIENT, Secured

pytestmark = pytest.mark.integration


def mtls(secured: Secured, tmp_path: Path, name: str, **issue: Any) -> Settings:
    certificate, key = secured.authority.issue(name, **issue)
    return secured.settings(
        tmp_path, "mtls", kafka_security="SSL", kafka_cert_file=certificate, kafka_key_file=key
    )  # fmt: skip


KEY_PASSWORD = "Zq8-hidden-key-password"


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

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802 -- a name of http.server
            from base64 import b64encode

            said = self.headers["Authorization"]
            right = said == "Basic " + b64encode(f"{CLIENT}:{PASSWORD}".encode()).decode()
            token = f'{{"access_token":"{secured.token(CLIENT)}"}}' if right else ""
            self.answer(200 if right else 401, token.encode())

    with LocalHttpServer(Handler) as server:
        yield f"http://127.0.0.1:{server.port}/token"


def with_encrypted_key(secured: Secured, tmp_path: Path, password: str | None) -> Settings:
    certificate, key = secured.authority.issue("fraud-encrypted", password=KEY_PASSWORD)
    return secured.settings(
        tmp_path, "mtls", kafka_security="SSL", kafka_cert_file=certificate, kafka_key_file=key,
        kafka_key_password=password,
    )  # fmt: skip


async def test_an_encrypted_key_needs_its_password(secured: Secured, tmp_path: Path) -> None:
    for password in ("wrong", None):
        settings = with_encrypted_key(secured, tmp_path, password)
        with pytest.raises(SettingsError, match="FRAUDSTREAM_KAFKA_KEY_PASSWORD as well") as caught:
            await cluster_id(settings)
        assert "Zq8" not in str(caught.value)


async def test_a_broker_elsewhere_gets_no_login_in_the_clear(
    secured: Secured, tmp_path: Path
) -> None:
    """It is asked at 127.0.0.1, and advertises a name that may be another machine's."""
    settings = secured.settings(tmp_path, "advertised", kafka_security="SASL_PLAINTEXT")
    with pytest.raises(UnavailableError, match="brokers advertise .* without encryption: use SASL"):
        await cluster_id(settings)
    allowed = settings.model_copy(update={"allow_unencrypted_credentials": True})
    assert await cluster_id(allowed)
    with pytest.raises(UnavailableError, match="without encryption"):
        await cluster_id(settings)


async def test_every_way_in(secured: Secured, tmp_path: Path, issuer: str) -> None:
    ways = [
        secured.settings(tmp_path),
        secured.settings(tmp_path, kafka_sasl_mechanism="PLAIN"),
        secured.settings(tmp_path, "sasl_plaintext", kafka_security="SASL_PLAINTEXT"),
        mtls(secured, tmp_path, "fraud-client"),
        with_encrypted_key(secured, tmp_path, KEY_PASSWORD),
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


async def test_kafka_says_why_it_refuses(secured: Secured, tmp_path: Path) -> None:
    folder = secured.authority.folder
    stranger = folder / "stranger-ca.pem"

    def scram(listener: str = "sasl", **changes: Any) -> Settings:
        return secured.settings(tmp_path, listener, **changes)

    def by_certificate(name: str, **issue: Any) -> Settings:
        return mtls(secured, tmp_path, name, **issue)

    cases: list[tuple[Settings, str]] = [
        (
            scram(kafka_ca_file=stranger),
            "an authority that is not trusted here: name its certificate in FRAUDSTREAM_KAFKA_CA_FILE",
        ),
        (scram("other_name"), "is not for the name 127.0.0.1: write a name of the certificate in"),
        (scram("expired"), "has expired: renew it on the server"),
        (scram(kafka_username="nobody"), "refuses user 'nobody': check FRAUDSTREAM_KAFKA_USERNAME"),
        (scram(kafka_password="wrong"), f"refuses user '{CLIENT}': check FRAUDSTREAM_KAFKA"),
        (
            scram(kafka_sasl_mechanism="PLAIN", kafka_password="wrong"),
            f"refuses user '{CLIENT}': check FRAUDSTREAM_KAFKA",
        ),
        (
            scram(kafka_sasl_mechanism="SCRAM-SHA-256"),
            "does not offer SCRAM-SHA-256: set FRAUDSTREAM_KAFKA_SASL_MECHANISM",
        ),
        (scram(kafka_security="PLAINTEXT"), "speaks TLS: set FRAUDSTREAM_KAFKA_SECURITY=SSL, or"),
        (scram(kafka_security="SSL"), "requires a login: set FRAUDSTREAM_KAFKA_SECURITY=SASL_SSL"),
        (scram("plaintext"), "does not speak TLS at this port"),
        (
            scram("mtls", kafka_security="SSL"),
            "requires a client certificate: set FRAUDSTREAM_KAFKA_CERT_FILE and",
        ),
        (
            by_certificate("late", expired=True),
            "check that FRAUDSTREAM_KAFKA_CERT_FILE has not expired",
        ),
        (
            by_certificate("alien", stranger=True),
            "is signed by an authority that the server trusts",
        ),
        (in_file(secured, tmp_path, aud="another"), "refuses the token"),
        (in_file(secured, tmp_path, exp=1), "refuses the token"),
    ]
    wrong = []
    for settings, says in cases:
        try:
            found = await cluster_id(settings)
        except UnavailableError as error:
            found = str(error)
        if says not in found or "\n" in found or PASSWORD in found:
            wrong.append(f"{says!r} was expected, it says {found!r}")
    assert not wrong, "\n".join(wrong)
