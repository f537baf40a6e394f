"""Addresses as people write them."""

#: Port of a Cassandra contact point that names none.
CASSANDRA_PORT = 9042


def parse_address(text: str, default_port: int | None = None) -> tuple[str, int]:
    """(host, port) of `host:port` or `[ipv6]:port`; with a default also of `host` alone.

    Raises:
        ValueError: there is no host, or the port is not a number from 1 to 65535.
    """
    text = text.strip()
    host, separator, port = text.rpartition(":")
    bare = not separator or text.endswith("]") or (":" in host and not host.startswith("["))
    if bare and default_port is not None:  # a name, or an IPv6 address without a port
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if (
        not host
        or not {" ", ","}.isdisjoint(host)
        or not port.isdecimal()
        or not 0 < int(port) < 65_536
    ):
        msg = f"{text!r} is not host:port, such as 127.0.0.1:{default_port or 9092}"
        raise ValueError(msg)
    return host, int(port)
