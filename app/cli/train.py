"""`fraudstream train` makes a model, `fraudstream models` shows those that there are."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli import model_text
from app.cli.counter import counter
from app.cli.file_options import rounding_of, zone_of
from app.cli.simulation_options import POSITIVE, simulation_options
from app.cli.train_periods import delay_ms, moment_ms, numbers_of, periods_of
from app.errors import UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.tools.train import Labelled
    from models.examples import Examples

#: 2025-01-01: a fixed beginning, so that equal seeds give equal models on any day.
_SIMULATED_FROM_MS = 1_735_689_600_000
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command(
    epilog="\b\nExamples:  fraudstream train\n"
    "           fraudstream train --name shop --from-file history.csv.gz --alerts-per-day 50\n"
    "           fraudstream train --from-cassandra --kind histgb --features engineered\n"
    "           fraudstream train --from-file handbook.csv.gz --assume-zone UTC --round-amounts --label TX_FRAUD \\\n"
    "             --map transaction_id=TRANSACTION_ID --map card_id=CUSTOMER_ID \\\n"
    "             --map terminal_id=TERMINAL_ID --map amount=TX_AMOUNT --map event_time=TX_DATETIME\n"
    "           fraudstream train --from-file history.parquet --kind histgb --features handbook --anomaly \\\n"
    "             --train-from 2018-05-01 --train-to 2018-08-01 --test-from 2018-08-08 --test-to 2018-08-15 \\\n"
    "             --plots report"
)
@click.option(
    "--from-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Labelled transactions: .csv, .jsonl (both also .gz) or .parquet.  [default: simulate]",
)
@click.option(
    "--from-kafka",
    is_flag=True,
    help="Learn from what was scored and has a label: the topics predictions and labels.",
)
@click.option("--from-cassandra", is_flag=True, help="The same from the tables of Cassandra.")
@click.option(
    "--label",
    metavar="COLUMN",
    help="Column that says what is fraud, 0 or 1.  [default: is_fraud or TX_FRAUD]",
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Take a field from this column; repeatable.",
)
@click.option(
    "--assume-zone",
    metavar="ZONE",
    help="Time zone of event times that name none, such as UTC.  [default: refuse them]",
)
@click.option(
    "--round-amounts",
    is_flag=True,
    help="Round amounts to the currency's minor units, half to even.  [default: refuse them]",
)
@simulation_options(
    cards=2_000, terminals=4_000, days=90, seed="Equal seeds and options give equal models."
)
@click.option(
    "--name", default="fraud", show_default=True, help="Name; each training is its next version."
)
@click.option(
    "--kind",
    default="logistic",
    show_default=True,
    help="Kind of model: logistic, histgb, forest or blend (of the last two).",
)
@click.option(
    "--features",
    metavar="SET",
    help="Feature set to learn from; FRAUDSTREAM_FEATURES must name it.  [default: all of those]",
)
@click.option(
    "--train-from",
    metavar="DATE",
    callback=moment_ms,
    help="Learn from transactions from here on.  [default: the first]",
)
@click.option(
    "--train-to",
    metavar="DATE",
    callback=moment_ms,
    help="Learn from those before this; the last week of them chooses.  [default: test-from less delay]",
)
@click.option(
    "--test-from",
    metavar="DATE",
    callback=moment_ms,
    help="Judge by transactions from here on.  [default: train-to and delay]",
)
@click.option(
    "--test-to",
    metavar="DATE",
    callback=moment_ms,
    help="Judge by those before this.  [default: the last]",
)
@click.option(
    "--delay",
    metavar="DURATION",
    callback=delay_ms,
    help="How long labels take, left between training and test.  [default: FRAUDSTREAM_LABEL_DELAY]",
)
@click.option(
    "--anomaly/--no-anomaly",
    default=False,
    show_default=True,
    help="Add an isolation forest, which gives anomaly scores.",
)
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw the report as SVG files into this folder; needs matplotlib.",
)
@click.option(
    "--alerts-per-day",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Choose the threshold so that about N a day are called fraud.  [default: best F1]",
)
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=numbers_of,
    help="Give a parameter by scikit-learn's name, such as C=1, instead of choosing; repeatable.",
)
@click.option(
    "--weeks",
    type=POSITIVE,
    default=1,
    show_default=True,
    help="Judge by so many weeks from --test-from on, each by a model trained anew that much later.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the model.  [default: HOME/models/NAME-VERSION]",
)
@_json
@click.pass_context
def train(context: click.Context, **options: Any) -> None:
    """Train a model, and report how it does on transactions that it has never seen.

    The features are those of the stream, by the same code. The oldest 60 % are learned from, the
    next 20 % choose parameters and threshold, the newest 20 % are what the report is about. Or give
    periods: dates are UTC, and each end is the first moment that is not in its period.
    """
    from app.tools import train as tool
    from app.tools.feature_choice import choose_features
    from app.tools.training_plots import check_plots, draw_plots
    from models.training import KINDS

    if options["kind"] not in KINDS:
        msg = f"--kind {options['kind']!r}: there are {', '.join(KINDS)}"
        raise UsageError(msg)
    _check(context)
    settings = load_settings()
    choose_features(settings, options["features"])
    if options["plots"]:
        check_plots()
    version, folder = tool.place(settings, options["name"], options["out"])
    columns, kinds, source = _transactions(settings, options)
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
        stage=_stage,
    )
    if options["plots"]:
        draw_plots(options["plots"], trained)
    if options["as_json"]:
        click.echo(json.dumps(model_text.described(trained.folder, trained.manifest)))
        return
    by_name = trained.folder.parent == settings.home / "models"
    use = trained.manifest.name if by_name else str(trained.folder.resolve())
    click.echo("\n".join(model_text.report(trained.folder, trained.manifest, use)))
    if options["plots"]:
        click.echo(f"Plots: {options['plots']}")


@click.command(
    epilog="\b\nExamples:  fraudstream models\n           fraudstream models show default"
)
@click.argument("words", nargs=-1, metavar="[show MODEL]")
@_json
def models(words: tuple[str, ...], as_json: bool) -> None:
    """List the models, or show one: a name (its newest version), name@version, hash or folder."""
    from models.holder import registry_of

    settings = load_settings()
    registry = registry_of(settings)
    if words:
        if len(words) != 2 or words[0] != "show":
            msg = "`fraudstream models` lists, `fraudstream models show MODEL` shows one"
            raise UsageError(msg)
        folder, manifest = registry.find(words[1])
        if as_json:
            click.echo(json.dumps(model_text.described(folder, manifest)))
        else:
            click.echo("\n".join(model_text.details(folder, manifest)))
        return
    entries, damaged = registry.scan()
    if as_json:
        listed = [model_text.listed(entry) for entry in entries]
        click.echo(json.dumps({"models": listed, "damaged": damaged, "used": settings.model}))
        return
    click.echo("\n".join(model_text.table(entries)))
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)


_SOURCES = ("from_file", "from_kafka", "from_cassandra")
_FILE_OPTIONS = ("label", "mapping", "assume_zone", "round_amounts")


def _check(context: click.Context) -> None:
    """Refuse options that would be ignored: half of them are for files, half for the simulation.

    Raises:
        UsageError: such an option is given.
    """
    given = [f"--{name.replace('_', '-')}" for name in _SOURCES if context.params[name]]
    if len(given) > 1:
        msg = f"{given[0]} does not go with {given[1]}"
        raise UsageError(msg)
    from_file = context.params["from_file"] is not None
    simulated = ("cards", "terminals", "days")
    for name in (*(simulated if given else ()), *(() if from_file else _FILE_OPTIONS)):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = "map" if name == "mapping" else name.replace("_", "-")
            goes = f"does not go with {given[0]}" if name in simulated else "needs --from-file"
            msg = f"--{option} {goes}"
            raise UsageError(msg)


def _transactions(
    settings: Settings, options: dict[str, Any]
) -> tuple["Labelled | Examples", Any, dict[str, Any]]:
    """Labelled transactions, kinds of fraud where they are known, and where they came from."""
    if options["from_kafka"] or options["from_cassandra"]:
        return _stored(settings, from_kafka=options["from_kafka"])
    path = options["from_file"]
    if path is None:
        from app.tools.simulate import SimulationConfig, simulate

        source = {name: options[name] for name in ("cards", "terminals", "days", "seed")}
        config = SimulationConfig(
            **source,
            start_ms=_SIMULATED_FROM_MS,
            currency=settings.currency,
            minor_digits=settings.minor_unit_digits,
        )
        drawn = simulate(config)
        return drawn, drawn.fraud_kind, {"simulated": source}

    from app.tools.labelled import read_labelled

    with _stage(f"reading {path.name}", path.stat().st_size if path.exists() else 0) as tell:
        columns = read_labelled(
            path,
            settings,
            label=options["label"],
            mapping=_mapping(options["mapping"]),
            zone=zone_of(options["assume_zone"]),
            rounding=rounding_of(settings, wanted=options["round_amounts"]),
            progress=tell,
        )
    source = {"file": path.name}
    if columns.rounded:
        source["rounded_amounts"] = columns.rounded
    return columns, None, source


def _stored(settings: Settings, *, from_kafka: bool) -> tuple["Examples", None, dict[str, Any]]:
    from app.tools import stored

    place = "Kafka" if from_kafka else "Cassandra"
    with _stage(f"reading {place}", 0) as tell:
        if from_kafka:
            examples = asyncio.run(stored.from_kafka(settings, tell))
        else:
            examples = stored.from_cassandra(settings, tell)
    return examples, None, {"stored_in": place}


@contextmanager
def _stage(text: str, length: int) -> Iterator[Callable[[int], None]]:
    with counter(text, length) as show:
        yield lambda done: show(done, None)


def _mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            msg = f"--map {pair}: write FIELD=COLUMN, such as card_id=CUSTOMER_ID"
            raise UsageError(msg)
        mapping[name] = column
    return mapping
