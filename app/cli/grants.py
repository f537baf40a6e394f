"""`fraudstream grants`: what users at Kafka and Cassandra must be allowed, as commands for their administrators."""

from collections.abc import Iterator

import click

from app.ops.role_grants import DUTIES, ROLES, Role, grants_of, table_grants_of
from app.settings import Settings, load_settings

_ADMIN = "kafka-acls.sh --bootstrap-server {} --command-config admin.properties --add --allow-principal User:{}"
#: As the command spells what is not one word.
_OPERATIONS = {"DESCRIBE_CONFIGS": "DescribeConfigs"}


@click.command(
    epilog="\b\nExamples:  fraudstream grants worker --user fraud-worker > grants.sh\n"
    "           fraudstream grants --markdown"
)
@click.argument("role", type=click.Choice(list(ROLES)), required=False, metavar="[SERVER_ROLE]")
@click.option(
    "--user",
    default="USER",
    show_default=True,
    help="User name on both servers; by default the placeholder USER.",
)
@click.option(
    "--markdown", is_flag=True, help="Print all server roles as Markdown tables: docs/access.md."
)
def grants(role: Role | None, user: str, markdown: bool) -> None:
    """Print the minimum grants of a user at Kafka and Cassandra, as a shell script for their administrators.

    The printed script reads the login of Kafka's administrator from `admin.properties`; cqlsh reads the login of
    Cassandra's administrator from its own file.

    Server roles: setup, worker, notifier, producer, analyst, modeller, auditor, repairer, replayer, repartitioner,
    eraser, keeper. Without SERVER_ROLE, all are printed, each with its commands. Every command that uses a
    deployment's servers belongs to one of them, except `bench`: it needs an administrator, because it creates and
    deletes topics and tables. Server roles are independent of the web roles of `fraudstream users`. The names of
    topics, consumer group and keyspace come from the settings.
    """
    if markdown:
        click.echo("\n".join(_tables(Settings.model_construct())))
        return
    settings = load_settings()
    for one in [role] if role else ROLES:
        click.echo("\n".join(_commands(one, user, settings)))


def _commands(role: Role, user: str, settings: Settings) -> Iterator[str]:
    yield f"# {role}: {DUTIES[role]}"
    merged: dict[tuple[bool, tuple[str, ...]], list[str]] = {}
    for grant in grants_of(role, settings):
        merged.setdefault((grant.prefixed, grant.operations), []).append(
            f"--{grant.kind} {grant.name}"
        )
    for (prefixed, operations), names in merged.items():
        spelled = [f"--operation {_OPERATIONS.get(one, one.capitalize())}" for one in operations]
        pattern = ["--resource-pattern-type prefixed"] if prefixed else []
        yield " ".join(
            [_ADMIN.format(settings.broker or "BROKER", user), *names, *pattern, *spelled]
        )
    if tables := table_grants_of(role, settings):
        yield "cqlsh <<'END'"
        for table in tables:
            for permission in table.permissions:
                yield f'GRANT {permission} ON {table.resource} TO "{user}";'
        yield "END"


def _tables(settings: Settings) -> Iterator[str]:
    """Every role's grants with the names of the default settings."""
    for role, duty in DUTIES.items():
        yield f"**{role}**: {duty}"
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
