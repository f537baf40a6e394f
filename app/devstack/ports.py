"""Ports: which are free, and who holds one that is not."""

import errno
import socket
from collections.abc import Collection
from random import SystemRandom

import psutil

from app.errors import UnavailableError

#: Servers listen on this machine's loopback only.
HOST = "127.0.0.1"
#: Free ports are looked for here: below the range from which Linux takes ports for outgoing
#: connections (32768 up), where a port that was free a second ago may be in use the next.
_SEARCH = range(20_000, 32_000)


def is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen on a port now. What is in use in other networks is not known here."""
    with socket.socket() as probe:
        # As servers do: a port whose old connections linger in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
    return True


def free_run(count: int, avoid: Collection[int] = (), hosts: Collection[str] = (HOST,)) -> int:
    """The first of `count` free ports in a row, at random.

    Raises:
        UnavailableError: nothing was found in a thousand tries.
    """
    random = SystemRandom()
    for _ in range(1_000):
        first = random.choice(_SEARCH)
        run = range(first, first + count)
        if not set(run) & set(avoid) and all(is_free(port, host) for port in run for host in hosts):
            return first
    msg = f"found no {count} free ports in a row from {_SEARCH.start} to {_SEARCH.stop}"
    raise UnavailableError(msg)


def require_free(ports: range, title: str, server: str, host: str = HOST) -> None:
    """Check that a server can listen on all its ports.

    Raises:
        UnavailableError: one is taken; the text names it, its holder if known, and the way out.
    """
    for port in ports:
        if not is_free(port, host):
            raise UnavailableError(taken(port, title, server))


def taken(port: int, title: str, server: str) -> str:
    """One line about a port that a server needs and somebody else has."""
    return (
        f"{title} cannot use port {port}: it is in use by {holder(port) or 'another process'}; "
        f"stop that, or choose other ports: `fraudstream up --free-ports` or --{server}-port PORT"
    )


def holder(port: int) -> str | None:
    """Who listens on a port, such as `pid 123 (postgres)`, or None when the kernel won't say."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:  # macOS tells only root about others' sockets
        return None
    for connection in connections:
        listening = connection.status == psutil.CONN_LISTEN
        if listening and connection.laddr.port == port and connection.pid:
            return f"pid {connection.pid} ({_name(connection.pid)})"
    return None


def listens(process: psutil.Process, port: int) -> bool:
    """Whether this process, and no other, is the one that listens on a port."""
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _name(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        marks = [arg for arg in process.cmdline() if arg.startswith("-Dfraudstream.")]
        if marks:  # a server of another home: say whose
            facts = dict(mark.removeprefix("-Dfraudstream.").split("=", 1) for mark in marks)
            return f"the {facts.get('server')} of {facts.get('home')}"
        return str(process.name())
    except psutil.Error:
        return "ended"
