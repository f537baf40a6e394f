"""What a deployment is refused that would send credentials in the clear, or has only half of them."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.address_syntax import is_loopback
from app.blocks.faust import kafka_connections
from app.cassandra.cql_connection import LinkError, LinkOptions, open_link
from app.cassandra.credentials import Logins, UnencryptedLoginError
from app.errors import SettingsError
from app.kafka.credentials import security
from app.metrics.trace_spans import Spans
from app.notify.senders import People
from app.notify_routes import Route
from app.settings import load_settings

pytestmark = pytest.mark.usefixtures("no_settings")
USER = {"kafka_username": "u", "kafka_password": "p"}
SASL = {"kafka_security": "SASL_PLAINTEXT", **USER}
TOKENS = {"kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"}
CASSANDRA = {"cassandra_username": "u", "cassandra_password": "p"}
HOOK = "whsec_" + "A" * 32
REGISTRY = {"schema_registry_username": "u", "schema_registry_password": "p"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"broker": "k1:9092", **SASL}, "sends credentials to k1 without encryption: use SASL_SSL"),
        ({"broker": "127.0.0.1:1,k2:1", **SASL}, "to k2 without"),
        (
            {"cassandra": "db", **CASSANDRA},
            "to db without encryption: set FRAUDSTREAM_CASSANDRA_TLS",
        ),
        ({"schema_registry": "http://r:8081", **REGISTRY}, "use https"),
        ({**TOKENS, **USER, "kafka_token_provider": "http://id/token"}, "use https"),
        (
            {"schema_registry": "http://u:Zq8@r:8081"},
            "set FRAUDSTREAM_SCHEMA_REGISTRY_USERNAME and _PASSWORD",
        ),
        ({"schema_registry": "https://Zq8@r:8081"}, "must not contain a user or password"),
        (
            {**TOKENS, **USER, "kafka_token_provider": "https://u:Zq8@id/token"},
            "must not contain a user",
        ),
        (
            {"notify_routes": "ops=high:http://hook.example/Zq8", "notify_secret": HOOK},
            "route ops of FRAUDSTREAM_NOTIFY_ROUTES sends its secrets to hook.example without",
        ),
        (
            {"web_oidc_issuer": "http://id.example"},
            "FRAUDSTREAM_WEB_OIDC_ISSUER sends credentials to id.example",
        ),
        (TOKENS, "needs FRAUDSTREAM_KAFKA_TOKEN_PROVIDER"),
        ({**TOKENS, "kafka_token_provider": "https://id/token"}, "id and secret"),
        ({"kafka_key_file": "k.pem"}, "needs FRAUDSTREAM_KAFKA_CERT_FILE"),
        ({"cassandra_key_file": "k.pem"}, "needs FRAUDSTREAM_CASSANDRA_CERT_FILE"),
        ({"cassandra_password": "p"}, "needs FRAUDSTREAM_CASSANDRA_USERNAME"),
    ],
)
def test_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(values)
    line = str(caught.value)
    assert says in line
    assert "\n" not in line
    assert "Zq8" not in line


@pytest.mark.parametrize(
    "values",
    [
        {"broker": "127.0.0.1:9092,localhost:9093,[::1]:9094", **SASL},
        SASL,  # the local server
        {"broker": "k1:9092", **SASL, "allow_unencrypted_credentials": True},
        {"broker": "k1:9092", **SASL, "kafka_security": "SASL_SSL"},
        {"cassandra": "db", **CASSANDRA, "cassandra_tls": True},
        {"cassandra": "db", **CASSANDRA, "cassandra_ca_file": "ca.pem"},
        {"cassandra": "127.0.0.2", **CASSANDRA},
        {"schema_registry": "https://r:8081", **REGISTRY},
        {"schema_registry": "http://localhost:8081", **REGISTRY},
        {**TOKENS, "kafka_token_provider": "file:/var/run/token"},
        {
            "notify_routes": "ops=high:https://hook.example/x me=low:http://127.0.0.1:1/",
            "notify_secret": HOOK,
        },
        {
            "notify_routes": "ops=high:http://hook.example/x",
            "notify_secret": HOOK,
            "allow_unencrypted_credentials": True,
        },
        {"schema_registry": "http://r:8081"},  # nothing is sent
    ],
)
def test_accepted(values: dict[str, Any]) -> None:
    load_settings(values)


async def test_a_broker_that_others_advertise_gets_no_login_in_the_clear() -> None:
    """The address in the settings is this machine; the brokers say that they are elsewhere."""
    elsewhere: Any = SimpleNamespace(host="k2", port=1, _security_protocol="SASL_PLAINTEXT")
    for allowed in (False, True):
        security(load_settings({**SASL, "allow_unencrypted_credentials": allowed}))
        with pytest.raises((ConnectionError, AttributeError)) as caught:
            await kafka_connections.connect_and_remember(elsewhere)
        assert ("sends credentials to k2 without" in str(caught.value)) is not allowed
    security(load_settings(SASL))


async def test_a_node_that_others_name_gets_no_password_in_the_clear() -> None:
    logins = Logins(load_settings({"cassandra": "127.0.0.1", **CASSANDRA}))
    assert logins.new_authenticator("127.0.0.1")
    with pytest.raises(UnencryptedLoginError, match="sends a password to 10.0.0.2 without"):
        logins.new_authenticator("10.0.0.2")
    for more in ({"cassandra_tls": True}, {"allow_unencrypted_credentials": True}):
        assert Logins(load_settings({**CASSANDRA, **more})).new_authenticator("10.0.0.2")
    assert Logins(load_settings()).new_authenticator("10.0.0.2"), "there is no password"
    with pytest.raises(LinkError, match="sends a password to 10.0.0.2 without"):
        await open_link(
            "10.0.0.2", 1, LinkOptions("u", "p", None, "", 1), lambda tag, failure: None
        )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("mailto://u:Zq8@mail.example?smtp=smtp.example&to=a@b.example", "smtp.example"),
        ("mailtos://u:Zq8@mail.example?to=a@b.example", None),
        ("mailto://u:Zq8@gmail.com", None),  # by STARTTLS
        ("json://u:Zq8@hook.example/", "hook.example"), ("jsons://hook.example/", None),
        ("json://127.0.0.1:1/", None), ("slack://TAAAAAAAA/BAAAAAAAA/AAAAAAAAAAAAAAAAAAAAAAAA", None),
    ],
    ids=["mail", "mails", "gmail", "json", "jsons", "loopback", "slack"],
)  # fmt: skip
def test_notifications_go_over_tls(url: str, host: str | None) -> None:
    if host is None:
        People(Route("ops", "high", url))
        return
    with pytest.raises(SettingsError, match=f"sends its secrets to {host} without") as caught:
        People(Route("ops", "high", url))
    assert "Zq8" not in str(caught.value)
    People(Route("ops", "high", url), unencrypted=True)


def test_headers_of_a_collector_go_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"trace_endpoint": "http://collector.example:4318/v1/traces"})
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Zq8")
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_HEADERS to collector.example"):
        Spans(settings)


@pytest.mark.parametrize(
    ("host", "ours"),
    [("localhost", True), ("LOCALHOST.", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True),
     ("localhost.evil.example", False), ("10.0.0.1", False), ("0.0.0.0", False), ("", False)],
)  # fmt: skip
def test_loopback_is_known_by_its_name(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours
