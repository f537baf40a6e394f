"""`fraudstream quality`: evaluate decisions as labels arrive."""

import json
from typing import Any

import click

from app import display
from app.cli.options import json_option, moment_ms
from app.cli.progress import counter
from app.errors import UsageError
from app.settings import load_settings

_COLUMNS = {
    "transactions": "scored",
    "labelled_share": "labelled",
    "frauds": "frauds",
    "alerts": "flagged",
    "true_positives": "true pos.",
    "false_positives": "false pos.",
    "unlabelled_alerts": "unlabelled",
    "missed": "missed",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "avg prec.",
}
_SHARES = ("labelled_share", "precision", "recall", "average_precision")


@click.command(
    epilog="\b\nExamples:  fraudstream quality\n"
    "           fraudstream quality --from 2026-01-01 --to 2026-02-01 --by model\n"
    "           fraudstream quality --json > quality.json"
)
@click.option(
    "--from",
    "from_ms",
    metavar="TIME",
    callback=moment_ms,
    help="Start of the period, as an event time; a date means midnight UTC.  [default: everything stored; the page "
    "/quality/ shows the last 30 days]",
)
@click.option(
    "--to",
    "to_ms",
    metavar="TIME",
    callback=moment_ms,
    help="End of the period (exclusive).  [default: the newest]",
)
@click.option(
    "--by",
    type=click.Choice(["day", "model"]),
    default="day",
    show_default=True,
    help="Print figures per day or per model.",
)
@json_option
def quality(from_ms: int | None, to_ms: int | None, by: str, as_json: bool) -> None:
    """Evaluate the models' decisions by the labels that have arrived since.

    Flagged transactions are true positives, false positives or unlabelled. A missed fraud is labelled as
    fraud, but was not flagged. Precision and recall are computed over labelled transactions. The average precision is
    computed from scores rounded to 2,000 steps of log-odds. The command reads the tables `predictions` and `labels`,
    and needs no worker.
    """
    from app.cassandra.session import connected
    from app.quality.measure_decisions import measure

    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        msg = f"--from {display.iso(from_ms)} is not before --to {display.iso(to_ms)}"
        raise UsageError(msg)
    settings = load_settings()
    with connected(settings) as session, counter("reading") as show:
        result = measure(
            session,
            settings,
            from_ms=from_ms,
            to_ms=to_ms,
            progress=lambda _text, count: show(count),
        )
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo("\n".join(_lines(result, by)))


def _lines(result: dict[str, Any], by: str) -> list[str]:
    groups = {**result[f"by_{by}"], "all": result["total"]}
    width = max(len(by), *map(len, groups))
    lines = [f"{by:<{width}} " + "".join(f"{head:>11}" for head in _COLUMNS.values())]
    for name, group in groups.items():
        cells = (_cell(column, group[column]) for column in _COLUMNS)
        lines.append(
            display.printable(f"{name:<{width}} ") + "".join(f"{cell:>11}" for cell in cells)
        )
    if not result["labels"]:
        lines.append(
            "no labels have arrived yet: send them with `fraudstream label` or `produce --labels`"
        )
    return lines


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if column in _SHARES else f"{value:,.0f}"
