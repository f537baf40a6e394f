"""`fraudstream backup` and `fraudstream restore`: what is in Cassandra and in no topic."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from app.cli.options import json_option
from app.cli.progress import stages
from app.settings import load_settings

if TYPE_CHECKING:
    from app.ops.backup_folder import Backup


@click.command(epilog="\b\nExample:  fraudstream backup /backups/2026-11-30")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--rows",
    is_flag=True,
    help="Also predictions, labels, refunds and alerts: topics have them only for FRAUDSTREAM_RETENTION.",
)
@json_option
def backup(folder: Path, rows: bool, as_json: bool) -> None:
    r"""Save what is only in Cassandra into a new or empty folder.

    It saves registered models and their gates, acknowledgements, reviews and snoozes of alerts, and the audit records
    of changes and of erasures. Workers may run. Settings, keys and user files are not included.

    \b
    Exit codes:  0  everything is saved
                 2  the folder is not empty
                 3  Cassandra does not answer, or the folder cannot be written
                 5  tables are missing
    """
    from app.ops.backup_folder import backup as run

    settings = load_settings()
    with stages() as progress:
        saved = run(settings, folder, rows=rows, progress=progress)
    _tell(saved, as_json=as_json)
    if not as_json:
        click.echo(f"saved in {folder}")


@click.command(epilog="\b\nExample:  fraudstream restore /backups/2026-11-30")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--other-keyspace",
    is_flag=True,
    help="Also restore a backup of a keyspace of another name than FRAUDSTREAM_KEYSPACE.",
)
@json_option
def restore(folder: Path, other_keyspace: bool, as_json: bool) -> None:
    r"""Write the rows of a backup into Cassandra; run `fraudstream migrate` first if the keyspace was lost.

    Each value keeps its time of writing, so newer values stay. It is safe to re-run. Rows whose time to
    live has ended, and rows of cards that were erased since, are not written. Then run `fraudstream rewrite`, which
    writes the rows that topics have, and `fraudstream erase --again`. If the keyspace was lost, run
    `fraudstream erase --card ID` again for each card that was erased after the backup: the erasure record is lost, too.

    \b
    Exit codes:  0  everything is written
                 2  a file of the backup is damaged, or it is of another keyspace: nothing is written
                 3  Cassandra does not answer
                 4  the folder has no backup
                 5  tables or columns are missing
    """
    from app.ops.backup_folder import restore as run

    settings = load_settings()
    with stages() as progress:
        saved = run(settings, folder, other_keyspace=other_keyspace, progress=progress)
    _tell(saved, as_json=as_json)
    if not as_json:
        click.echo(f"restored what was saved at {saved.when}")


def _tell(saved: "Backup", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(saved)))
        return
    for name, table in saved.tables.items():
        left_out = f" ({table.erased:,} left out: their cards were erased)" if table.erased else ""
        click.echo(f"{table.rows:>10,}  {name}{left_out}")
