"""The `fraudstream` command: one module a command group, imported only when it runs."""

import importlib
from typing import Any

import click

#: Command name -> "module:attribute", in the order of the help page.
COMMANDS = {
    "demo": "app.cli.demo:demo",
    "up": "app.cli.servers:up",
    "down": "app.cli.servers:down",
    "status": "app.cli.servers:status",
    "wipe": "app.cli.servers:wipe",
    "topics": "app.cli.topics:topics",
    "migrate": "app.cli.migrate:migrate",
    "grants": "app.cli.grants:grants",
    "pseudonym": "app.cli.pseudonym:pseudonym",
    "users": "app.cli.users:users",
    "config": "app.cli.config:config",
    "monitoring": "app.cli.monitoring:monitoring",
    "features": "app.cli.features:features",
    "worker": "app.cli.worker:worker",
    "simulate": "app.cli.simulate:simulate",
    "produce": "app.cli.produce:produce",
    "label": "app.cli.label:label",
    "alerts": "app.cli.alerts:alerts",
    "notify": "app.cli.notify:notify",
    "train": "app.cli.train:train",
    "retrain": "app.cli.retrain:retrain",
    "models": "app.cli.models:models",
    "rules": "app.cli.rules:rules",
    "lists": "app.cli.lists:lists",
    "card": "app.cli.card_terminal_transaction:card",
    "terminal": "app.cli.card_terminal_transaction:terminal",
    "transaction": "app.cli.card_terminal_transaction:transaction",
    "quality": "app.cli.quality:quality",
    "drift": "app.cli.drift:drift",
    "deadletters": "app.cli.deadletters:deadletters",
    "replay": "app.cli.replay:replay",
    "rebuild": "app.cli.rebuild:rebuild",
    "rewrite": "app.cli.rewrite:rewrite",
    "backup": "app.cli.backup:backup",
    "restore": "app.cli.backup:restore",
    "repartition": "app.cli.repartition:repartition",
    "verify": "app.cli.verify:verify",
    "erase": "app.cli.erase:erase",
    "audit": "app.cli.audit:audit",
    "bench": "app.cli.bench:bench",
    "handbook": "app.cli.handbook:handbook",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is used: `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, attribute = target.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        keep_lines(command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does, with a suggestion for a misspelt name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, 1)
            if close:
                error.message += f" Did you mean {close[0]!r}?"
            raise


def keep_lines(command: click.Command) -> None:
    """Let click see the mark before a paragraph whose lines it must not join: raw docstrings spell it out."""
    if command.help:
        command.help = command.help.replace("\\b\n", "\b\n")
    if isinstance(command, click.Group) and not isinstance(command, LazyGroup):
        for each in command.commands.values():
            keep_lines(each)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="fraudstream")
def cli() -> None:
    r"""Score card transactions for fraud as they arrive: from Kafka to Kafka and Cassandra.

    \b
    Start here:  fraudstream demo --once
    """


keep_lines(cli)
