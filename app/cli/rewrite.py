"""`fraudstream rewrite`: write rows that Cassandra has lost again, from the topics that have them."""

import asyncio
import json

import click

from app.cli.options import json_option
from app.cli.progress import stages
from app.errors import UnavailableError
from app.settings import load_settings


@click.command(
    epilog="\b\nExamples:  fraudstream rewrite\n"
    "           fraudstream rewrite --from 2026-11-29T12:00Z --to 2026-11-29T12:10Z\n"
    "           fraudstream rewrite --from 0:120000,1:118000 --json"
)
@click.option(
    "--from",
    "begin",
    metavar="TIME|OFFSET",
    help="Start: when a record was appended to its topic (a date means midnight UTC), or an offset of `predictions`, "
    "for every partition or as PARTITION:OFFSET[,...].  [default: the beginning of the log]",
)
@click.option(
    "--to",
    "end",
    metavar="TIME|OFFSET",
    help="End (exclusive), in the same notation.  [default: the end of the log]",
)
@json_option
def rewrite(begin: str | None, end: str | None, as_json: bool) -> None:
    r"""Write rows of the tables `predictions`, `refunds`, `alerts` and `labels` again, from the topics that have them.

    Use it when Cassandra has lost rows: after `verify` reported missing rows, or after `migrate` created a dropped
    table or column again. Workers may run. It is safe to re-run: an existing row is replaced by the same row, and its
    time to live starts again. An interrupted run prints where to continue. A range of offsets applies to predictions
    only; refunds, alerts and labels are nevertheless written in full.

    \b
    Exit codes:  0  all rows of the range are written
                 2  the range is empty
                 3  Kafka or Cassandra does not answer
                 5  topics or tables are missing
    """
    from app.cli.replay import bound_of
    from app.ops.rewrite import Rewritten
    from app.ops.rewrite import rewrite as run

    settings = load_settings()
    low = None if begin is None else bound_of("--from", begin)
    high = None if end is None else bound_of("--to", end)
    report = Rewritten()
    try:
        with stages() as progress:
            asyncio.run(run(settings, low, high, progress=progress, report=report))
    except BaseException as error:
        if not report.rest or not report.rows:
            raise
        onwards = f"{report.rows:,} rows are written; continue with `fraudstream rewrite --from {report.rest}"
        onwards += (
            "`"
            if end is None
            else f" --to {','.join(f'{n}:{e}' for n, e in enumerate(report.ends))}`"
        )
        if isinstance(error, UnavailableError):
            raise type(error)(f"{error}; {onwards}") from error
        click.echo(f"fraudstream: {onwards}", err=True)
        raise
    if as_json:
        click.echo(json.dumps(report.as_dict()))
        return
    click.echo(
        f"{report.rows:,} rows written from {report.records:,} predictions, {report.refunds:,} of refunds, "
        f"{report.alerts:,} of alerts, {report.labels:,} of labels ({report.seconds:.1f} s)"
    )
    if others := report.records - report.rows:
        click.echo(f"{others:,} predictions of other deployments were left out")
