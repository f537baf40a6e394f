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
    help="Also save predictions, labels, refunds and alerts, which topics contain only for FRAUDSTREAM_RETENTION.",
)
@json_option
def backup(folder: Path, rows: bool, as_json: bool) -> None:
    r"""Save what is only in Cassandra into a new or empty folder.

    It saves registered models and their gates, the acknowledgements, reviews and snoozes of alerts, and the audit
    records of changes and of erasures. It does not save settings, keys and user files. Workers may run.

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
    help="Restore the backup even if its keyspace has another name than FRAUDSTREAM_KEYSPACE.",
)
@json_option
def restore(folder: Path, other_keyspace: bool, as_json: bool) -> None:
    r"""Write the rows of a backup into Cassandra; run `fraudstream migrate` first if the keyspace was lost.

    Values keep their write times, so newer values in Cassandra stay. Expired rows, and rows of cards that were erased
    since the backup, are not restored. The command is safe to re-run.

    Afterwards run `fraudstream rewrite`, which writes the rows that are in topics, and then `fraudstream erase
    --again`. If the keyspace was lost, erasure records that are newer than the backup are lost, too: run `fraudstream
    erase --card ID` again for each card that was erased since.

    \b
    Exit codes:  0  everything is written
                 2  a file of the backup is damaged, or the backup is of another keyspace: nothing is written
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
