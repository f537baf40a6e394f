"""`fraudstream quality`: how good decisions were, as labels arrive."""

import json
from typing import Any

import click

from app import formats
from app.cli.counter import counter
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
    "--from", "begin", metavar="TIME", help="Event times from here on; a date is its midnight, UTC."
)
@click.option("--to", "end", metavar="TIME", help="Event times before this.")
@click.option(
    "--by",
    type=click.Choice(["day", "model"]),
    default="day",
    show_default=True,
    help="What the lines are.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def quality(begin: str | None, end: str | None, by: str, as_json: bool) -> None:
    """Judge past decisions by the labels that have come since.

    Alerts are right, wrong or open (no label yet); missed frauds are labelled as fraud and were not called so.
    Precision and recall are of judged transactions. The average precision is worked out from scores in 2,000
    steps of log-odds. Reads both tables whole from Cassandra, in bounded memory; needs no worker.
    """
    from app.adapters.cassandra import connected
    from app.quality.measure import measure

    from_ms, to_ms = _moment("--from", begin), _moment("--to", end)
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        msg = f"--from {begin} is not before --to {end}"
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


def _moment(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    from zoneinfo import ZoneInfo

    from app.domain.transaction import DeadRecordError
    from app.records import parse_moment_ms
    from app.tools.producing.times import with_zone

    try:
        return parse_moment_ms(with_zone(text, ZoneInfo("UTC")))
    except (ValueError, DeadRecordError) as error:
        msg = f"{option}: {error}; write a time such as 2026-01-31"
        raise UsageError(msg) from None


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
