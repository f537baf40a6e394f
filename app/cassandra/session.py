"""The Cassandra session: one place that knows how to connect, and what a failure means to a person.

The driver's session serves migrations, reads and the cluster's map (hosts, tokens). Predictions and labels are
written over connections of our own (app/cassandra/cql_connection.py): the driver costs three times as much a
batch, see docs/adr/0008-own-connections-for-writes.md.
"""

import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from cassandra import (
    ConsistencyLevel,
    InvalidRequest,
    OperationTimedOut,
    ReadFailure,
    ReadTimeout,
    Unauthorized,
    Unavailable,
    WriteFailure,
    WriteTimeout,
)
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    DefaultConnection,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.connection import ConnectionException
from cassandra.policies import (
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import ErrorMessage
from cassandra.query import PreparedStatement, dict_factory, tuple_factory

from app.cassandra.credentials import Logins, causes, first_line, refusal, tls_context
from app.cassandra.lightweight_transactions import is_unknown
from app.errors import NotAnsweringError, SchemaError, SettingsError, UnavailableError
from app.server_addresses import resolve_cassandra
from app.settings import Settings

#: Execution profiles: rows as dicts; rows as tuples with patience, for whole-table reads; schema changes.
READ, SCAN, SCHEMA = EXEC_PROFILE_DEFAULT, "scan", "schema"
#: Without it each request waits 40 ms: Nagle's algorithm against delayed acknowledgement.
SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
#: v5 (Cassandra 4.0 and later) puts a checksum on every frame.
PROTOCOL_VERSION = 5
_READ_SECONDS, _SCAN_SECONDS, _SCHEMA_SECONDS = 10.0, 60.0, 60.0
#: Between attempts to reach a lost node, seconds. The driver's default goes up to ten minutes.
_RECONNECT_SECONDS = (0.5, 5.0)

_shared: dict[tuple[Any, ...], "Future[Session]"] = {}
_shared_lock = threading.Lock()
_prepared: WeakKeyDictionary[Session, dict[str, PreparedStatement]] = WeakKeyDictionary()


class _Connection(DefaultConnection):  # type: ignore[misc,unused-ignore]
    """The driver's connection (libev where its wheel has it, else asyncore) with larger buffers.

    Pages of a scan are hundreds of kilobytes; 4 KiB a system call is what the driver reads by default.
    """

    in_buffer_size = 1 << 16
    out_buffer_size = 1 << 16


def consistency(settings: Settings) -> int:
    """The consistency level's number in the protocol."""
    level: int = ConsistencyLevel.name_to_value[settings.cassandra_consistency]
    return level


def connect(settings: Settings, *, timeout_seconds: float = 10.0) -> Session:
    """Open a session; blocks, so call it in a thread where an event loop runs.

    Args:
        settings: where Cassandra is and how to speak to it.
        timeout_seconds: how long one contact point may take to answer.

    Returns:
        The driver's session, for `disconnect` afterwards. Its profiles are `READ`, `SCAN`, `SCHEMA`.

    Raises:
        UnavailableError: no contact point answers, or it refuses us: one line says why.
        SettingsError: a contact point, the datacenter or a file is wrong.
    """
    points = resolve_cassandra(settings)
    # The driver reports each failed attempt several times; what matters is raised or logged by us.
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
    balancing = TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.cassandra_datacenter or ""))

    def profile(row_factory: Any, seconds: float) -> ExecutionProfile:
        return ExecutionProfile(
            load_balancing_policy=balancing,
            consistency_level=consistency(settings),
            request_timeout=seconds,
            row_factory=row_factory,
        )

    cluster: Cluster | None = None
    try:
        cluster = Cluster(
            contact_points=points,
            port=points[0][1],
            protocol_version=PROTOCOL_VERSION,
            connection_class=_Connection,
            sockopts=SOCKET_OPTIONS,
            auth_provider=Logins(settings),
            ssl_context=tls_context(settings),
            connect_timeout=timeout_seconds,
            control_connection_timeout=timeout_seconds,
            idle_heartbeat_interval=10,
            idle_heartbeat_timeout=10,
            reconnection_policy=ExponentialReconnectionPolicy(*_RECONNECT_SECONDS),
            execution_profiles={
                READ: profile(dict_factory, _READ_SECONDS),
                SCAN: profile(tuple_factory, _SCAN_SECONDS),
                SCHEMA: profile(dict_factory, _SCHEMA_SECONDS),
            },
        )
        session = cluster.connect()
    except SettingsError:
        raise
    except Exception as error:
        known = set()
        if cluster is not None:
            known = {str(host.datacenter) for host in cluster.metadata.all_hosts()} - {"None"}
            cluster.shutdown()
        if settings.cassandra_datacenter is not None and known - {settings.cassandra_datacenter}:
            msg = (
                f"FRAUDSTREAM_CASSANDRA_DATACENTER={settings.cassandra_datacenter} is not a datacenter "
                f"of this cluster, which has {', '.join(sorted(known))}"
            )
            raise SettingsError(msg) from error
        raise _unavailable(error, settings, points) from error
    return session


