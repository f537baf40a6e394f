"""`fraudstream rebuild`: check that the workers' state equals what a new worker would build."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click

from app import display
from app.cli.options import examples_option, json_option
from app.cli.progress import stages
from app.errors import VerificationError
from app.settings import load_settings


@click.command(
    epilog="\b\nExamples:  fraudstream rebuild\n"
    "           fraudstream rebuild --from-source\n"
    "           fraudstream rebuild --datadir /var/lib/fraudstream/6066 --json"
)
@click.option(
    "--datadir",
    "folders",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="State folder of a worker on this machine; repeatable.  [default: FRAUDSTREAM_HOME/workers, and "
    "FRAUDSTREAM_DATADIR]",
)
@click.option(
    "--from-source",
    is_flag=True,
    help="Rebuild the copy from `transactions` and `enriched` instead of the changelogs.",
)
@examples_option
@json_option
def rebuild(folders: tuple[Path, ...], from_source: bool, examples: int, as_json: bool) -> None:
    r"""Check the workers' state: rebuild a copy from the changelogs, and compare it with the stores on this machine.

    The state is one RocksDB database (a store) per partition and table. Workers may run: each store is read as a
    snapshot, without its lock, and its table is rebuilt up to the store's offset. The command writes only scratch
    files.

    \b
    Exit codes:  0  all rows are bit-identical
                 4  there is no worker state here
                 6  rows differ
    """
    from app.ops.rebuild import rebuild as run

    settings = load_settings()
    if not folders:
        own = [settings.home / "workers", *([settings.datadir] if settings.datadir else [])]
        folders = tuple(folder for folder in own if folder.is_dir()) or tuple(own)
    with stages() as progress:
        done = asyncio.run(run(settings, folders, from_source=from_source, progress=progress))
    shown = [asdict(each) for each in done.differing[:examples]]
    if as_json:
        report = {
            "rows": done.rows,
            "differing": len(done.differing),
            "in_flight": done.in_flight,
            "records": done.records,
            "seconds": round(done.seconds, 3),
            "records_per_second": round(done.rate),
            "offsets": done.offsets,
            "left_out": done.left_out,
            "examples": shown,
        }
        click.echo(json.dumps(report, default=str))
    else:
        what = "source" if from_source else "changelog"
        click.echo(
            f"{done.rows:>12,}  cards, terminals and parked labels compared, {len(done.differing):,} differ"
        )
        if done.in_flight:
            click.echo(f"{done.in_flight:>12,}  left out because they were being changed")
        click.echo(
            f"{done.records:>12,}  {what} records read, {done.rate:,.0f} per second; up to offsets "
            + ", ".join(f"{where} {offset:,}" for where, offset in done.offsets.items())
        )
        for where, why in done.left_out.items():
            click.echo(f"left out: {where}: {why}")
        for each in done.differing[:examples]:
            click.echo(
                display.printable(
                    f"{each.where} {each.key}: {each.field} is {each.one!r}, rebuilt {each.other!r}"
                )
            )
    if done.differing:
        msg = (
            f"{len(done.differing):,} of {done.rows:,} rows differ from the rebuilt ones: stop the worker, delete "
            "its state folder and start it again; it then rebuilds the state from the changelog"
        )
        raise VerificationError(msg)
