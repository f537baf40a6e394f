"""Brings a keyspace to the newest schema.

`migrate` holds a lock (a row written by lightweight transaction, with a TTL: the lock of a crashed owner
expires), applies what is missing in order, waits for schema agreement after each statement, and records each
migration with its checksum. Everything may be repeated.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from cassandra import InvalidRequest
from cassandra.cluster import Session
from cassandra.protocol import ConfigurationException, ServerError, SyntaxException

from app.cassandra.migration_files import Migration, load_migrations, table_options
from app.cassandra.schema_check import (
    check_unchanged,
    differences,
    own_columns,
    prediction_options,
    recorded_migrations,
    refuse_broken,
)
from app.cassandra.schema_lock import LOCK_SECONDS, schema_lock
from app.cassandra.schema_shape import Shape, shape_of
from app.cassandra.session import SCHEMA, explained
from app.errors import SchemaError, UnavailableError
from app.settings import Settings

_OLDEST_RELEASE = (5, 0)  # SAI indexes
_BOOKKEEPING = (
    "CREATE TABLE IF NOT EXISTS {keyspace}.schema_migrations (number int PRIMARY KEY, name text, "
    "checksum text, applied_at timestamp, applied_by text)",
    "CREATE TABLE IF NOT EXISTS {keyspace}.schema_lock (name text PRIMARY KEY, owner text)",
)


@dataclass
class Report:
    """What `migrate` did.

    Attributes:
        keyspace: where.
        applied: titles of the migrations that this run applied.
        present: titles of those that were there.
        repaired: tables and columns that had been dropped since and were made again, empty.
        missing_indexes: statements that make indexes which have been dropped since: that may be on purpose.
        added: columns of the deployment's own fields that this run added.
        options: the statement that altered the predictions table, None if it was as the settings say.
        unknown: numbers recorded by a newer release than this one.
    """

    keyspace: str
    applied: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    missing_indexes: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    options: str | None = None
    unknown: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def migrate(
    session: Session,
    settings: Settings,
    *,
    migrations: Sequence[Migration] | None = None,
    say: Callable[[str], None] = lambda line: None,
    lock_seconds: int = LOCK_SECONDS,
) -> Report:
    """Apply what the keyspace lacks, and repair what was dropped since.

    Args:
        session: to a server of release 5.0 or later.
        settings: keyspace, replication, TTL.
        migrations: those of cql/ if not given.
        say: is told in one line what happens.
        lock_seconds: TTL of the lock.

    Raises:
        SchemaError: an applied migration has changed since, a statement fails, a table cannot be repaired, or the
            server is too old.
        UnavailableError: Cassandra does not answer, or its nodes do not agree on the schema.
    """
    wanted = load_migrations() if migrations is None else migrations
    report = Report(settings.keyspace)
    with explained(settings):
        _check_release(session)
        # The lock and the records live in the keyspace that the first migration makes; it says IF NOT EXISTS.
        _apply(session, wanted[0], settings, lambda: None)
        for statement in _BOOKKEEPING:
            _execute_ddl(session, statement.format(keyspace=settings.keyspace), "bookkeeping")
        with schema_lock(session, settings.keyspace, lock_seconds, say) as renew:
            recorded = recorded_migrations(session, settings.keyspace)
            check_unchanged(wanted, recorded, settings.keyspace)
            for migration in wanted:
                if migration.number in recorded:
                    report.present.append(migration.title)
                    continue
                if migration.number > 1:
                    _apply(session, migration, settings, renew)
                _record(session, settings.keyspace, migration)
                report.applied.append(migration.title)
                say(f"applied {migration.title}")
            for statement in own_columns(settings):
                column = statement.partition(f" {settings.keyspace}.")[2].replace(
                    " ADD IF NOT EXISTS ", "."
                )
                if column.partition(" ")[0] in _columns_lacking(session, settings, wanted):
                    renew()
                    _execute_ddl(session, statement, column)
                    report.added.append(column)
                    say(f"added column {column}")
            _repair(session, settings, wanted, report, renew)
            for name in report.repaired:
                say(
                    f"repaired {name}, which had been dropped; to restore its rows see `fraudstream rewrite --help`"
                )
            report.options = _align_options(session, settings, renew)
            if report.options:
                say("table predictions now follows the settings (TTL, compaction)")
            known = {migration.number for migration in wanted}
            report.unknown = sorted(recorded.keys() - known)
    return report


def dry_run(settings: Settings, migrations: Sequence[Migration] | None = None) -> Iterator[str]:
    """Every statement that a new keyspace would get, in order; nothing is asked of any server."""
    wanted = load_migrations() if migrations is None else migrations
    for migration in wanted:
        for statement in migration.statements(settings):
            yield f"{statement};"
        if migration.number == 1:
            for statement in _BOOKKEEPING:
                yield f"{statement.format(keyspace=settings.keyspace)};"
    for statement in own_columns(settings):
        yield f"{statement};"
    yield f"{table_options(settings).statement(settings.keyspace)};"


def _columns_lacking(
    session: Session, settings: Settings, migrations: Sequence[Migration]
) -> set[str]:
    found = differences(session, settings, migrations).columns
    return {f"{table}.{column}" for table, column, _ in found}


def _repair(
    session: Session,
    settings: Settings,
    migrations: Sequence[Migration],
    report: Report,
    renew: Callable[[], None],
) -> None:
    """Make again what recorded migrations made and somebody dropped."""
    keyspace = settings.keyspace
    found = differences(session, settings, migrations)
    refuse_broken(found, keyspace)
    made = [one for migration in migrations for one in migration.statements(settings)]
    for statement in made:
        shape = shape_of([statement]) if not statement.upper().startswith("ALTER") else Shape()
        table = next(iter([*shape.tables, *shape.indexes.values()]), None)
        if table in found.tables:  # with its indexes
            renew()
            _execute_ddl(session, statement, f"repair of {table}")
        elif found.indexes and shape.indexes.keys() & set(found.indexes):
            report.missing_indexes.append(statement)
    missing = differences(session, settings, migrations).columns if found.tables else found.columns
    for table, column, kind in missing:
        renew()
        statement = f"ALTER TABLE {keyspace}.{table} ADD IF NOT EXISTS {column} {kind}"
        _execute_ddl(session, statement, f"repair of {table}.{column}")
    report.repaired = [f"table {name}" for name in found.tables]
    report.repaired += [f"column {table}.{column}" for table, column, _ in found.columns]


def _check_release(session: Session) -> None:
    release = session.execute("SELECT release_version FROM system.local").one()["release_version"]
    if tuple(int(part) for part in release.split(".")[:2]) < _OLDEST_RELEASE:
        msg = f"this is Cassandra {release}; fraudstream needs 5.0 or later"
        raise SchemaError(msg)


def _apply(
    session: Session, migration: Migration, settings: Settings, renew: Callable[[], None]
) -> None:
    for statement in migration.statements(settings):
        renew()
        _execute_ddl(session, statement, migration.title)


def _execute_ddl(session: Session, statement: str, title: str) -> None:
    future = session.execute_async(statement, execution_profile=SCHEMA)
    try:
        future.result()
    except (InvalidRequest, SyntaxException, ConfigurationException, ServerError) as error:
        reason = getattr(error, "message", str(error))
        msg = f"migration {title} failed: {reason}"
        raise SchemaError(msg) from error
    if not future.is_schema_agreed:
        msg = f"the nodes do not agree on the schema after {title}; start all nodes, then repeat"
        raise UnavailableError(msg)


def _record(session: Session, keyspace: str, migration: Migration) -> None:
    session.execute(
        f"INSERT INTO {keyspace}.schema_migrations (number, name, checksum, applied_at, applied_by) "  # noqa: S608
        "VALUES (%s, %s, %s, %s, %s)",
        (
            migration.number,
            migration.name,
            migration.checksum,
            datetime.now(UTC),
            socket.gethostname(),
        ),
    )


def _align_options(session: Session, settings: Settings, renew: Callable[[], None]) -> str | None:
    wanted = table_options(settings)
    present = prediction_options(session, settings.keyspace)
    compaction = {name: value.rpartition(".")[2] if name == "class" else value
                  for name, value in present["compaction"].items()}  # fmt: skip
    same_compaction = wanted.compaction.items() <= compaction.items()
    if present["default_time_to_live"] == wanted.ttl_seconds and same_compaction:
        return None
    renew()
    statement = wanted.statement(settings.keyspace)
    _execute_ddl(session, statement, "table options")
    return statement
