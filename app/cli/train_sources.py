"""Where the labelled transactions of `fraudstream train` come from: its options, and the transactions."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.file_options import (
    FILE_PARAMETERS,
    file_options,
    given,
    named,
    read_as,
    words_and_pairs,
)
from app.cli.options import simulation_options, together
from app.cli.progress import stage
from app.errors import UsageError
from app.settings import Settings

if TYPE_CHECKING:
    from app.ops.train import LabelledColumns
    from models.training_examples import Examples

#: 2025-01-01: a fixed beginning, so that equal seeds give equal models on any day.
_SIMULATED_FROM_MS = 1_735_689_600_000

source_options = together(
    click.argument("words", nargs=-1, metavar="[FIELD=COLUMN]..."),
    click.option(
        "--from-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Read labelled transactions: .csv, .jsonl (both also .gz) or .parquet.  [default: simulate]",
    ),
    click.option(
        "--from-kafka",
        is_flag=True,
        help="Learn from scored transactions and their labels, read from the topics `predictions` and `labels`.",
    ),
    click.option(
        "--from-cassandra",
        is_flag=True,
        help="Learn from scored transactions and their labels, read from Cassandra.",
    ),
    click.option(
        "--label",
        metavar="COLUMN",
        help="Label column.  [default: the recipe's, or is_fraud, TX_FRAUD, isFraud, 'Is Fraud?' or Class]",
    ),
    click.option(
        "--skip-bad",
        is_flag=True,
        help="Skip malformed rows of the file and report how many there were, instead of stopping at the first.",
    ),
    file_options,
    simulation_options(
        cards=2_000,
        terminals=4_000,
        days=90,
        seed="Random seed; the same seed and options give the same model.",
    ),
)
_SOURCES = ("from_file", "from_kafka", "from_cassandra")
_FILE_OPTIONS = ("label", "skip_bad", "words", *FILE_PARAMETERS)


def check_source(context: click.Context) -> None:
    """Refuse options that would be ignored: half of them are for files, half for the simulation.

    Raises:
        UsageError: such an option is given.
    """
    sources = [named(name) for name in _SOURCES if context.params[name]]
    if len(sources) > 1:
        msg = f"{sources[0]} cannot be used with {sources[1]}"
        raise UsageError(msg)
    if sources and (unfit := given(context, ("cards", "terminals", "days"))):
        msg = f"{unfit[0]} cannot be used with {sources[0]}"
        raise UsageError(msg)
    words = context.params["words"]
    if context.params["from_file"] is None and (words or given(context, _FILE_OPTIONS)):
        wanted = words[0] if words else given(context, _FILE_OPTIONS)[0]
        msg = f"{wanted} needs --from-file"
        raise UsageError(msg)


def transactions_of(
    settings: Settings, options: dict[str, Any]
) -> tuple["LabelledColumns | Examples", Any, dict[str, Any]]:
    """Labelled transactions, kinds of fraud where they are known, and where they came from."""
    if options["from_kafka"] or options["from_cassandra"]:
        return _stored(settings, from_kafka=options["from_kafka"])
    path = options["from_file"]
    if path is None:
        from app.lab.simulation.simulate import SimulationConfig, simulate

        source = {name: options[name] for name in ("cards", "terminals", "days", "seed")}
        config = SimulationConfig(
            **source,
            start_ms=_SIMULATED_FROM_MS,
            currency=settings.currency,
            minor_digits=settings.minor_unit_digits,
        )
        drawn = simulate(config)
        return drawn, drawn.fraud_kind, {"simulated": source}

    from joblib import cpu_count

    from app.ops.train_from_files import read_labelled

    others, mapping = words_and_pairs(options["words"], options["mapping"])
    if others:
        msg = f"{others[0]}: write FIELD=COLUMN, or --from-file FILE"
        raise UsageError(msg)
    read = read_as(options, mapping, settings, "fraudstream train --from-file {file}")
    with stage(f"reading {path.name}", path.stat().st_size if path.exists() else 0) as tell:
        columns = read_labelled(
            path,
            settings,
            read,
            label=options["label"],
            skip_bad=options["skip_bad"],
            progress=tell,
            cores=cpu_count(),
        )
    found: dict[str, Any] = {"file": path.name}
    if read.recipe:
        found["recipe"] = read.recipe.name
    if columns.rounded:
        found["rounded_amounts"] = columns.rounded
    if columns.refunds:
        found["refunds"] = columns.refunds
    if columns.bad:
        found["malformed"] = columns.bad
        click.echo(f"{columns.bad:,} rows left out, the first: {columns.first_bad}", err=True)
    if read.recipe and read.recipe.note:
        click.echo(f"{read.recipe.name}: {read.recipe.note}", err=True)
    return columns, None, found


def _stored(settings: Settings, *, from_kafka: bool) -> tuple["Examples", None, dict[str, Any]]:
    from app.ops import train_from_cassandra

    place = "Kafka" if from_kafka else "Cassandra"
    with stage(f"reading {place}", 0) as tell:
        if from_kafka:
            examples = asyncio.run(train_from_cassandra.from_kafka(settings, tell))
        else:
            examples = train_from_cassandra.from_cassandra(settings, tell)
    return examples, None, {"stored_in": place}
