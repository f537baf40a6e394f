"""`fraudstream train`: train a model and evaluate it."""

import json
import time
from pathlib import Path
from typing import Any

import click

from app.cli import model_text
from app.cli.options import POSITIVE, POSITIVE_FLOAT, check_kind, json_option, parameters_option
from app.cli.progress import stage
from app.cli.train_periods import period_options, periods_of
from app.cli.train_sources import check_source, source_options, transactions_of
from app.errors import UsageError
from app.settings import load_settings


@click.command(
    epilog="\b\nExamples:  fraudstream train\n"
    "           fraudstream train --name shop --from-file history.csv.gz --alerts-per-day 50\n"
    "           FRAUDSTREAM_FEATURES=engineered fraudstream train --from-cassandra --kind histgb\n"
    "           fraudstream train --from-file fraudTrain.csv --recipe sparkov --name sparkov\n"
    "           fraudstream train --from-file payments.parquet --map card_id=PAN,amount=VALUE --label CHARGED_BACK\n"
    "           FRAUDSTREAM_FEATURES=handbook,label_free \\\n"
    "             fraudstream train --from-file history.parquet --kind histgb --features handbook --anomaly \\\n"
    "             --train-from 2018-05-01 --train-to 2018-08-01 --test-from 2018-08-08 --test-to 2018-08-15 \\\n"
    "             --plots report"
)
@source_options
@click.option(
    "--name",
    default="fraud",
    show_default=True,
    help="Name of the model; each training creates its next version.",
)
@click.option(
    "--kind",
    default="logistic",
    show_default=True,
    help="Kind of model: logistic, histgb, forest, or blend (of histgb and forest).",
)
@click.option(
    "--features",
    metavar="SET",
    help="Feature set to learn from; FRAUDSTREAM_FEATURES must contain it.  [default: all of FRAUDSTREAM_FEATURES]",
)
@period_options
@click.option(
    "--anomaly/--no-anomaly",
    default=False,
    show_default=True,
    help="Add an isolation forest for anomaly scores.",
)
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the report's plots as SVG files into this folder; needs matplotlib.",
)
@click.option(
    "--alerts-per-day",
    type=POSITIVE_FLOAT,
    metavar="N",
    help="Choose the threshold to flag about N transactions per day.  [default: best F1]",
)
@parameters_option
@click.option(
    "--weeks",
    type=POSITIVE,
    default=1,
    show_default=True,
    help="Number of test weeks from --test-from on; the model is retrained for each week.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the model.  [default: FRAUDSTREAM_HOME/models/NAME-VERSION]",
)
@json_option
@click.pass_context
def train(context: click.Context, **options: Any) -> None:
    """Train a model, and evaluate it on transactions that it was not trained on.

    Features are computed by the same code as in the stream. The oldest 60 % of the transactions are the training set,
    the next 20 % are the validation set for parameters and threshold, and the newest 20 % are the test set. This
    split has no gap, so --delay does not apply to it.

    The options --train-from, --train-to, --test-from and --test-to replace this split: the last week of the training
    period is then the validation set. One of --train-to and --test-from is required; the other is computed from it
    with --delay. Dates are in UTC, and end dates are exclusive.

    The transactions come from a file, from Kafka or from Cassandra; without one of these options they are
    simulated. Options for files are those of `fraudstream produce`. Every row must be a valid transaction with
    a label; --skip-bad skips and counts the others.
    """
    from app.ops import train as tool
    from app.ops.feature_choice import choose_features
    from app.ops.training_plots import check_plots, draw_plots

    check_kind(options["kind"])
    check_source(context)
    settings = load_settings()
    choose_features(settings, options["features"])
    if options["plots"]:
        check_plots(options["plots"])
    version, folder = tool.place(settings, options["name"], options["out"])
    columns, kinds, source = transactions_of(settings, options)
    periods = periods_of(options, columns.event_time_ms, settings.label_delay)
    if options["weeks"] > 1 and periods is None:
        msg = "--weeks needs --test-from"
        raise UsageError(msg)
    trained = tool.train(
        columns,
        settings,
        tool.TrainingOptions(
            folder=folder,
            name=options["name"],
            version=version,
            kind=options["kind"],
            seed=options["seed"],
            alerts_a_day=options["alerts_per_day"],
            features=options["features"],
            periods=periods,
            anomaly=options["anomaly"],
            source=source,
            fixed=options["parameters"],
            weeks=options["weeks"],
        ),
        now_ms=time.time_ns() // 1_000_000,
        kinds_of_fraud=kinds,
        stage=stage,
    )
    if options["plots"]:
        draw_plots(options["plots"], trained)
    if options["as_json"]:
        click.echo(json.dumps(model_text.described(trained.folder, trained.manifest)))
        return
    by_name = trained.folder.parent == settings.home / "models"
    model = f"{trained.manifest.name}@{trained.manifest.version}"
    use = model if by_name else str(trained.folder.resolve())
    click.echo("\n".join(model_text.report(trained.folder, trained.manifest, use)))
    if options["plots"]:
        click.echo(f"Plots: {options['plots']}")
