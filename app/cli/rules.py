"""`fraudstream rules`: rules that decide together with the model."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from app.cli.options import ListByDefault, from_option, json_option, moment_ms, note_option
from app.cli.rule_text import described_rule, line_of, rule_lines
from app.display import iso, printable
from app.errors import NotFoundError
from app.settings import load_settings

if TYPE_CHECKING:
    from app.domain.rules import Rule


@click.group(
    cls=ListByDefault,
    epilog="\b\nExamples:  fraudstream rules\n"
    "           fraudstream rules add large 'amount >= 2000 and amount_over_card_median > 10'\n"
    "           fraudstream rules remove large",
)
def rules() -> None:
    r"""Add, test and remove rules: expressions over features and input fields.

    A rule declines a transaction, requests a review, allows it, or only tags it. The strongest action wins:
    1. decline (block list, rules), 2. allow (allow list, rules), 3. review (rules, the model).

    Changes take effect within seconds, without a restart: each is a record on the topic `control`. docs/rules.md
    describes the expressions.
    """


@rules.command(
    epilog="\b\nExamples:  fraudstream rules add large 'amount >= 2000 and amount_over_card_median > 10'\n"
    "           fraudstream rules add sure 'score >= 0.98' --action decline --reason 'the model is sure'\n"
    "           fraudstream rules add shop \"terminal_id in ('T7', 'T8')\" --action tag"
)
@click.argument("name")
@click.argument("expression")
@click.option(
    "--action",
    type=click.Choice(["decline", "review", "allow", "tag"]),
    default="review",
    show_default=True,
    help="Action for matching transactions.",
)
@click.option("--reason", default="", help="Reason that alerts show.")
@note_option
def add(name: str, expression: str, action: Any, reason: str, note: str) -> None:
    r"""Add a rule, or replace it with a new version. Takes effect with the next transactions.

    The expression is checked first, with the features and fields of this deployment.

    \b
    Exit codes:  0  the change is recorded
                 2  the rule is not valid here, there are too many, or no worker has ever started; the error says why
                 3  Kafka does not answer
                 5  the topic `control` is missing: run fraudstream topics
    """
    from app.domain.changes import RuleChange
    from app.ops.rule_changes import add_rule

    change = RuleChange(name=name, expression=expression, action=action, reason=reason, note=note)
    title = asyncio.run(add_rule(load_settings(), change))
    click.echo(f"{title} is in force: {_meaning(action)}")


@rules.command(epilog="\b\nExample:  fraudstream rules remove large --note 'too many customers'")
@click.argument("name")
@note_option
def remove(name: str, note: str) -> None:
    """Remove a rule. Takes effect with the next transactions. Exit code 4: no rule has that name."""
    from app.ops.rule_changes import remove_rule

    asyncio.run(remove_rule(load_settings(), name, note))
    click.echo(f"{name} is removed")


@rules.command(name="list", epilog="\b\nExample:  fraudstream rules list --json")
@click.option(
    "--at",
    "at_ms",
    metavar="TIME",
    callback=moment_ms,
    help="List the rules in force at that time.",
)
@json_option
def list_command(at_ms: int | None, as_json: bool) -> None:
    """List the rules in force."""
    found = _in_force(at_ms)
    if as_json:
        click.echo(json.dumps({"rules": [described_rule(rule) for rule in found]}))
        return
    if not found:
        click.echo("no rule is in force; `fraudstream rules add` adds one")
        return
    for line in rule_lines(found):
        click.echo(line)


@rules.command(epilog="\b\nExample:  fraudstream rules show large")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a rule and its changes. Exit code 4: there is no rule of that name."""
    from app.kafka.change_history import read_history
    from app.ops.rule_changes import rule_changes

    history = asyncio.run(read_history(load_settings()))
    rule = next((one for one in history.in_force().rules.rules if one.name == name), None)
    if rule is None:
        msg = f"no rule {name!r} is in force; `fraudstream rules history` shows removed ones"
        raise NotFoundError(msg)
    if as_json:
        click.echo(json.dumps(described_rule(rule)))
        return
    click.echo(f"{rule.title}  {rule.action}: {_meaning(rule.action)}")
    click.echo(f"  {printable(rule.expression)}")
    if rule.reason:
        click.echo(f"  {printable(rule.reason)}")
    for one in rule_changes(history):
        if getattr(one.change, "subject", None) is None and one.change.name == name:  # type: ignore[union-attr]
            click.echo(line_of(one))


@rules.command(epilog="\b\nExample:  fraudstream rules history")
@json_option
def history(as_json: bool) -> None:
    """Show all changes of rules and lists, with time, author and note.

    Times are those at which the changes were recorded. A prediction names the rules that fired, with their versions.
    """
    import msgspec

    from app.kafka.change_history import read_history
    from app.ops.rule_changes import rule_changes

    found = rule_changes(asyncio.run(read_history(load_settings())))
    if as_json:
        told = [
            {"at": iso(one.at_ms), "offset": one.offset, **msgspec.to_builtins(one.change)}
            for one in found
        ]
        click.echo(json.dumps({"changes": told}))
        return
    for one in found:
        click.echo(line_of(one))
    if not found:
        click.echo("no rule or list has ever been changed")


@rules.command(
    name="test",
    epilog="\b\nExamples:  fraudstream rules test 'amount >= 2000' --from 30d\n"
    "           fraudstream rules test 'score > 0.5 and is_night == 1' --from 2026-10-01 --json",
)
@click.argument("expression")
@from_option
@click.option(
    "--to",
    "to_ms",
    metavar="TIME",
    callback=moment_ms,
    help="End of the event times (exclusive).  [default: the newest]",
)
@json_option
def test_command(expression: str, from_ms: int | None, to_ms: int | None, as_json: bool) -> None:
    r"""Test a rule on stored predictions: the frauds that it would have caught, and its false positives.

    Reads the tables of predictions and labels; changes nothing, and needs no worker. Precision and recall are computed
    over labelled transactions.

    \b
    Exit codes:  0  the report is printed
                 2  the rule is not valid here
                 3  Cassandra does not answer
    """
    from app.cassandra.session import connected
    from app.cli.progress import counter
    from app.cli.rule_text import trial_lines
    from app.ops.rule_changes import check_here
    from app.quality.rule_trial import try_rule

    settings = load_settings()
    catalogue, used = check_here(settings, expression)
    with connected(settings) as session, counter("reading") as show:
        result = try_rule(
            session,
            settings,
            expression,
            used,
            catalogue.names,
            catalogue.own,
            from_ms=from_ms,
            to_ms=to_ms,
            progress=show,
        )
    if as_json:
        click.echo(json.dumps({"expression": expression, **result}))
    else:
        click.echo("\n".join(trial_lines(result, settings)))


def _in_force(at_ms: int | None) -> "tuple[Rule, ...]":
    from app.kafka.change_history import read_history

    return asyncio.run(read_history(load_settings())).in_force(at_ms).rules.rules


def _meaning(action: str) -> str:
    return {
        "decline": "it declines matching transactions and raises an alert",
        "review": "it requests a review of matching transactions and raises an alert",
        "allow": "it approves matching transactions, unless the block list or another rule declines them",
        "tag": "it tags matching transactions; the decision does not change",
    }[action]
