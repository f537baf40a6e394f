"""Asking a server in its own protocol whether it serves: a port that listens is not yet an answer."""

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import ExitStack

#: Kafka ApiVersions request: length 10, API key 18, version 0, correlation id 7, no client id.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 7, -1)
#: Native protocol v4 OPTIONS request: version 4, no flags, stream 0, opcode 5, no body.
_OPTIONS = bytes([4, 0, 0, 0, 5, 0, 0, 0, 0])
_SUPPORTED = 6  # the opcode of the answer to OPTIONS

#: (host, port, TLS or None) -> whether the server answered.
Probe = Callable[[str, int, ssl.SSLContext | None], bool]


def kafka_answers(host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
    """Whether a Kafka broker answers ApiVersions (it does so before any login)."""
    answer = _ask(host, port, _API_VERSIONS, 10, tls)
    # Correlation id and error code 0. A broker that wants TLS, or anything else, says otherwise.
    return answer[4:10] == struct.pack(">ih", 7, 0)


def cassandra_answers(host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
    """Whether a Cassandra node answers OPTIONS (it does so before any login)."""
    return _ask(host, port, _OPTIONS, 9, tls)[4:5] == bytes([_SUPPORTED])


def _ask(host: str, port: int, request: bytes, length: int, tls: ssl.SSLContext | None) -> bytes:
    """At least `length` bytes of the answer, or fewer when none came within 2 seconds."""
    answer = b""
    try:
        with ExitStack() as opened:
            connection = opened.enter_context(socket.create_connection((host, port), 2))
            if tls:
                connection = opened.enter_context(tls.wrap_socket(connection, server_hostname=host))
            connection.sendall(request)
            while len(answer) < length and (part := connection.recv(4096)):
                answer += part
    except OSError:  # refused, unreachable, timed out; an ssl.SSLError is one, too
        pass
    return answer
