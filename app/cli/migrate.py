"""`fraudstream migrate`: bring Cassandra's schema up to date."""

import click
import orjson

from app.cli.options import json_option
from app.settings import load_settings


@click.command()
@json_option
@click.option(
    "--dry-run", is_flag=True, help="Print the statements for a new keyspace; contacts no server."
)
def migrate(as_json: bool, dry_run: bool) -> None:
    r"""Create or update the keyspace and its tables in Cassandra; safe to re-run.

    Existing tables and the columns that you added stay. A table or column that was dropped is created
    again, empty. TTL and compaction follow the settings.

    \b
    Example:  fraudstream migrate
              FRAUDSTREAM_PREDICTION_TTL=400d fraudstream migrate --json
    """
    from app.cassandra import schema_migration
    from app.cassandra.session import connected

    settings = load_settings()
    if dry_run:
        statements = list(schema_migration.dry_run(settings))
        click.echo(
            orjson.dumps({"statements": statements}).decode() if as_json else "\n".join(statements)
        )
        return
    with connected(settings) as session:
        report = schema_migration.migrate(
            session, settings, say=lambda line: click.echo(line, err=True)
        )
    if as_json:
        click.echo(orjson.dumps(report.as_dict()).decode())
        return
    count = len(report.applied) + len(report.present)
    click.echo(f"keyspace {report.keyspace}: {count} migrations, {len(report.applied)} applied now")
    for statement in report.missing_indexes:
        click.echo(f"note: an index was dropped; to create it again: {statement};", err=True)
    if report.unknown:
        numbers = ", ".join(f"{number:03d}" for number in report.unknown)
        click.echo(f"warning: migrations {numbers} belong to a newer release", err=True)
