"""The `fraudstream` command: one module a command group, imported only when it runs."""

import errno
import importlib
import os
import sys
from typing import Any

import click

from app.cli.interrupt import interruptible
from app.errors import FraudstreamError, UnavailableError, UsageError
from app.formats import printable

#: Errors of writing to a closed pipe, a full disk or a broken one.
_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
#: Command name -> "module:attribute", in the order of the help page.
COMMANDS = {
    "demo": "app.cli.demo:demo",
    "up": "app.cli.servers:up",
    "down": "app.cli.servers:down",
    "status": "app.cli.servers:status",
    "wipe": "app.cli.servers:wipe",
    "topics": "app.cli.topics:topics",
    "migrate": "app.cli.setup:migrate",
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
    "card": "app.cli.look:card",
    "terminal": "app.cli.look:terminal",
    "transaction": "app.cli.look:transaction",
    "quality": "app.cli.quality:quality",
    "drift": "app.cli.drift:drift",
    "deadletters": "app.cli.deadletters:deadletters",
    "replay": "app.cli.replay:replay",
    "rebuild": "app.cli.rebuild:rebuild",
    "rewrite": "app.cli.rewrite:rewrite",
    "repartition": "app.cli.repartition:repartition",
    "verify": "app.cli.verify:verify",
    "erase": "app.cli.erase:erase",
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


def _refuse_bytes(args: list[str]) -> None:
    """Names of cards and topics are UTF-8: what is not would fail wherever it is first sent."""
    for text in args:
        try:
            text.encode()
        except UnicodeEncodeError:
            msg = f"the argument {os.fsencode(text)!r} is not UTF-8 text"
            raise UsageError(msg) from None


def run(args: list[str] | None = None) -> int:
    """Run the command line; errors become one line on standard error and an exit code."""
    try:
        code = _run(args)
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in _OUTPUT_ERRORS:
            return _unexpected(error)
        # otherwise Python would try again at its end, and print an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # the reader went away (| head): print nothing
            click.echo(f"fraudstream: cannot write the output: {error.strerror}", err=True)
        return UnavailableError.exit_code
    return code


def _run(args: list[str] | None) -> int:
    try:
        _refuse_bytes(sys.argv[1:] if args is None else args)
        with interruptible():
            result = cli.main(args=args, prog_name="fraudstream", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        click.echo("fraudstream: interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FraudstreamError as error:
        # one line, whatever names of columns and files are in it
        click.echo(f"fraudstream: {printable(str(error))}", err=True)
        return error.exit_code
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 -- the last resort: a line in place of a traceback
        return _unexpected(error)
    return result if isinstance(result, int) else 0  # click returns the code of `ctx.exit`


def _unexpected(error: Exception) -> int:
    from app.cli.unexpected import explain, show_trace

    show_trace(error)
    text, code = explain(error)
    click.echo(f"fraudstream: {printable(text)}", err=True)
    return code
