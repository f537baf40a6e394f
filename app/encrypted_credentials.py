"""One rule: credentials leave this machine over TLS only, unless FRAUDSTREAM_ALLOW_UNENCRYPTED_CREDENTIALS allows it.

What settings say is checked when they are read (`Sending`s below). What only shows later asks `others_can_read` with
the address: brokers that Kafka advertises, nodes that Cassandra names, receivers of notifications, whoever sends a
token to a worker.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.address_syntax import is_loopback, parse_addresses
from app.notify_routes import parse_routes

_ALLOWING = "or allow it with FRAUDSTREAM_ALLOW_UNENCRYPTED_CREDENTIALS=true"
#: Settings whose value is a URL, and those that are sent there.
_URLS = {
    "schema_registry": ("schema_registry_username",),
    "kafka_token_provider": ("kafka_password",),
    "web_oidc_issuer": ("web_oidc_issuer",),  # a login there always sends a code
}


class Sending(NamedTuple):
    """Credentials that settings send somewhere without encryption.

    Attributes:
        who: the setting, or the server, as messages name it.
        what: is sent.
        host: where to; empty: it is not known yet.
        remedy: how to encrypt it.
    """

    who: str
    what: str
    host: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.who} sends {self.what} to {self.host} without encryption: {self.remedy}, {_ALLOWING}"


def others_can_read(host: str, *, allowed: bool) -> bool:
    """Whether credentials must not be sent to a host without encryption.

    Args:
        host: a name or an address.
        allowed: FRAUDSTREAM_ALLOW_UNENCRYPTED_CREDENTIALS.
    """
    return not allowed and not is_loopback(host)


def refuse_unencrypted(settings: Any) -> None:
    """Refuse settings that send credentials without encryption, or that show them in a URL.

    Raises:
        ValueError: they do; the text names the setting, and no credentials.
    """
    for name in _URLS:
        parts = urlsplit(getattr(settings, name) or "")
        if parts.username is not None or parts.password is not None:
            # URLs are shown by `fraudstream config` and named in messages
            msg = f"FRAUDSTREAM_{name.upper()} must not contain a user or password: {_instead_of_user_info(name)}"
            raise ValueError(msg)
    for sending in _sendings(settings):
        if others_can_read(sending.host, allowed=settings.allow_unencrypted_credentials):
            raise ValueError(str(sending))


def to_kafka(host: str) -> Sending:
    """A login at a broker without TLS."""
    who = "FRAUDSTREAM_KAFKA_SECURITY=SASL_PLAINTEXT"
    return Sending(who, "credentials", host, "use SASL_SSL")


def to_cassandra(host: str) -> Sending:
    """A login at a node without TLS."""
    remedy = "set FRAUDSTREAM_CASSANDRA_TLS=true"
    return Sending("FRAUDSTREAM_CASSANDRA_USERNAME", "a password", host, remedy)


def to_receiver(route: str, host: str) -> Sending:
    """A notification without TLS: the URL of a route is a secret."""
    who = f"route {route} of FRAUDSTREAM_NOTIFY_ROUTES"
    return Sending(who, "its secrets", host, "use https, or mailtos for e-mail")


def _sendings(settings: Any) -> Iterator[Sending]:
    if settings.kafka_security == "SASL_PLAINTEXT":
        yield from (to_kafka(host) for host in _hosts(settings.broker))
    if settings.cassandra_username and not settings.uses_cassandra_tls:
        yield from (to_cassandra(host) for host in _hosts(settings.cassandra))
    for name, secrets in _URLS.items():
        url = urlsplit(getattr(settings, name) or "")
        if url.scheme == "http" and any(getattr(settings, secret) for secret in secrets):
            yield Sending(
                f"FRAUDSTREAM_{name.upper()}", "credentials", url.hostname or "", "use https"
            )
    routes = settings.notify_routes
    for route in parse_routes(routes.get_secret_value()) if routes else ():
        if route.url.lower().startswith("http://"):
            yield to_receiver(route.name, urlsplit(route.url).hostname or "")


def _hosts(addresses: str | None) -> list[str]:
    """The hosts of addresses; None is the local server."""
    return [host for host, _ in parse_addresses(addresses, 1)] if addresses else []


def _instead_of_user_info(name: str) -> str:
    settings = {
        "schema_registry": "set FRAUDSTREAM_SCHEMA_REGISTRY_USERNAME and _PASSWORD",
        "kafka_token_provider": "set FRAUDSTREAM_KAFKA_USERNAME and _PASSWORD",
    }
    return settings.get(name, "remove them")
