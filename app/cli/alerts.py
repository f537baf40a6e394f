"""`fraudstream alerts`: list, acknowledge and snooze alerts."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import orjson

from app import display
from app.change_author import user_name
from app.cli.change_records import audit_record, by_option
from app.cli.options import POSITIVE, duration_ms, json_option, moment_ms
from app.domain.alert_policy import SEVERITIES
from app.durations import DAY_MS
from app.errors import NotFoundError, UnavailableError, UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.cassandra.stored_alert import Alert

#: How many transactions of an alert `show` prints.
_SHOWN = 20


@click.group()
def alerts() -> None:
    """List alerts, acknowledge them, and snooze cards, terminals and rules.

    A transaction raises an alert if the model flags it, if a rule declines it or sends it to review, or if the block
    list declines it, unless the allow list or an allow rule approves it. FRAUDSTREAM_ALERT_ON changes the causes. Such
    transactions of one card within FRAUDSTREAM_ALERT_WINDOW are one alert. `fraudstream notify` sends notifications.
    """


_note = click.option("--note", metavar="TEXT", default="", help="Note to record.")


@alerts.command(
    name="list",
    epilog="\b\nExamples:  fraudstream alerts list --today\n"
    "           fraudstream alerts list --severity high --all --json\n"
    "           fraudstream alerts list --card C00042",
)
@click.option("--today", is_flag=True, help="Only alerts since midnight, UTC.")
@click.option("--from", "from_ms", metavar="TIME", callback=moment_ms, help="Start time.")
@click.option("--to", "to_ms", metavar="TIME", callback=moment_ms, help="End time (exclusive).")
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES),
    default=SEVERITIES[0],
    help="Lowest severity to list.",
)
@click.option(
    "--card",
    metavar="ID",
    help="Only this card's open alerts, however old; with --all also handled and snoozed ones.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Include handled (decided or acknowledged) and snoozed alerts.",
)
@click.option(
    "--limit",
    type=POSITIVE,
    default=50,
    show_default=True,
    help="Largest number of alerts to print.",
)
@json_option
def list_command(
    today: bool,
    from_ms: int | None,
    to_ms: int | None,
    severity: str,
    card: str | None,
    everything: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List open alerts, newest first; without a period, those of the last 7 days.

    Times are event times: when the payments were made.
    """
    if card is not None and (today or from_ms is not None or to_ms is not None):
        msg = "--card lists the alerts of a card from all times: leave out --today, --from and --to"
        raise UsageError(msg)
    if today and from_ms is not None:
        msg = "--today and --from both set the start: leave one out"
        raise UsageError(msg)
    from app.cassandra.alert_queries import AlertQuery, list_alerts
    from app.cassandra.session import connected

    settings, now = load_settings(), _now_ms()
    query = AlertQuery.of(
        now,
        settings.max_future_skew,
        now // DAY_MS * DAY_MS if today else from_ms,
        to_ms,
        severity=severity,
        card_id=card,
        everything=everything,
        limit=limit,
    )
    with connected(settings) as session:
        shown, more = list_alerts(session, settings, query, now)
    if as_json:
        answer = {"alerts": [alert.as_dict() for alert in shown], "more": more}
        click.echo(orjson.dumps(answer).decode())
        return
    if not shown:
        click.echo("no alerts")
        return
    for line in _table(shown, settings):
        click.echo(line)
    if more:
        click.echo(f"more than {limit}: give --limit, or --to {display.iso(shown[-1].opened_at)}")


@alerts.command(epilog="\b\nExample:  fraudstream alerts show 20261129T103000-3f9a1c2b4d5e6f70")
@click.argument("alert_id")
@json_option
def show(alert_id: str, as_json: bool) -> None:
    """Show one alert: its transactions, reasons, and what was done about it."""
    settings = load_settings()
    alert = _found(settings, alert_id)
    if as_json:
        click.echo(orjson.dumps(alert.as_dict(), option=orjson.OPT_INDENT_2).decode())
        return
    for line in _lines(alert, settings):
        click.echo(line)


@alerts.command(
    epilog="\b\nExample:  fraudstream alerts ack 20261129T103000-3f9a1c2b4d5e6f70 --note 'called the customer'"
)
@click.argument("alert_ids", metavar="ID...", nargs=-1, required=True)
@by_option
@_note
def ack(alert_ids: tuple[str, ...], by: str | None, note: str) -> None:
    """Acknowledge alerts that have been handled. `list` then leaves them out.

    This does not label the transactions: use `fraudstream label`. `fraudstream audit` lists acknowledgements.
    """
    from app.cassandra.alert_queries import acknowledge
    from app.cassandra.audit_records import recorded
    from app.cassandra.session import connected

    settings, by = load_settings(), by or user_name()
    # none is acknowledged if one is unknown
    cards = {alert_id: _found(settings, alert_id).card_id for alert_id in alert_ids}
    with connected(settings) as session:
        for alert_id, card_id in cards.items():
            change = audit_record(
                "acknowledge", (f"alert/{alert_id}", f"card/{card_id}"), by, note=note
            )
            with recorded(session, settings, change):
                acknowledge(session, settings, alert_id, by=by, note=note, now_ms=change.at_ms)
            click.echo(f"{alert_id} is acknowledged")


@alerts.command(
    epilog="\b\nExamples:  fraudstream alerts snooze --card C00042 --for 8h --note 'customer travels'\n"
    "           fraudstream alerts snooze --rule large_amount --until 2026-12-01\n"
    "           fraudstream alerts snooze --card C00042 --for 0s     (ends the snooze)\n"
    "           fraudstream alerts snooze     (lists what is snoozed)"
)
@click.option("--card", metavar="ID", help="Snooze this card.")
@click.option("--terminal", metavar="ID", help="Snooze this terminal.")
@click.option("--rule", metavar="NAME", help="Snooze alerts that only this rule raises.")
@click.option(
    "--for",
    "for_ms",
    metavar="DURATION",
    callback=duration_ms,
    help="Duration, such as 8h; 0s ends a snooze.",
)
@click.option(
    "--until", "until_ms", metavar="TIME", callback=moment_ms, help="End time, such as 2026-12-01."
)
@by_option
@_note
def snooze(
    card: str | None,
    terminal: str | None,
    rule: str | None,
    for_ms: int | None,
    until_ms: int | None,
    by: str | None,
    note: str,
) -> None:
    """Suppress notifications about a card, a terminal or a rule for a while.

    The alerts are still on the topic, in the table, and in `list --all`. `fraudstream notify` applies a snooze within
    a few seconds.
    """
    from app.cassandra.audit_records import recorded
    from app.cassandra.session import connected
    from app.cassandra.snoozes import Snooze, list_snoozes
    from app.cassandra.snoozes import snooze as put

    settings, now, by = load_settings(), _now_ms(), by or user_name()
    named = {"card": card, "terminal": terminal, "rule": rule}
    chosen = [(kind, name) for kind, name in named.items() if name is not None]
    with connected(settings) as session:
        if not chosen and for_ms is until_ms is None:
            for one in list_snoozes(session, settings, now):
                until = f"{display.moment(one.until_ms)[:16]} UTC by {display.printable(one.by)}"
                note = f": {display.printable(one.note)}" if one.note else ""
                click.echo(f"{one.kind} {display.printable(one.id)} until {until}{note}")
            return
        if len(chosen) != 1:
            msg = "give one of --card, --terminal and --rule"
            raise UsageError(msg)
        if (for_ms is None) == (until_ms is None):
            msg = "give --for, such as 8h, or --until, such as 2026-12-01"
            raise UsageError(msg)
        ((kind, name),) = chosen
        end = until_ms if until_ms is not None else now + (for_ms or 0)
        change = audit_record("snooze", (f"{kind}/{name}",), by, until=display.iso(end), note=note)
        with recorded(session, settings, change):
            put(session, settings, Snooze(kind, name, end, by, note), now_ms=now)
    what = f"{kind} {display.printable(name)}"
    if end <= now:
        click.echo(f"{what} is no longer snoozed")
    else:
        click.echo(f"{what} is snoozed until {display.moment(end)[:19]} UTC")