def disconnect(session: Session) -> None:
    """Close a session and everything that belongs to it."""
    session.cluster.shutdown()


@contextmanager
def connected(settings: Settings) -> Iterator[Session]:
    """A session for the length of a block. Raises what `connect` raises."""
    session = connect(settings)
    try:
        yield session
    finally:
        disconnect(session)


def shared_session(settings: Settings) -> Session:
    """The session of this process, opened at its first use: each costs connections and four threads.

    Who asks while somebody connects gets what that attempt gives, its error too: in line, each for itself, the
    last of five would wait for five timeouts.

    Raises:
        UnavailableError, SettingsError: see `connect`.
    """
    key = (
        *resolve_cassandra(settings),
        settings.cassandra_username,
        settings.cassandra_ca_file,
        settings.cassandra_cert_file,
        settings.cassandra_datacenter,
        settings.cassandra_consistency,
    )
    with _shared_lock:
        attempt = _shared.get(key)
        ours = attempt is None or _is_over(attempt)
        if ours:
            attempt = _shared[key] = Future()
    assert attempt is not None
    if ours:
        try:
            attempt.set_result(connect(settings))
        except BaseException as error:
            attempt.set_exception(error)
            raise
    return attempt.result()


def _is_over(attempt: "Future[Session]") -> bool:
    """Whether it failed, or its session is closed."""
    return attempt.done() and (
        attempt.exception() is not None or bool(attempt.result().is_shutdown)
    )


def prepared(session: Session, text: str) -> PreparedStatement:
    """A statement that the server parses once; idempotent."""
    statements = _prepared.setdefault(session, {})
    statement = statements.get(text)
    if statement is None:
        statement = statements[text] = session.prepare(text)
        statement.is_idempotent = True
    return statement


def close_shared_sessions() -> None:
    """Close what `shared_session` opened: a process that goes on should not keep the connections."""
    with _shared_lock:
        attempts = list(_shared.values())
        _shared.clear()
    for attempt in attempts:
        if attempt.done() and attempt.exception() is None:
            disconnect(attempt.result())


@contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """Turn what the driver raises inside the block into errors for people.

    Raises:
        UnavailableError: Cassandra does not answer, too few replicas do, or it forbids the request.
        SchemaError: a table or keyspace is missing.
    """
    try:
        yield
    except (NoHostAvailable, OperationTimedOut, ConnectionException) as error:
        raise _unavailable(error, settings, resolve_cassandra(settings)) from error
    except (Unavailable, ReadTimeout, ReadFailure, WriteTimeout, WriteFailure) as error:
        msg = (
            f"too few Cassandra replicas answer for consistency {settings.cassandra_consistency}: "
            f"{first_line(error)}"
        )
        raise NotAnsweringError(msg) from error
    except ErrorMessage as error:
        if not is_unknown(error):
            raise
        msg = (
            f"it is unknown whether Cassandra has stored the change: {first_line(error)}; try again"
        )
        raise NotAnsweringError(msg) from error
    except Unauthorized as error:
        msg = (
            f"Cassandra forbids it: {first_line(error)}; grant it to FRAUDSTREAM_CASSANDRA_USERNAME"
        )
        raise UnavailableError(msg) from error
    except InvalidRequest as error:
        text = first_line(error)
        if "does not exist" in text or "unconfigured table" in text:
            msg = f"keyspace {settings.keyspace} lacks its tables: run `fraudstream migrate`"
            raise SchemaError(msg) from error
        if "Undefined column name" in text:
            msg = f"a table of keyspace {settings.keyspace} lacks a column ({text}): run `fraudstream migrate`"
            raise SchemaError(msg) from error
        if "ALLOW FILTERING" in text or "cannot be restricted" in text:
            msg = (
                f"{settings.keyspace}.predictions has no index on transaction_id, so transactions cannot be found "
                "by id: create it as in cql/003_transaction_index.cql"
            )
            raise SchemaError(msg) from error
        raise


def _unavailable(
    error: BaseException, settings: Settings, points: list[tuple[str, int]]
) -> UnavailableError:
    """What a failed connection means: Cassandra is away, or will not have us as we are."""
    refused = refusal(error, settings, points)
    if refused is not None:
        return refused
    where = ",".join(f"{host}:{port}" for host, port in points)
    detail = type(causes(error)[-1]).__name__
    return NotAnsweringError(
        f"no Cassandra at {where}: run `fraudstream up`, or set FRAUDSTREAM_CASSANDRA ({detail})"
    )
