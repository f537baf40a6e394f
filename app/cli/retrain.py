"""`fraudstream retrain`: train the next model, compare it, promote it; one step per call."""

import asyncio
import json
import time
from pathlib import Path

import click

from app.cli.model_load_check import require_loadable
from app.cli.options import json_option
from app.cli.progress import stage
from app.settings import load_settings

_NOT_PASSED = 1


@click.command(
    epilog="\b\nExamples:  fraudstream retrain\n"
    "           fraudstream retrain --promote --min-new 5000\n"
    "           0 3 * * *  fraudstream retrain --promote   (crontab: every night at three)"
)
@click.option(
    "--promote",
    is_flag=True,
    help="Promote a challenger that passes the gate.  [default: only report it]",
)
@click.option(
    "--min-new",
    type=click.IntRange(min=1),
    default=1_000,
    show_default=True,
    help="Number of labelled transactions that a training needs: newer than those of the last training, and older "
    "than FRAUDSTREAM_LABEL_DELAY.",
)
@click.option(
    "--name",
    help="Name of the new model.  [default: the current model's name; `fraud` if that is `default`]",
)
@click.option(
    "--sign",
    "key",
    type=click.Path(path_type=Path),
    metavar="KEYFILE",
    help="Private key to sign the new model with; see `models sign`. A model that an earlier call trained here and "
    "left unsigned is signed, too.",
)
@json_option
def retrain(promote: bool, min_new: int, name: str | None, key: Path | None, as_json: bool) -> None:
    r"""Take the next step towards a newer model; meant for cron or a timer.

    If there is no challenger from an earlier call, the command trains a model with the same kind, features, lengths of
    periods, fixed parameters and choice of threshold as the current one, on the stored features and labels in
    Cassandra. Then the command registers the model and starts it as a shadow.

    If there is a challenger, the command compares it with the current model, as `fraudstream models gate` does. While
    there are too few labels, the challenger stays a shadow. If it does not pass, it is stopped. If it passes,
    --promote promotes it; without this option, the call only reports the pass.

    Neither step uses transactions that are younger than FRAUDSTREAM_LABEL_DELAY, because some of their labels have
    not arrived. The missing labels are mostly those of genuine transactions, so the sample would contain too much
    fraud.

    It is safe to call the command again at any time, because it reads from the log and the registry what was done.
    While one call is running, a second one does nothing and exits with 3.

    \b
    Exit codes:  0  one step is done, or there is nothing to do; the output says which
                 1  the challenger did not pass and is stopped
                 2  the current model cannot be trained again here, there is no room for a challenger, or the new model
                    lacks a signature that this deployment requires
                 3  Kafka or Cassandra does not answer, or another call is running
                 4  the current model is not registered
                 5  topics or tables are missing
    """
    from app.cassandra.session import connected
    from app.ops.retrain import retrain as run

    settings = load_settings()
    with connected(settings) as session:
        step = asyncio.run(
            run(
                settings,
                session,
                name=name,
                min_new=min_new,
                promote=promote,
                key=key,
                now_ms=time.time_ns() // 1_000_000,
                stage=stage,
                ask_workers=require_loadable,
            )
        )
    if as_json:
        click.echo(json.dumps({"did": step.did, "model": step.model, "lines": step.lines}))
    else:
        click.echo("\n".join(step.lines))
    if step.did == "refused":
        raise click.exceptions.Exit(_NOT_PASSED)
