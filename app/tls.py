"""TLS to a server: the client's context, and what a failed handshake means to a person."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.errors import SettingsError
from app.settings import Settings

# OpenSSL's numbers of what is wrong with a certificate: openssl/x509_vfy.h
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNTRUSTED = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME = frozenset({62, 64})
#: Endings of what OpenSSL calls an alert: the server refuses us, and why.
_NO_CERTIFICATE = ("CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE")
_REFUSED = ("CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN", "BAD_CERTIFICATE", "UNKNOWN_CA")
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")


class ClosedError(OSError):
    """The server closed the connection after the handshake.

    With TLS 1.3 this is how a server refuses a client's certificate; but one that is being stopped does so, too.
    """


def client_context(settings: Settings, server: str) -> ssl.SSLContext:
    """A context that checks the server's certificate and name, and shows ours where there is one.

    Args:
        settings: the deployment's.
        server: `kafka` or `cassandra`: whose settings.

    Raises:
        SettingsError: a file cannot be used; the text names its setting.
    """

    def value(name: str) -> Any:
        return getattr(settings, f"{server}_{name}")

    prefix = f"FRAUDSTREAM_{server.upper()}"
    authority, certificate = value("ca_file"), value("cert_file")
    # the system's authorities, where none is named
    context = ssl.create_default_context()
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load(f"{prefix}_CA_FILE", authority, context.load_verify_locations, str(authority))
    if certificate is not None:
        secret = value("key_password")
        password = secret.get_secret_value() if secret else ""
        # a function: OpenSSL would ask on the terminal, and a worker has none
        _load(
            f"{prefix}_CERT_FILE",
            certificate,
            context.load_cert_chain,
            certificate,
            value("key_file"),
            lambda: password,
        )
    return context


def _load(setting: str, file: Path, load: Any, *arguments: Any) -> None:
    try:
        load(*arguments)
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        what = error.reason if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
        hint = ""
        if setting.endswith("CERT_FILE"):
            key = setting.replace("CERT_FILE", "KEY_FILE")
            hint = f"; check {key} and {key.replace('FILE', 'PASSWORD')} as well"
        msg = f"{setting}={file} cannot be used: {what or error}{hint}"
        raise SettingsError(msg) from error


def meaning(
    error: BaseException, what: str, server: str, host: str, *, certificate: bool
) -> str | None:
    """One line for a handshake that failed: what happened and what to do; None for an error of another kind.

    Args:
        error: what the connection raised.
        what: the server with its address, such as `Kafka at h:9093`.
        server: `kafka` or `cassandra`: whose settings.
        host: the name that was asked for.
        certificate: whether we have shown a certificate.
    """
    for one in _chain(error):
        if isinstance(one, ClosedError):
            return f"{what} {_closed(f'FRAUDSTREAM_{server.upper()}', certificate=certificate)}"
        if isinstance(one, ssl.SSLError):
            address = "FRAUDSTREAM_BROKER" if server == "kafka" else "FRAUDSTREAM_CASSANDRA"
            prefix = f"FRAUDSTREAM_{server.upper()}"
            if isinstance(one, ssl.SSLCertVerificationError):
                return f"the certificate of {what} {_fault(one, prefix, address, host)}"
            return f"{what} {_alert(one.reason or str(one), prefix, address, shown=certificate)}"
    return None


def _closed(prefix: str, *, certificate: bool) -> str:
    if not certificate:
        files = f"{prefix}_CERT_FILE and {prefix}_KEY_FILE"
        return f"closes the connection: if it requires a client certificate, set {files}"
    return (
        f"refuses our certificate, it seems, and closes the connection: check that {prefix}_CERT_FILE has not expired "
        "and is signed by an authority that the server trusts"
    )


def _fault(error: ssl.SSLCertVerificationError, prefix: str, address: str, host: str) -> str:
    code = error.verify_code
    name = f"is not for the name {host}: write a name of the certificate in {address}, and let the server advertise one"
    if prefix == "FRAUDSTREAM_CASSANDRA":
        name = (
            f"is not for the address {host}: nodes are checked by the address that they announce "
            "(broadcast_rpc_address), so let the certificate contain it"
        )
    texts = {
        _EXPIRED: "has expired: renew it on the server",
        _NOT_YET_VALID: "is not valid yet: check the clocks",
        **dict.fromkeys(_OTHER_NAME, name),
        **dict.fromkeys(
            _UNTRUSTED,
            f"is signed by an authority that is not trusted here: name its certificate in {prefix}_CA_FILE",
        ),
    }
    return texts.get(code) or f"is refused: {error.verify_message}"


def _alert(reason: str, prefix: str, address: str, *, shown: bool) -> str:
    words = reason.lower().replace("_", " ")
    # Kafka's way of saying that there is none is the alert for a bad one
    if reason.endswith(_NO_CERTIFICATE) or (not shown and reason.endswith(_REFUSED)):
        return f"requires a client certificate: set {prefix}_CERT_FILE and {prefix}_KEY_FILE"
    # Cassandra's way of refusing one
    if reason.endswith(_REFUSED) or (shown and reason.endswith("INTERNAL_ERROR")):
        return (
            f"refuses our certificate ({words}): check that {prefix}_CERT_FILE has not expired and is signed by an "
            "authority that the server trusts"
        )
    if reason.endswith(_NO_TLS):
        return f"does not speak TLS at this port ({words}): check {address}"
    return f"breaks off TLS ({words}): check {prefix}_CA_FILE and {address}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def first_bytes(
    host: str, port: int, context: ssl.SSLContext | None, request: bytes, seconds: float
) -> bytes:
    """What a server answers to a request first; empty: it closed the connection. Blocks.

    A server refuses a client's certificate after the handshake (TLS 1.3): only who reads hears of it.

    Raises:
        OSError: no connection, or an `ssl.SSLError`.
    """
    with ExitStack() as opened:
        connection = opened.enter_context(socket.create_connection((host, port), seconds))
        if context is not None:
            connection = opened.enter_context(context.wrap_socket(connection, server_hostname=host))
        try:
            connection.sendall(request)
            answer = connection.recv(16)
        except (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError) as error:
            if context is None:  # no certificate is the reason: the server is being stopped
                raise
            raise ClosedError from error
        if context is not None and not answer:
            raise ClosedError
        return answer
