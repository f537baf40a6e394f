"""`fraudstream quality`: how good decisions were, as labels arrive."""

import json
from typing import Any

import click

from app import formats
from app.cli.counter import counter
from app.cli.options import json_option, moment_ms
from app.errors import UsageError
from app.settings import load_settings

_COLUMNS = {
    "transactions": "scored",
    "judged_share": "judged",
    "frauds": "frauds",
    "alerts": "alerts",
    "right": "right",
    "wrong": "wrong",
    "not_judged_yet": "open",
    "missed": "missed",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "avg prec.",
}
_SHARES = ("judged_share", "precision", "recall", "average_precision")


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
    help="Event times from here on; a date is its midnight, UTC.",
)
@click.option("--to", "to_ms", metavar="TIME", callback=moment_ms, help="Event times before this.")
@click.option(
    "--by",
    type=click.Choice(["day", "model"]),
    default="day",
    show_default=True,
    help="What the lines are.",
)
@json_option
def quality(from_ms: int | None, to_ms: int | None, by: str, as_json: bool) -> None:
    """Judge past decisions by the labels that have come since.

    Alerts are right, wrong or open (no label yet); missed frauds are labelled as fraud and were not called so.
    Precision and recall are of judged transactions. The average precision is worked out from scores in 2,000
    steps of log-odds. Reads both tables whole from Cassandra, in bounded memory; needs no worker.
    """
    from app.cassandra.session import connected
    from app.quality.measure import measure

    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        msg = f"--from {formats.iso(from_ms)} is not before --to {formats.iso(to_ms)}"
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
    lines = [f"{by:<{width}} " + "".join(f"{head:>10}" for head in _COLUMNS.values())]
    for name, group in groups.items():
        cells = (_cell(column, group[column]) for column in _COLUMNS)
        lines.append(
            formats.printable(f"{name:<{width}} ") + "".join(f"{cell:>10}" for cell in cells)
        )
    if not result["labels"]:
        lines.append(
            "no labels have come yet: `fraudstream label` and `produce --labels` send them"
        )
    return lines


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if column in _SHARES else f"{value:,.0f}"
