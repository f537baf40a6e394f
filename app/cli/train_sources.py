"""Where the labelled transactions of `fraudstream train` come from: its options, and the transactions."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.counter import stage
from app.cli.options import (
    map_option,
    mapping_of,
    round_option,
    rounding_of,
    simulation_options,
    together,
    zone_option,
)
from app.errors import UsageError
from app.settings import Settings

if TYPE_CHECKING:
    from app.tools.train import Labelled
    from models.examples import Examples

#: 2025-01-01: a fixed beginning, so that equal seeds give equal models on any day.
_SIMULATED_FROM_MS = 1_735_689_600_000

source_options = together(
    click.option(
        "--from-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Labelled transactions: .csv, .jsonl (both also .gz) or .parquet.  [default: simulate]",
    ),
    click.option(
        "--from-kafka",
        is_flag=True,
        help="Learn from what was scored and has a label: the topics predictions and labels.",
    ),
    click.option("--from-cassandra", is_flag=True, help="The same from the tables of Cassandra."),
    click.option(
        "--label",
        metavar="COLUMN",
        help="Column that says what is fraud, 0 or 1.  [default: is_fraud or TX_FRAUD]",
    ),
    map_option,
    zone_option,
    round_option,
    simulation_options(
        cards=2_000, terminals=4_000, days=90, seed="Equal seeds and options give equal models."
    ),
)
_SOURCES = ("from_file", "from_kafka", "from_cassandra")
_FILE_OPTIONS = ("label", "mapping", "assume_zone", "round_amounts")


def check_source(context: click.Context) -> None:
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


def transactions_of(
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

    from joblib import cpu_count

    from app.tools.labelled import read_labelled

    with stage(f"reading {path.name}", path.stat().st_size if path.exists() else 0) as tell:
        columns = read_labelled(
            path,
            settings,
            label=options["label"],
            mapping=mapping_of(options["mapping"]),
            zone=options["assume_zone"],
            rounding=rounding_of(settings, wanted=options["round_amounts"]),
            progress=tell,
            cores=cpu_count(),
        )
    source = {"file": path.name}
    if columns.rounded:
        source["rounded_amounts"] = columns.rounded
    return columns, None, source


def _stored(settings: Settings, *, from_kafka: bool) -> tuple["Examples", None, dict[str, Any]]:
    from app.tools import stored

    place = "Kafka" if from_kafka else "Cassandra"
    with stage(f"reading {place}", 0) as tell:
        if from_kafka:
            examples = asyncio.run(stored.from_kafka(settings, tell))
        else:
            examples = stored.from_cassandra(settings, tell)
    return examples, None, {"stored_in": place}
