"""What a deployment is refused that would send credentials in the clear, or has only half of them."""

from typing import Any

import pytest

from app.address_syntax import is_loopback
from app.errors import SettingsError
from app.settings import load_settings

pytestmark = pytest.mark.usefixtures("no_settings")
USER = {"kafka_username": "u", "kafka_password": "p"}
SASL = {"kafka_security": "SASL_PLAINTEXT", **USER}
TOKENS = {"kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"}
CASSANDRA = {"cassandra_username": "u", "cassandra_password": "p"}
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
    ],
)
def test_accepted(values: dict[str, Any]) -> None:
    load_settings(values)


@pytest.mark.parametrize(
    ("host", "ours"),
    [("localhost", True), ("LOCALHOST.", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True),
     ("localhost.evil.example", False), ("10.0.0.1", False), ("0.0.0.0", False), ("", False)],
)  # fmt: skip
def test_loopback_is_known_by_its_name(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours
