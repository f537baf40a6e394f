"""`fraudstream card`, `terminal` and `transaction`: show one of them."""

import json
from collections.abc import Mapping
from typing import Any

import click
import orjson

from app import display
from app.cli.ask_worker import ask
from app.cli.options import json_option, valid_id
from app.domain.decision import decision_of
from app.errors import NotFoundError
from app.settings import Settings, load_settings
from app.stages.deployed_features import catalogue_of

_url = click.option(
    "--url",
    metavar="URL",
    help="A worker's web address.  [default: FRAUDSTREAM_WEB_HOST and FRAUDSTREAM_WEB_PORT, then any worker of "
    "this FRAUDSTREAM_HOME]",
)


@click.command(
    epilog="\b\nExample:  fraudstream card c1017\n"
    "          fraudstream card c1017 --json --url http://127.0.0.1:6067"
)
@click.argument("card_id")
@_url
@json_option
def card(card_id: str, url: str | None, as_json: bool) -> None:
    """Show the state of a card: its windows and newest transactions.

    Any running worker can answer: it forwards the request to the worker that has the card's partition. Equal state
    gives byte-identical JSON, so you can compare the output before and after the state is
    restored from the changelogs.
    """
    _show_key("card", card_id, url, as_json)


@click.command(epilog="\b\nExample:  fraudstream terminal t42")
@click.argument("terminal_id")
@_url
@json_option
def terminal(terminal_id: str, url: str | None, as_json: bool) -> None:
    """Show the state of a terminal: its windows and newest transactions.

    Any running worker can answer: it forwards the request to the worker that has the terminal's partition.
    """
    _show_key("terminal", terminal_id, url, as_json)


@click.command(epilog="\b\nExample:  fraudstream transaction 7f3a-0001 --json")
@click.argument("transaction_id")
@json_option
def transaction(transaction_id: str, as_json: bool) -> None:
    """Show a scored transaction: decision, reasons, features. Read from Cassandra; needs no worker.

    Several transactions may have the same id: on different cards, or with a different time or amount. All are shown.
    With --json, the object is the transaction with the newest event time, and its field `others` has the other ones.
    """
    from app.cassandra.prediction_queries import find_transaction

    settings = load_settings()
    found = find_transaction(settings, valid_id(transaction_id))
    if found is None:
        msg = f"no transaction {transaction_id!r} has been scored and stored"
        raise NotFoundError(msg)
    if as_json:
        import orjson

        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    rows = [found, *found["others"]]
    if len(rows) > 1:
        click.echo(f"{len(rows)} transactions have the id {display.printable(transaction_id)}")
    for row in rows:
        _print_transaction(row, settings)


def _show_key(kind: str, identifier: str, url: str | None, as_json: bool) -> None:
    body = ask(load_settings(), kind, identifier, url)
    if as_json:
        click.echo(body, nl=False)
        return
    _print_key(json.loads(body))


def _print_key(state: dict[str, Any]) -> None:
    kind, digits, currency = state["kind"], state["minor_unit_digits"], state["currency"]
    late = f" ({state['late_entries']:,} late)" if state["late_entries"] else ""
    _facts(
        f"{kind} {display.printable(state['id'])}",
        {
            "retained": f"{state['entries']:,} transactions{late}",
            "newest": display.moment(state["newest_event_time_ms"]),
            "evicted up to": display.moment(state["floor_ms"]),
            "exact": "yes" if state["exact"] else "no: some windows lack evicted transactions",
            "partition": f"{state['partition']}, last offset applied {state['last_offset']:,}",
        },
    )
    if not state["entries"]:
        return
    averages = kind == "card"
    table = _table(
        ["window", "transactions", f"sum {currency}", *([f"average {currency}"] * averages)],
        ["exact"],
    )
    for one in state["windows"]:
        cells = [
            one["window"],
            f"{one['transactions']:,}",
            display.amount(one["amount_minor"], digits),
        ]
        if averages:
            cells.append(display.average(one["average"], digits))
        table.add_row(*cells, "yes" if one["exact"] else "no")
    _print(table)
    table = _table(["event time (UTC)", f"amount {currency}"], ["", "hash of its id"])
    for entry in state["newest_entries"]:
        table.add_row(
            display.moment(entry["event_time_ms"]),
            display.amount(entry["amount_minor"], digits),
            "" if entry["counted"] else "late",
            entry["transaction_hash"],
        )
    _print(table)


def transaction_facts(row: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """What is shown of a scored transaction besides reasons and features, in order.

    Args:
        row: as `app.cassandra.prediction_queries.find_transaction` gives it.
        settings: currency and its digits.
    """
    digits = settings.minor_unit_digits
    flagged = "flagged" if row["is_fraud"] else "not flagged"
    label, odd = row.get("label"), row.get("anomaly_score")
    known = "none yet"
    if label is not None:
        what = "fraud" if label["is_fraud"] else "genuine"
        known = f"{what}, since {display.moment(label['labelled_at'])} UTC"
    facts = {
        "decision": decision_of(row).text,
        "model said": f"{flagged}: score {row['score']:.6g}, threshold {row['threshold']:.6g}",
        **({"rules": ", ".join(row["rules"])} if row.get("rules") else {}),
        **({} if odd is None else {"anomaly": f"score {odd:.6g}; not used for the decision"}),
        "label": known,
        **({"alert": row["alert_id"]} if row.get("alert_id") else {}),
        "amount": display.amount(row["amount_minor"], digits, settings.currency),
        "event time": f"{display.moment(row['event_time_ms'])} UTC",
        "card": display.printable(row["card_id"]),
        "terminal": display.printable(row["terminal_id"] or "–"),
        "flags": ", ".join(row["flags"]) or "none: in time, in order, exact",
        "model": f"{row['model_version']} {row['model_hash']}",
        "source": "/".join(
            str(row[name]) for name in ("source_topic", "source_partition", "source_offset")
        ),
    }
    facts |= {
        display.printable(name): display.printable(orjson.dumps(value).decode())
        for name, value in (row.get("extra") or {}).items()
    }
    return facts


def _print_transaction(row: Mapping[str, Any], settings: Settings) -> None:
    title = f"transaction {display.printable(row['transaction_id'])}"
    _facts(title, transaction_facts(row, settings))
    for reason in row["reasons"]:
        click.echo(f"  because {display.printable(reason)}")
    table = _table(["feature", "value"], ["unit"])
    catalogue = catalogue_of(settings)
    units = {feature.name: feature.unit for feature in catalogue.columns}
    for name, value in display.in_order(row["features"], catalogue.names):
        table.add_row(name, display.value(value), units.get(name, ""))
    _print(table)


def _facts(title: str, facts: dict[str, str]) -> None:
    click.echo(title)
    width = max(map(len, facts))
    for name, text in facts.items():
        click.echo(f"  {name:<{width}}  {text}")


def _table(numbers: list[str], texts: list[str]) -> Any:
    """A table without lines: the first column names, further `numbers` align right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for index, name in enumerate(numbers):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for name in texts:
        table.add_column(name, no_wrap=True)
    return table


def _print(table: Any) -> None:
    from rich.console import Console
    from rich.padding import Padding

    Console(highlight=False, markup=False).print(Padding(table, (1, 0, 0, 2), expand=False))
