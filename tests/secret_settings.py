"""A value for each secret setting, unlike anything else that is written: so that a search finds where it was written.

A new secret setting must be added here (`tests/unit/test_secret_settings.py`), and then it takes part in the search of
`tests/integration/test_grants.py`.
"""

import base64

from app.settings import Settings

#: In every value.
HIDDEN = "Zq8-hidden"
PASSWORD = f"{HIDDEN}-kafka-password"
CASSANDRA_PASSWORD = f"{HIDDEN}-cassandra-password"
#: Of a user of the web pages.
WEB_PASSWORD = f"{HIDDEN}-password-of-ann"
#: What OpenTelemetry's exporter sends; the SDK reads this variable itself.
OTLP_HEADERS = {"OTEL_EXPORTER_OTLP_HEADERS": f"x-key={HIDDEN}-header-of-traces"}
#: A route's URL is a secret, too: its path here, its password there. The port is that of the receiver.
ROUTES = f"hook=low:http://127.0.0.1:{{port}}/{HIDDEN}-path tool=low:json://u:{HIDDEN}-route@127.0.0.1:{{port}}/x"
#: By setting.
SECRETS = {
    "kafka_password": PASSWORD,
    "kafka_key_password": f"{HIDDEN}-password-of-kafka-key",
    "cassandra_password": CASSANDRA_PASSWORD,
    "cassandra_key_password": f"{HIDDEN}-password-of-cassandra-key",
    "schema_registry_password": f"{HIDDEN}-registry-password",
    "web_secret": f"{HIDDEN}-web-secret-of-all-workers",
    "web_token": f"{HIDDEN}-token-of-commands",
    "web_oidc_client_secret": f"{HIDDEN}-secret-of-the-pages",
    "score_token": f"{HIDDEN}-token-of-score",
    "card_id_keys": f"1:{HIDDEN}-key-of-the-pseudonyms-of-cards",
    "privacy_key": f"{HIDDEN}-key-of-hashes-of-fields-000",
    "notify_routes": ROUTES.format(port=9),
    "notify_secret": "whsec_" + base64.b64encode(f"{HIDDEN}-key-of-webhooks".encode()).decode(),
}
_MARK = HIDDEN.encode()


def secret_fields() -> set[str]:
    """Names of the settings that are declared to be secrets."""
    return {
        name
        for name, field in Settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }


def _spellings() -> dict[bytes, str]:
    """How the mark may be written: base64 of a text has one of three forms, by where in it the mark begins."""
    found = {_MARK: "as it is", _MARK.hex().encode(): "in hexadecimal digits"}
    for before in range(3):
        text = base64.b64encode(b"-" * before + _MARK)
        # digits that depend on what precedes or follows are left out
        found[text[(before * 8 + 5) // 6 : (before + len(_MARK)) * 8 // 6]] = "in base64"
    return found


_SPELLINGS = _spellings()


def secrets_in(written: bytes | str) -> str | None:
    """Where a text has a secret, with what surrounds it; None: nowhere."""
    raw = written.encode(errors="surrogateescape") if isinstance(written, str) else written
    for spelling, how in _SPELLINGS.items():
        at = raw.find(spelling)
        if at >= 0:
            around = raw[max(0, at - 300) : at + 60].decode(errors="backslashreplace")
            return f"{how}: {around}"
    return None
