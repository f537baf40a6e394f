"""Free and taken ports, and questions to servers."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.devstack import recorded_addresses
from app.devstack.ports import free_run, holder, is_free, require_free
from app.devstack.server_probe import cassandra_answers, kafka_answers
from app.devstack.stack import Stack
from app.errors import UnavailableError

API_VERSIONS = b"\0\0\0\x0a\0\0\0\7\0\0\0\0\0\0"
SUPPORTED = b"\x84\0\0\0\6\0\0\0\0"


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind((host, 0))
        server.listen()
        yield server


@contextmanager
def answering(*parts: bytes) -> Iterator[int]:
    """A server that reads a request and says this, part by part."""

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            for part in parts:
                connection.sendall(part)

    with listening() as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_a_run_of_free_ports() -> None:
    first = free_run(3)
    assert all(is_free(port) for port in range(first, first + 3))
    assert first < 32_768  # the kernel gives those above to outgoing connections


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_names_its_holder_and_the_way_out(host: str) -> None:
    with listening(host) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        assert str(os.getpid()) in (holder(port) or "")
        with pytest.raises(UnavailableError) as caught:
            require_free(range(port, port + 1), "Kafka", "kafka")
    said = str(caught.value)
    assert f"Kafka cannot use port {port}: it is in use by pid {os.getpid()}" in said
    assert "--free-ports" in said
    assert "--kafka-port PORT" in said
    require_free(range(port, port + 1), "Kafka", "kafka")


def test_probes_ask_in_the_servers_protocol() -> None:
    with answering(API_VERSIONS) as port:
        assert kafka_answers("127.0.0.1", port)
    with answering(API_VERSIONS[:5], API_VERSIONS[5:]) as port:
        assert kafka_answers("127.0.0.1", port)
    with answering(SUPPORTED) as port:
        assert cassandra_answers("127.0.0.1", port)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_strangers_on_the_port_are_no_servers(answer: bytes) -> None:
    with answering(answer) as port:
        assert not kafka_answers("127.0.0.1", port)
    with answering(answer) as port:
        assert not cassandra_answers("127.0.0.1", port)
    assert not kafka_answers("127.0.0.1", free_run(1))


def test_ports_stay_with_the_data_of_a_home(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    names = ["kafka", "cassandra"]
    assert stack._choose_ports(names, False, {}) == {"kafka": 19092, "cassandra": 19042}
    chosen = stack._choose_ports(names, True, {})
    for name, port in chosen.items():
        recorded_addresses.record(tmp_path, name, port, 1, tmp_path / "log")
    recorded_addresses.forget(tmp_path, names)  # `down`
    assert stack._choose_ports(names, False, {}) == chosen
    assert stack._choose_ports(names, True, {}) == chosen
    assert stack._choose_ports(names, False, {"kafka": 1234})["kafka"] == 1234
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", chosen["kafka"]))
        taken.listen()
        assert stack._choose_ports(names, False, {}) == chosen  # refused, with who has it
        other = stack._choose_ports(names, True, {})
        assert other["kafka"] != chosen["kafka"]
        assert other["cassandra"] == chosen["cassandra"]
    stack.wipe()
    assert stack._choose_ports(names, False, {}) == {"kafka": 19092, "cassandra": 19042}
