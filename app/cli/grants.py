"""`fraudstream grants`: what users at Kafka and Cassandra must be allowed, as commands for their administrators."""

from collections.abc import Iterator

import click

from app.ops.role_grants import ROLES, Role, grants_of, table_grants_of
from app.settings import Settings, load_settings

_ADMIN = "kafka-acls.sh --bootstrap-server BROKER --command-config admin.properties --add"


@click.command(
    epilog="\b\nExamples:  fraudstream grants worker --user fraud-worker\n"
    "           fraudstream grants --markdown"
)
@click.argument("role", type=click.Choice(list(ROLES)), required=False, metavar="[SERVER_ROLE]")
@click.option("--user", default="USER", show_default=True, help="User name on both servers.")
@click.option(
    "--markdown", is_flag=True, help="Print all server roles as Markdown tables: docs/access.md."
)
def grants(role: Role | None, user: str, markdown: bool) -> None:
    """Print the minimum grants of a user at Kafka and Cassandra, as commands for their administrators.

    Server roles: setup creates topics and tables, worker scores, notifier sends notifications, producer
    sends transactions and labels, analyst handles alerts, modeller registers and promotes
    models, auditor is read-only, eraser erases cards, keeper saves and restores what is only in Cassandra. They are
    independent of the web roles of `fraudstream users`. The names of topics, consumer group and keyspace come from the
    settings.
    """
    if markdown:
        click.echo("\n".join(_tables(Settings.model_construct())))
        return
    settings = load_settings()
    for one in [role] if role else list(ROLES):
        click.echo("\n".join(_commands(one, user, settings)))


def _commands(role: Role, user: str, settings: Settings) -> Iterator[str]:
    yield f"# {role}: {ROLES[role]}"
    for grant in grants_of(role, settings):
        operations = " ".join(
            f"--operation {'DescribeConfigs' if one == 'DESCRIBE_CONFIGS' else one.capitalize()}"
            for one in grant.operations
        )
        pattern = " --resource-pattern-type prefixed" if grant.prefixed else ""
        yield f"{_ADMIN} --allow-principal User:{user} --{grant.kind} {grant.name}{pattern} {operations}"
    for table in table_grants_of(role, settings):
        for permission in table.permissions:
            yield f'cqlsh -e "GRANT {permission} ON {table.resource} TO \\"{user}\\""'


def _tables(settings: Settings) -> Iterator[str]:
    """Every role's grants with the names of the default settings."""
    for role, what in ROLES.items():
        yield f"**{role}**: {what}"
        yield ""
        yield "| resource | grants |"
        yield "|---|---|"
        merged: dict[tuple[str, ...], list[str]] = {}
        for grant in grants_of(role, settings):
            merged.setdefault((grant.kind, *grant.operations), []).append(
                f"`{grant.name}{'*' if grant.prefixed else ''}`"
            )
        for (kind, *operations), names in merged.items():
            yield f"| Kafka {kind} {', '.join(names)} | {', '.join(operations)} |"
        tables: dict[tuple[str, ...], list[str]] = {}
        for one in table_grants_of(role, settings):
            tables.setdefault(one.permissions, []).append(f"`{one.resource}`")
        for permissions, names in tables.items():
            yield f"| Cassandra {', '.join(names)} | {', '.join(permissions)} |"
        yield ""
