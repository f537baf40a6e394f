"""Addresses as people write them."""

from functools import lru_cache
from ipaddress import ip_address

#: Ports of addresses that name none, as the clients have them.
KAFKA_PORT, CASSANDRA_PORT = 9092, 9042


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """(host, port) of `host`, `host:port` or `[ipv6]:port`.

    Raises:
        ValueError: there is no host, or the port is not a number from 1 to 65535.
    """
    text = text.strip()
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, str(default_port)  # a name, or an IPv6 address without a port
    host = host.removeprefix("[").removesuffix("]")
    known = port.isdecimal() and 0 < int(port) < 65_536
    if not host or not {" ", ","}.isdisjoint(host) or not known:
        msg = f"{text!r} is not host:port, such as 127.0.0.1:{default_port}"
        raise ValueError(msg)
    return host, int(port)


def parse_addresses(text: str, default_port: int) -> list[tuple[str, int]]:
    """As `parse_address`, of one or more with commas between.

    Raises:
        ValueError: one is none, or there are none.
    """
    parts = [part for part in text.split(",") if part.strip()]
    return [parse_address(part, default_port) for part in parts or [text]]


@lru_cache(1_024)  # asked with every request to the pages
def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name alone; a name that would have to be looked up is not."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
