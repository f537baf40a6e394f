"""Rules, lists and trials of rules as text."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from app.display import amount, iso, printable
from app.settings import Settings

if TYPE_CHECKING:
    from app.domain.rules import Rule, RuleSet
    from app.kafka.change_history import LoggedChange

#: List entries that `models history` prints.
_MOST_ENTRIES = 20


def rule_lines(rules: "Iterable[Rule]") -> Iterator[str]:
    """Rules in force, a line each."""
    found = list(rules)
    width = max((len(rule.title) for rule in found), default=0)
    for rule in found:
        yield f"{rule.title:{width}}  {rule.action:7}  {printable(rule.expression)}"


def described_rule(rule: "Rule") -> dict[str, Any]:
    """A rule for JSON."""
    import msgspec

    return {name: msgspec.to_builtins(getattr(rule, name)) for name in rule.__struct_fields__}


def entry_line(name: str, subject: str, one: str, until_ms: int | None) -> str:
    """An entry of a list."""
    until = "" if until_ms is None else f"  until {iso(until_ms)}"
    return f"{name:5}  {subject:8}  {printable(one)}{until}"


def described_entry(name: str, subject: str, one: str, until_ms: int | None) -> dict[str, Any]:
    """An entry of a list for JSON."""
    return {"list": name, "subject": subject, "id": one, "until": iso(until_ms)}


def beside_model(rules: "RuleSet") -> Iterator[str]:
    """What decides beside the model: all rules, and the first entries of the lists."""
    from app.domain.rules.ruleset import entries

    yield from (f"rule: {line}" for line in rule_lines(rules.rules))
    listed = list(entries(rules.listed))
    for one in listed[:_MOST_ENTRIES]:
        yield f"list: {entry_line(*one)}"
    if len(listed) > _MOST_ENTRIES:
        yield f"list: {len(listed) - _MOST_ENTRIES:,} more entries; `fraudstream lists list` prints all (--at TIME)"
    if not rules:
        yield "no rules and no list entries"


def line_of(made: "LoggedChange") -> str:
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


def trial_lines(result: dict[str, Any], settings: Settings) -> list[str]:
    """What a rule would have caught and disturbed."""

    def money(minor: int) -> str:
        return amount(minor, settings.minor_unit_digits, settings.currency)

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    one = result
    if not one["read"]:
        return ["there are no predictions in that period"]
    lines = [
        f"read            {one['read']:>9,}  transactions of {one['days']:,.0f} days, {one['labelled']:,} with a label",
        f"matches         {one['fired']:>9,}  {share(one['fired'] / one['read'])} of them, "
        f"{one['fired_per_day']:,.1f} per day; {one['new']:,} were approved",
        f"caught          {one['caught']:>9,}  of {one['frauds']:,} frauds, {money(one['caught_minor'])} of "
        f"{money(one['frauds_minor'])}",
        f"newly caught    {one['new_caught']:>9,}  frauds that were approved, {money(one['new_caught_minor'])}",
        f"false positives {one['false_positives']:>9,}  genuine transactions, {money(one['false_positives_minor'])}",
        f"unlabelled      {one['unlabelled']:>9,}  {money(one['unlabelled_minor'])}",
        f"cards disturbed {one['cards_disturbed']:>9,}  "
        + ("or more: " if one["cards_disturbed_is_a_minimum"] else "")
        + "with a genuine or unlabelled transaction that matches",
        f"precision       {share(one['precision']):>9}",
        f"recall          {share(one['recall']):>9}",
    ]
    if one["lacking"]:
        lines.append(
            f"{one['lacking']:,} transactions lack a feature that the rule uses: it does not match them"
        )
    if not one["labelled"]:
        lines.append(
            "no labels have arrived: send them with `fraudstream label` or `produce --labels`"
        )
    return lines
