"""Whether a keyspace has the schema that this release writes to: refused at the start of a worker where it has not."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from cassandra.cluster import Session

from app.cassandra.migration_files import Migration, load_migrations
from app.cassandra.schema_shape import Differences, compare, present_shape, shape_of
from app.cassandra.session import connected, explained, shared_session
from app.durations import format_duration
from app.errors import NotAnsweringError, SchemaError, UnavailableError
from app.repeated_warnings import RepeatedWarning
from app.settings import Settings
from app.wire.own_features_file import fields_with, own_of
from app.wire.prediction_fields import columns_of

logger = logging.getLogger(__name__)


def check_schema(session: Session, settings: Settings) -> None:
    """Refuse a keyspace that this release cannot write to.

    Migrations of a newer release are accepted: they only add.

    Raises:
        SchemaError: a migration is missing or another text was applied, a table or column was dropped or altered,
            or the table's TTL is not the setting's.
        UnavailableError: Cassandra does not answer.
    """
    keyspace = settings.keyspace
    with explained(settings):
        migrations = load_migrations()
        recorded: dict[int, dict[str, Any]] = {}
        if _has_table(session, keyspace, "schema_migrations"):
            recorded = recorded_migrations(session, keyspace)
        for migration in migrations:
            if migration.number not in recorded:
                msg = (
                    f"keyspace {keyspace} lacks migration {migration.number:03d}: "
                    "run `fraudstream migrate`"
                )
                raise SchemaError(msg)
        check_unchanged(migrations, recorded, keyspace)
        found = differences(session, settings, migrations)
        refuse_broken(found, keyspace)
        if str(found):
            msg = f"keyspace {keyspace} lacks {found}: run `fraudstream migrate`"
            raise SchemaError(msg)
        ttl = prediction_options(session, keyspace)["default_time_to_live"]
    if ttl != settings.ttl_seconds:
        kept = format_duration(ttl * 1000) if ttl else "forever"
        msg = (
            f"table {keyspace}.predictions keeps rows {kept}, but FRAUDSTREAM_PREDICTION_TTL is "
            f"{settings.prediction_ttl}: run `fraudstream migrate`"
        )
        raise SchemaError(msg)


def check_schema_at_start(settings: Settings) -> bool:
    """`check_schema` over a connection of its own, for a worker that starts.

    While Cassandra is away nothing is checked: a worker that had to start anew goes on scoring, and its
    predictions wait.

    Returns:
        Whether it was checked.

    Raises:
        SchemaError: see `check_schema`.
        UnavailableError: Cassandra refuses us.
    """
    try:
        with connected(settings) as session:
            check_schema(session, settings)
    except NotAnsweringError as error:
        logger.warning("predictions wait: %s", error)
        return False
    return True


async def check_schema_when_it_answers(
    settings: Settings, pause: Callable[[], Awaitable[bool]]
) -> None:
    """`check_schema` as soon as Cassandra answers.

    Args:
        settings: keyspace and how to connect.
        pause: awaited before each attempt; False: it is not needed any more.

    Raises:
        SchemaError: see `check_schema`.
    """
    warning = RepeatedWarning()
    while await pause():
        try:
            session = await asyncio.to_thread(shared_session, settings)
            await asyncio.to_thread(check_schema, session, settings)
        except UnavailableError as error:
            # A refusal, too: a cluster that comes back refuses every login until it has its replicas of the users.
            # Scoring goes on meanwhile, as it does when the sink is refused.
            if warning.due():
                logger.warning("the tables cannot be checked: %s", error)
        else:
            return


def recorded_migrations(session: Session, keyspace: str) -> dict[int, dict[str, Any]]:
    """The migrations that were applied to a keyspace, by number."""
    rows = session.execute(f"SELECT number, name, checksum FROM {keyspace}.schema_migrations")  # noqa: S608
    return {row["number"]: row for row in rows}


def check_unchanged(
    migrations: Sequence[Migration], recorded: dict[int, dict[str, Any]], keyspace: str
) -> None:
    """Refuse migrations whose text has changed since they were applied.

    Raises:
        SchemaError: one has.
    """
    for migration in migrations:
        row = recorded.get(migration.number)
        if row is not None and row["checksum"] != migration.checksum:
            msg = (
                f"migration {migration.title} was applied to {keyspace} with other text: restore "
                f"cql/{migration.title}.cql, and put the change into a new migration"
            )
            raise SchemaError(msg)


def differences(
    session: Session, settings: Settings, migrations: Sequence[Migration]
) -> Differences:
    """What the keyspace lacks, or has otherwise than the migrations and the own fields say."""
    statements = [one for migration in migrations for one in migration.statements(settings)]
    wanted = shape_of([*statements, *own_columns(settings)])
    return compare(wanted, present_shape(session, settings.keyspace))


def own_columns(settings: Settings) -> Iterator[str]:
    """The statements that add the columns of the deployment's own fields."""
    own = own_of(settings)
    known = columns_of()
    for table in ("predictions", "conflicting_predictions") if own.fields else ():
        for name, cql in columns_of(fields_with(own)).items():
            if name not in known:
                yield f"ALTER TABLE {settings.keyspace}.{table} ADD IF NOT EXISTS {name} {cql}"


def refuse_broken(found: Differences, keyspace: str) -> None:
    """Refuse a keyspace that cannot be repaired.

    Raises:
        SchemaError: a table or column has another shape.
    """
    if found.broken:
        msg = (
            f"keyspace {keyspace} cannot be repaired: {'; '.join(found.broken)}. Choose another FRAUDSTREAM_KEYSPACE "
            "or drop the table, then run `fraudstream migrate` and `fraudstream rewrite`"
        )
        raise SchemaError(msg)


def prediction_options(session: Session, keyspace: str) -> Any:
    """TTL and compaction of the predictions table, as they are."""
    return session.execute(
        "SELECT default_time_to_live, compaction FROM system_schema.tables "
        "WHERE keyspace_name = %s AND table_name = 'predictions'",
        (keyspace,),
    ).one()


def _has_table(session: Session, keyspace: str, table: str) -> bool:
    found = session.execute(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s",
        (keyspace, table),
    ).one()
    return found is not None
