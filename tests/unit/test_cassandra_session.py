"""What a person reads when Cassandra cannot be reached; no server needed."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from cassandra import (
    AuthenticationFailed,
    InvalidRequest,
    OperationTimedOut,
    Unauthorized,
    Unavailable,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import DefaultEndPoint
from cassandra.metadata import Metadata, Murmur3Token
from cassandra.policies import HostDistance, SimpleConvictionPolicy
from cassandra.pool import Host

from app.cassandra.cql_nodes import ReplicaMap
from app.cassandra.label_rows import LABELS, pack_labels
from app.cassandra.packed_rows import PackedTable
from app.cassandra.prediction_rows import PREDICTIONS, RowPacker
from app.cassandra.session import connect, explained, shared_session
from app.errors import (
    FraudstreamError,
    NotAnsweringError,
    SchemaError,
    SettingsError,
    UnavailableError,
)
from app.settings import Settings
from app.wire.label_records import LabelRecord
from tests.builders import T0
from tests.prediction_builder import prediction_bytes


def made(tmp_path: Path, **fields: Any) -> Settings:
    return Settings(_env_file=None, home=tmp_path, **fields)  # type: ignore[call-arg]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_nobody_listens(tmp_path: Path, closed_port: int) -> None:
    settings = made(tmp_path, cassandra=f"127.0.0.1:{closed_port}")
    expected = f"no Cassandra at 127.0.0.1:{closed_port}: run `fraudstream up`, or set"
    for use in (connect, shared_session):
        with pytest.raises(UnavailableError, match=expected):
            use(settings)


def test_who_asks_while_another_connects_gets_what_that_attempt_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = made(tmp_path, cassandra="127.0.0.1:1")
    begun, go_on = threading.Event(), threading.Event()
    made_here: list[Any] = []
    outcome: list[Any] = [NotAnsweringError("first")]

    def slow(_settings: Settings) -> Any:
        made_here.append(outcome[0])
        begun.set()
        assert go_on.wait(60)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    monkeypatch.setattr("app.cassandra.session.connect", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared_session, settings)
        assert begun.wait(60)
        second = pool.submit(shared_session, settings)
        with pytest.raises(TimeoutError):
            second.result(0.1)
        go_on.set()
        assert second.exception() is first.exception() is outcome[0]
    outcome[0] = SimpleNamespace(is_shutdown=False)
    assert shared_session(settings) is shared_session(settings) is outcome[0]
    outcome[0].is_shutdown = True
    closed, outcome[0] = outcome[0], SimpleNamespace(is_shutdown=False)
    assert shared_session(settings) is outcome[0] is not closed
    assert len(made_here) == 3


def test_a_server_that_accepts_and_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NotAnsweringError, match=f"no Cassandra at 127.0.0.1:{port}"):
            connect(made(tmp_path, cassandra=f"127.0.0.1:{port}"), timeout_seconds=0.2)


@pytest.mark.parametrize(
    ("abruptly", "tls", "text"),
    [
        (True, False, "no Cassandra at"),
        (False, False, "does not answer without TLS"),
        (True, True, "closes the connection: if it requires a client certificate"),
        (False, True, "closes the connection: if it requires a client certificate"),
    ],
)
def test_a_server_that_closes_connections_may_be_restarting(
    tmp_path: Path, abruptly: bool, tls: bool, text: str
) -> None:
    """Whoever can wait does: workers stopped when Cassandra was killed while they connected."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closing = threading.Thread(
            target=_close_all, args=(listening, context if tls else None, abruptly), daemon=True
        )
        closing.start()
        settings = made(
            tmp_path,
            cassandra=f"127.0.0.1:{listening.getsockname()[1]}",
            cassandra_ca_file=tmp_path / "ca.pem" if tls else None,
        )
        with pytest.raises(NotAnsweringError, match=text):
            connect(settings, timeout_seconds=5)


def _close_all(listening: socket.socket, context: ssl.SSLContext | None, abruptly: bool) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with suppress(OSError):
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            connection.recv(16)
            if abruptly:  # as the kernel does it for a process that was killed: RST
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()