@alerts.command(name="test-notify", epilog="\b\nExample:  fraudstream alerts test-notify ops")
@click.argument("names", metavar="[ROUTE]...", nargs=-1)
def test_notify(names: tuple[str, ...]) -> None:
    r"""Send a test message to the routes of FRAUDSTREAM_NOTIFY_ROUTES, or to some of them.

    \b
    Exit codes:  0  all receivers accepted it
                 2  a route is unknown or wrong
                 3  a receiver did not accept it
    """
    import asyncio

    from app.notify.run import test_routes

    found = asyncio.run(test_routes(load_settings(), names))
    for name, error in found.items():
        click.echo(f"{name}: {'delivered' if error is None else f'failed, {error}'}")
    failed = [name for name, error in found.items() if error is not None]
    if failed:
        msg = f"no test message reached {', '.join(failed)}: check the URL and whether the receiver is up"
        raise UnavailableError(msg)


def _found(settings: Settings, alert_id: str) -> "Alert":
    from app.cassandra.alert_queries import find_alert
    from app.cassandra.session import connected

    with connected(settings) as session:
        alert = find_alert(session, settings, alert_id, _now_ms())
    if alert is None:
        msg = (
            f"no alert {display.printable(alert_id)}: `fraudstream alerts list --all` lists the ids"
        )
        raise NotFoundError(msg)
    return alert


def _table(found: "list[Alert]", settings: Settings) -> Iterator[str]:
    digits = settings.minor_unit_digits
    table = [["alert", "severity", "amount", "score", "card", "state", "reason"]]
    for alert in found:
        about = alert.as_dict()
        top = max(alert.transactions, key=lambda row: row["score"])
        count = len(alert.transactions)
        table.append(
            [
                alert.alert_id,
                alert.severity,
                display.amount(about["amount_minor"], digits, about["currency"]),
                f"{top['score']:.3f}",
                display.printable(alert.card_id),
                alert.state,
                _why(top) + (f" ({count} transactions)" if count > 1 else ""),
            ]
        )
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    for row in table:
        cells = [
            cell.rjust(width) if at in (2, 3) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _why(row: dict[str, Any]) -> str:
    found = [f"rule {rule}" for rule in row["rules"]] + row["reasons"]
    return display.printable(found[0]) if found else ", ".join(row["causes"])


def _lines(alert: "Alert", settings: Settings) -> Iterator[str]:
    digits, about = settings.minor_unit_digits, alert.as_dict()
    yield f"alert {alert.alert_id}"
    state = alert.state
    if done := alert.handled:
        by, at = display.printable(done["by"] or "?"), display.moment(done["at"])
        state = f"acknowledged by {by} at {at[:19]} UTC"
        state += f": {display.printable(done['note'])}" if done["note"] else ""
        if alert.todo:
            state = f"{alert.state}, {len(alert.todo):,} new transactions; the others {state}"
    elif alert.snoozed_until:
        state = f"snoozed until {display.moment(alert.snoozed_until)[:19]} UTC"
    facts = {
        "severity": alert.severity,
        "state": state,
        "card": display.printable(alert.card_id),
        "amount": display.amount(about["amount_minor"], digits, about["currency"]),
        "because": ", ".join(about["causes"]),
        "transactions": f"{len(alert.transactions):,}",
    }
    for name, text in facts.items():
        yield f"  {name:<12}  {text}"
    for row in alert.transactions[:_SHOWN]:
        yield (
            f"  {display.moment(row['event_time_ms'])[:19]}  {display.printable(row['transaction_id'])}  "
            f"{display.amount(row['amount_minor'], digits)}  score {row['score']:.3f}  "
            f"terminal {display.printable(row['terminal_id'] or '–')}"
        )
        for reason in row["reasons"]:
            yield f"    because {display.printable(reason)}"
    if len(alert.transactions) > _SHOWN:
        yield f"  ... and {len(alert.transactions) - _SHOWN:,} more: --json prints all"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
