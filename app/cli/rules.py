"""`fraudstream rules`: rules beside the model."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from app.cli.options import ListByDefault, json_option, moment_ms
from app.errors import NotFoundError
from app.formats import iso, printable
from app.settings import load_settings

if TYPE_CHECKING:
    from app.domain.rules import Rule
    from app.ops.control import Made

note_option = click.option("--note", default="", help="Why, for the history.")


@click.group(
    cls=ListByDefault,
    epilog="\b\nExamples:  fraudstream rules\n"
    "           fraudstream rules add large 'amount >= 2000 and amount_over_card_median > 10'\n"
    "           fraudstream rules remove large",
)
def rules() -> None:
    r"""Rules beside the model: expressions over features and input fields.

    A rule declines a transaction, asks for a review, allows it or only tags it. The first of these decides: a block
    list or a rule that declines; an allow list or a rule that allows; a rule that asks for a review, or the model.

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
    help="What follows when it fires.",
)
@click.option("--reason", default="", help="Why it fires, shown in alerts.")
@note_option
def add(name: str, expression: str, action: Any, reason: str, note: str) -> None:
    r"""Put a rule in force, or a new version of it, from the next transactions on.

    The expression is checked first, with the features and fields of this deployment.

    \b
    Exit codes:  0  the change is written
                 2  it is no rule here, or there are too many; the line says why
                 3  Kafka does not answer
                 5  the topic `control` is missing: run fraudstream topics
    """
    from app.domain.changes import RuleChange
    from app.ops.rules import add_rule

    change = RuleChange(name=name, expression=expression, action=action, reason=reason, note=note)
    title = asyncio.run(add_rule(load_settings(), change))
    click.echo(f"{title} is in force: {_meaning(action)}")


@rules.command(epilog="\b\nExample:  fraudstream rules remove large --note 'too many customers'")
@click.argument("name")
@note_option
def remove(name: str, note: str) -> None:
    """Take a rule out of force, from the next transactions on. Exits with 4 if there is none of that name."""
    from app.ops.rules import remove_rule

    asyncio.run(remove_rule(load_settings(), name, note))
    click.echo(f"{name} is not in force any more")


@rules.command(name="list", epilog="\b\nExample:  fraudstream rules list --json")
@click.option("--at", "at_ms", metavar="TIME", callback=moment_ms, help="Those in force then.")
@json_option
def list_command(at_ms: int | None, as_json: bool) -> None:
    """List the rules in force."""
    found = _in_force(at_ms)
    if as_json:
        click.echo(json.dumps({"rules": [_described(rule) for rule in found]}))
        return
    if not found:
        click.echo("no rule is in force; `fraudstream rules add` adds one")
        return
    width = max(len(rule.title) for rule in found)
    for rule in found:
        click.echo(f"{rule.title:{width}}  {rule.action:7}  {printable(rule.expression)}")


@rules.command(epilog="\b\nExample:  fraudstream rules show large")
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a rule, and the changes of it. Exits with 4 if there is none of that name."""
    from app.ops.control import read_history
    from app.ops.rules import rule_changes, rules_of

    history = asyncio.run(read_history(load_settings()))
    rule = next((one for one in rules_of(history).rules if one.name == name), None)
    if rule is None:
        msg = f"no rule {name!r} is in force; `fraudstream rules history` shows those of before"
        raise NotFoundError(msg)
    if as_json:
        click.echo(json.dumps(_described(rule)))
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
    """Show every change of rules and lists: when, what, who and why.

    Times are those at which the changes were written. A prediction names the rules that fired, with their versions.
    """
    import msgspec

    from app.ops.control import read_history
    from app.ops.rules import rule_changes

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
        click.echo("no rule and no list was ever changed")


def line_of(made: "Made") -> str:
    """A change of rules or lists, for people."""
    from app.domain.changes import ListChange, RuleChange

    match made.change:
        case RuleChange(name=name, expression=""):
            what = f"remove {name}"
        case RuleChange(name=name, expression=expression, action=action):
            what = f"add {name} ({action}) {printable(expression)}"
        case ListChange(name=name, subject=subject, ids=ids, remove=remove, until_ms=until_ms):
            named = ", ".join(map(printable, ids[:5])) + (", ..." if len(ids) > 5 else "")  # noqa: PLR2004
            what = f"{'off' if remove else 'on'} the {name} list: {subject} {named}"
            what += "" if until_ms is None else f" until {iso(until_ms)}"
    note = f": {printable(made.change.note)}" if made.change.note else ""
    return f"{iso(made.at_ms)}  {what}  by {printable(made.change.by)}{note}"


def _in_force(at_ms: int | None) -> "tuple[Rule, ...]":
    from app.ops.control import read_history
    from app.ops.rules import rules_of

    return rules_of(asyncio.run(read_history(load_settings())), at_ms).rules


def _described(rule: "Rule") -> dict[str, Any]:
    return {name: getattr(rule, name) for name in rule.__struct_fields__}


def _meaning(action: str) -> str:
    return {
        "decline": "what it fires for is declined, and raises an alert",
        "review": "what it fires for is to be reviewed, and raises an alert",
        "allow": "what it fires for is approved, unless a block list or a rule declines it",
        "tag": "what it fires for is tagged; it decides nothing",
    }[action]