def test_no_server_is_known(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no Cassandra: run `fraudstream up`"):
        connect(made(tmp_path))


def test_a_file_that_is_no_authority(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    settings = made(tmp_path, cassandra="127.0.0.1:1", cassandra_ca_file=file)
    with pytest.raises(SettingsError, match="FRAUDSTREAM_CASSANDRA_CA_FILE=.* cannot be used"):
        connect(settings)


_TLS = ssl.SSLError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")


@pytest.mark.parametrize(
    ("cause", "user", "kind", "text"),
    [
        (AuthenticationFailed("Remote end requires authentication"), None, UnavailableError,
         "requires a user: set FRAUDSTREAM_CASSANDRA_USERNAME"),
        (AuthenticationFailed("Bad credentials"), "ann", UnavailableError, "refuses user 'ann'"),
        (_TLS, None, UnavailableError, "no TLS with Cassandra at h:1"),
        (ConnectionRefusedError(111, "refused"), None, NotAnsweringError, "no Cassandra at h:1: run"),
        (OSError("Invalid or unsupported protocol version (5)"), None, UnavailableError, "too old"),
    ],
)  # fmt: skip
def test_one_line_says_why(
    tmp_path: Path, cause: Exception, user: str | None, kind: type[FraudstreamError], text: str
) -> None:
    settings = made(
        tmp_path, cassandra="h:1", cassandra_username=user, allow_unencrypted_credentials=True
    )
    with pytest.raises(kind, match=text) as caught, explained(settings):
        raise NoHostAvailable("none", {"h:1": cause})
    assert "\n" not in str(caught.value)
    assert type(caught.value) is kind  # a worker waits for what is away, and for nothing else


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (OperationTimedOut(), NotAnsweringError, "no Cassandra at h:1"),
        (Unavailable("Cannot achieve consistency level QUORUM", 4, 2, 1), NotAnsweringError,
         "too few Cassandra replicas"),
        (Unauthorized("User ann has no SELECT permission"), UnavailableError, "grant it to"),
        (InvalidRequest("unconfigured table predictions"), SchemaError, "run `fraudstream migrate`"),
        (InvalidRequest("Keyspace 'x' does not exist"), SchemaError, "run `fraudstream migrate`"),
        (InvalidRequest("anything else"), InvalidRequest, "anything else"),
    ],
)  # fmt: skip
def test_failures_of_requests(
    tmp_path: Path, error: Exception, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text), explained(made(tmp_path, cassandra="h:1")):
        raise error


# ------------------------------------------------------------- replicas of rows


def cluster_of(nodes: int, replicas: int, vnodes: int = 8) -> Any:
    """What the writer asks of a session, with the driver's own token map and hosts."""
    hosts = []
    for number in range(nodes):
        host = Host(DefaultEndPoint(f"10.0.0.{number}", 9042), SimpleConvictionPolicy)
        host.set_location_info("dc1", "r1")
        hosts.append(host)
    metadata = Metadata()
    for host in hosts:
        metadata.add_or_return_host(host)
    step = 2**64 // (nodes * vnodes)
    tokens = {
        host: [str(-(2**63) + (number + nodes * v) * step + 17) for v in range(vnodes)]
        for number, host in enumerate(hosts)
    }
    strategy = {"class": "SimpleStrategy", "replication_factor": str(replicas)}
    from cassandra.metadata import KeyspaceMetadata

    metadata.keyspaces["ks"] = KeyspaceMetadata("ks", True, "SimpleStrategy", strategy)
    metadata.rebuild_token_map("org.apache.cassandra.dht.Murmur3Partitioner", tokens)
    policy = SimpleNamespace(distance=lambda host: HostDistance.LOCAL)
    return SimpleNamespace(
        cluster=SimpleNamespace(metadata=metadata),
        get_execution_profile=lambda name: SimpleNamespace(load_balancing_policy=policy),
    )


def packed_predictions() -> list[bytes]:
    packer = RowPacker("EUR", 2)
    return [packer.pack(prediction_bytes(n, card=f"card-{n}"))[0] for n in range(500)]


def packed_labels() -> list[bytes]:
    labels = [LabelRecord(n, T0, f"tx-{n}", True, T0, "c", "t", T0, b"") for n in range(500)]
    return list(pack_labels("labels", 0, labels))


@pytest.mark.parametrize(("nodes", "replicas"), [(2, 1), (3, 1), (5, 3), (6, 2)])
@pytest.mark.parametrize(
    ("table", "packed"), [(PREDICTIONS, packed_predictions), (LABELS, packed_labels)]
)
def test_rows_are_grouped_by_the_replicas_that_the_driver_names(
    nodes: int, replicas: int, table: PackedTable, packed: Callable[[], list[bytes]]
) -> None:
    session = cluster_of(nodes, replicas)
    replica_map = ReplicaMap(session, "ks", table.routing_key)
    rows = packed()
    seen = 0
    for number, members in replica_map.split(rows):
        for row in members:
            seen += 1
            hosts = session.cluster.metadata.get_replicas("ks", table.routing_key(row))
            named = tuple(sorted((h.endpoint.address, h.endpoint.port) for h in hosts))
            assert replica_map.groups[number] == named
    assert seen == len(rows)


@pytest.mark.parametrize(("nodes", "replicas"), [(1, 1), (3, 3)])
def test_where_all_nodes_hold_all_rows_there_is_one_group(nodes: int, replicas: int) -> None:
    replica_map = ReplicaMap(cluster_of(nodes, replicas), "ks", PREDICTIONS.routing_key)
    assert len(replica_map.groups) == 1
    assert len(replica_map.groups[0]) == nodes
    assert replica_map.split([b"a", b"b"]) == [(0, [b"a", b"b"])]


def test_the_map_notices_a_changed_cluster() -> None:
    session = cluster_of(1, 1)
    replica_map = ReplicaMap(session, "ks", PREDICTIONS.routing_key)
    assert not replica_map.refresh()
    session.cluster.metadata = cluster_of(3, 1).cluster.metadata
    assert replica_map.refresh()
    assert len(replica_map.nodes) == 3


def test_tokens_are_those_of_the_server() -> None:
    assert Murmur3Token.hash_fn(b"123") == -7468325962851647638
