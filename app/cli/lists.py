"""`fraudstream lists`: cards and terminals that are always declined or always approved."""

import asyncio
import json
import time
from typing import Any

import click

from app.cli.options import ListByDefault, json_option, moment_ms
from app.cli.rule_text import described_entry, entry_line
from app.display import iso, printable
from app.errors import UsageError
from app.settings import load_settings

_NAMES, _SUBJECTS = click.Choice(["block", "allow"]), click.Choice(["card", "terminal"])
_reason = click.option("--reason", default="", help="Reason, recorded in the history.")


@click.group(
    cls=ListByDefault,
    epilog="\b\nExamples:  fraudstream lists add block card C00042 --until 2027-01-01 --reason 'reported stolen'\n"
    "           fraudstream lists add allow terminal T0007\n"
    "           fraudstream lists remove block card C00042",
)
def lists() -> None:
    """Decline (block list) or approve (allow list) all transactions of some cards and terminals.

    The block list and rules that decline take precedence over the allow list, and all of them over the model.
    Changes take effect within seconds, without a restart. An entry may end at an event time, and then does not apply
    to later transactions.
    """


@lists.command(
    epilog="\b\nExamples:  fraudstream lists add block card C00042 C00043 --reason 'reported stolen'\n"
    "           fraudstream lists add allow card C00044 --until 2026-12-24T18:00Z"
)
@click.argument("name", type=_NAMES)
@click.argument("subject", type=_SUBJECTS)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option(
    "--until",
    "until_ms",
    metavar="TIME",
    callback=moment_ms,
    help="Event time at which the entries end.  [default: never]",
)
@_reason
def add(name: Any, subject: Any, ids: tuple[str, ...], until_ms: int | None, reason: str) -> None:
    r"""Add cards or terminals to a list, or change when their entries end.

    \b
    Exit codes:  0  the change is recorded
                 2  an id is too long, the lists are full, or no worker has ever started
                 3  Kafka does not answer
    """
    count = _change(name, subject, ids, reason, until_ms=until_ms)
    until = "" if until_ms is None else f" until {iso(until_ms)}"
    click.echo(
        f"{_named(subject, ids)} on the {name} list{until}; the lists have {count:,} entries"
    )


@lists.command(epilog="\b\nExample:  fraudstream lists remove block card C00042 --reason 'found'")
@click.argument("name", type=_NAMES)
@click.argument("subject", type=_SUBJECTS)
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_reason
def remove(name: Any, subject: Any, ids: tuple[str, ...], reason: str) -> None:
    """Remove cards or terminals from a list. Exit code 4: at least one of them is not on the list."""
    count = _change(name, subject, ids, reason, remove=True)
    click.echo(f"{_named(subject, ids)} off the {name} list; the lists have {count:,} entries")


@lists.command(
    name="list",
    epilog="\b\nExamples:  fraudstream lists list --ended\n"
    "           fraudstream lists list --at 2026-11-29T12:00Z",
)
@click.option("--ended", is_flag=True, help="List only entries that have ended.")
@click.option(
    "--at",
    "at_ms",
    metavar="TIME",
    callback=moment_ms,
    help="List the entries that were on the lists at that time.",
)
@json_option
def list_command(ended: bool, at_ms: int | None, as_json: bool) -> None:
    """List the entries, and when they end."""
    from app.domain.rules.ruleset import entries
    from app.kafka.change_history import read_history

    history = asyncio.run(read_history(load_settings()))
    now_ms = time.time() * 1000 if at_ms is None else at_ms
    found = [
        (name, subject, one, until)
        for name, subject, one, until in entries(history.in_force(at_ms).rules.listed)
        if not ended or (until is not None and until <= now_ms)
    ]
    if as_json:
        click.echo(json.dumps({"entries": [described_entry(*one) for one in found]}))
        return
    for one in found:
        click.echo(entry_line(*one))
    if not found:
        click.echo("no entry has ended" if ended else "the lists are empty")


def _change(name: Any, subject: Any, ids: tuple[str, ...], reason: str, **options: Any) -> int:
    from app.domain.changes import ListChange
    from app.domain.rules import RuleError
    from app.domain.rules.ruleset import check_ids, check_reason
    from app.ops.rule_changes import change_list

    try:
        check_ids(ids)
        check_reason(reason)
    except RuleError as error:
        raise UsageError(str(error)) from None
    change = ListChange(name=name, subject=subject, ids=ids, note=reason, **options)
    return asyncio.run(change_list(load_settings(), change))


def _named(subject: str, ids: tuple[str, ...]) -> str:
    if len(ids) == 1:
        return f"{subject} {printable(ids[0])} is"
    return f"{len(ids)} {subject}s are"
