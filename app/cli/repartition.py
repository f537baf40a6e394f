"""`fraudstream repartition`: change the number of partitions of a deployment, with its state."""

import asyncio
import json

import click

from app.cli.options import json_option
from app.cli.progress import stages
from app.errors import UsageError
from app.settings import load_settings


@click.command(
    epilog="\b\nExamples:  fraudstream repartition --to 16\n"
    "           FRAUDSTREAM_PARTITIONS=16 FRAUDSTREAM_GENERATION=2 fraudstream repartition --finish"
)
@click.option("--to", "count", type=click.IntRange(2, 1024), help="New number of partitions.")
@click.option(
    "--finish",
    "finishing",
    is_flag=True,
    help="Delete the changelogs of earlier generations, once workers run with the new settings.",
)
@json_option
def repartition(count: int | None, finishing: bool, as_json: bool) -> None:
    r"""Change the number of partitions, and move the state to them; nothing is scored again.

    Run it with the settings of the workers, after you have paused producers and stopped the workers. It refuses
    to run while the consumer group has members, or while unprocessed records remain. It creates `enriched` and the
    changelogs of the next generation, moves each card and terminal to the partition of its key, reads the result
    back, and then adds partitions to the other topics. It is safe to re-run after an interruption.

    Afterwards start the workers with the two settings that it prints.

    \b
    Exit codes:  0  done, or done before
                 2  workers run, unprocessed records remain, or the number is not larger
                 3  Kafka does not answer, or refuses
                 5  topics are missing or differ
                 70 the changelogs do not match the topics
    """
    from app.ops.repartition import finish
    from app.ops.repartition import repartition as run

    settings = load_settings()
    if finishing == (count is not None):
        msg = "give either --to NUMBER or --finish"
        raise UsageError(msg)
    if count is None:
        deleted = asyncio.run(finish(settings))
        if as_json:
            click.echo(json.dumps({"deleted": deleted}))
        else:
            click.echo(f"deleted: {', '.join(deleted) or 'nothing, they were gone'}")
        return
    with stages() as progress:
        done = asyncio.run(run(settings, count, progress=progress))
    if as_json:
        click.echo(json.dumps(done.as_dict()))
        return
    if done.resumed:
        click.echo("the state had been moved; partitions were added to the topics that lacked them")
    else:
        click.echo(
            f"{done.cards:,} cards, {done.terminals:,} terminals and {done.parked_labels:,} parked labels moved to "
            f"{done.partitions} partitions ({done.seconds:.1f} s)"
        )
    click.echo(
        f"Start all workers, and run all commands, with FRAUDSTREAM_PARTITIONS={done.partitions} and "
        f"FRAUDSTREAM_GENERATION={done.generation}. Later, delete the old changelogs with "
        "`fraudstream repartition --finish`."
    )
