"""How we prove to Cassandra who we are, and why a connection is refused, in one line."""

import socket
import ssl
import struct
from typing import Any

from cassandra import AuthenticationFailed, UnresolvableContactPoints
from cassandra.auth import Authenticator, AuthProvider

from app.cassandra.cql_wire import CERTIFICATE_LOGIN, PASSWORD_LOGINS
from app.encrypted_credentials import others_can_read, to_cassandra
from app.errors import NotAnsweringError, UnavailableError
from app.settings import Settings
from app.tls import ClosedError, client_context, first_bytes, meaning

#: OPTIONS of the native protocol, version 4: any node answers it before a login.
_OPTIONS = struct.pack(">BBhBi", 4, 0, 0, 5, 0)
_LOOK_SECONDS = 5.0


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of the Cassandra settings, None without TLS.

    Raises:
        SettingsError: a file cannot be used.
    """
    return client_context(settings, "cassandra") if settings.uses_cassandra_tls else None


def password(settings: Settings) -> str:
    """The password in clear, empty when none is set."""
    secret = settings.cassandra_password
    return secret.get_secret_value() if secret else ""


class UnencryptedLoginError(AuthenticationFailed):  # type: ignore[misc,unused-ignore]
    """No password was sent, because others could have read it; the text says what to do."""


class _Login(Authenticator):  # type: ignore[misc,unused-ignore]
    """Answers authenticators that it knows: the driver's own sends the password to whatever asks."""

    def __init__(self, user: str, secret: str) -> None:
        self._user, self._secret = user, secret

    def initial_response(self) -> bytes:
        asked = str(self.server_authenticator_class)
        if asked == CERTIFICATE_LOGIN:
            return b""
        if not self._user:
            msg = "Remote end requires authentication"
            raise AuthenticationFailed(msg)
        if asked not in PASSWORD_LOGINS:
            msg = f"unknown authenticator {asked}"
            raise AuthenticationFailed(msg)
        return b"\0" + self._user.encode() + b"\0" + self._secret.encode()

    def evaluate_challenge(self, challenge: Any) -> Any:
        """A known authenticator has none."""
        msg = f"unexpected challenge of {self.server_authenticator_class}"
        raise AuthenticationFailed(msg)


class Logins(AuthProvider):  # type: ignore[misc,unused-ignore]
    """Logins of the driver's connections.

    Args:
        settings: user and password; without a user a client certificate may be one.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def new_authenticator(self, host: Any) -> _Login:
        """See the driver; `host` may be a node that others have named: it gets no password without TLS, either.

        Raises:
            UnencryptedLoginError: others could read it.
        """
        settings = self._settings
        unencrypted = settings.cassandra_username and not settings.uses_cassandra_tls
        allowed = settings.allow_unencrypted_credentials
        if unencrypted and others_can_read(str(host), allowed=allowed):
            raise UnencryptedLoginError(str(to_cassandra(str(host))))
        return _Login(settings.cassandra_username or "", password(settings))


def refusal(
    error: BaseException, settings: Settings, points: list[tuple[str, int]]
) -> UnavailableError | None:
    """The error of a connection that fails until somebody acts: what happened and what to do.

    A `NotAnsweringError` where a server that is being stopped or started would look the same: a worker that stopped
    then would not outlast a restart of Cassandra.
    """
    where = ",".join(f"{host}:{port}" for host, port in points)
    for cause in causes(error):
        text = first_line(cause)
        if isinstance(cause, UnencryptedLoginError):
            return UnavailableError(text)
        if isinstance(cause, AuthenticationFailed):
            return UnavailableError(f"Cassandra at {where} {_login(text, settings)}")
        if isinstance(cause, ssl.SSLError) or "[SSL" in text:  # the driver wraps it in an OSError
            found = _look(settings, points)
            return found or UnavailableError(
                f"no TLS with Cassandra at {where} ({text.rpartition('Last error: ')[2]}): check "
                "FRAUDSTREAM_CASSANDRA_CA_FILE, and that the server speaks TLS"
            )
        if "protocol version" in text.lower():
            return UnavailableError(
                f"Cassandra at {where} is too old: fraudstream needs 5.0 or later"
            )
    if isinstance(error, UnresolvableContactPoints):
        return UnavailableError(f"no such host: {where}; check FRAUDSTREAM_CASSANDRA")
    return _look(settings, points)


def _login(text: str, settings: Settings) -> str:
    if "unknown authenticator" in text or "unexpected challenge" in text:
        asked = text.rpartition(" ")[2].rstrip(".")
        return f"logs in by {asked}, which fraudstream does not know: no password was sent"
    if settings.cassandra_username is None:
        return (
            "requires a user: set FRAUDSTREAM_CASSANDRA_USERNAME and FRAUDSTREAM_CASSANDRA_PASSWORD"
        )
    return (
        f"refuses user {settings.cassandra_username!r}: check FRAUDSTREAM_CASSANDRA_USERNAME and "
        "FRAUDSTREAM_CASSANDRA_PASSWORD"
    )


def _look(settings: Settings, points: list[tuple[str, int]]) -> UnavailableError | None:
    """Look once more, step by step: the driver loses the reason of a connection that breaks off after its handshake.

    As the driver does it, by address: it looks names up, and compares certificates with what it finds.
    """
    context = tls_context(settings)
    found_at = [
        (host, address, port) for host, port in points for address in _looked_up(host, port)
    ]
    for name, host, port in found_at:
        what = f"Cassandra at {name}:{port}"
        try:
            answer = first_bytes(host, port, context, _OPTIONS, _LOOK_SECONDS)
        except TimeoutError:
            continue
        except OSError as error:  # an ssl.SSLError is one
            shown = settings.cassandra_cert_file is not None
            if found := meaning(error, what, "cassandra", host, certificate=shown):
                closed = isinstance(error, ClosedError)
                return NotAnsweringError(found) if closed else UnavailableError(found)
            continue
        text = f"{what} does not answer without TLS: set FRAUDSTREAM_CASSANDRA_TLS=true"
        if context is None and not answer:
            return NotAnsweringError(text)
        if context is None and answer[0] < 0x80:  # a response has its highest bit set
            return UnavailableError(text)
    return None


def _looked_up(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return [host]
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def causes(error: BaseException) -> list[BaseException]:
    """The error and those inside it: the driver keeps one a host, and chains the rest."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one in found:
            continue
        found.append(one)
        inner = getattr(one, "errors", None)
        if isinstance(inner, dict):
            waiting += [value for value in inner.values() if isinstance(value, BaseException)]
        waiting += [one.__cause__, one.__context__]
    return found


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    message = getattr(error, "message", None) or str(error)
    return str(message).strip().split("\n", 1)[0]
