"""`fraudstream simulate`: labelled card transactions, to a file or straight into Kafka."""

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.options import (
    POSITIVE,
    POSITIVE_FLOAT,
    FiniteRange,
    json_option,
    moment_ms,
    simulation_options,
)
from app.cli.progress import counter
from app.errors import UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.lab.simulation.arrivals import Deliveries
    from app.ops.produce import ProduceReport

_SHARE = FiniteRange(0, 1)
_FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)


@click.command(
    epilog="\b\nExamples:  fraudstream simulate --out transactions.csv.gz\n"
    "           fraudstream simulate --count 100000 --seed 7 --to-kafka\n"
    "           fraudstream simulate --start 2024-01-01 --days 90 --out history.parquet"
)
@click.option(
    "--out",
    type=_FILE,
    help="File to write: .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet; - is JSON lines to standard output. Give either "
    "--out or --to-kafka.",
)
@click.option("--to-kafka", is_flag=True, help="Send to the topic `transactions`, without labels.")
@simulation_options(
    cards=5_000,
    terminals=10_000,
    seed="Random seed; the same seed and times give the same file.",
)
@click.option(
    "--count",
    type=POSITIVE,
    help="Exact number of transactions.  [default: about 2 per card and day]",
)
@click.option(
    "--start",
    metavar="TIME",
    callback=moment_ms,
    help="Start time, ISO 8601 (UTC unless it has a zone).",
)
@click.option(
    "--end", metavar="TIME", callback=moment_ms, help="End time (exclusive).  [default: now]"
)
@click.option(
    "--run",
    metavar="NAME",
    help="Prefix of transaction ids, so that another run does not send duplicates.  [default: s and the seed]",
)
@click.option(
    "--without-terminal",
    type=_SHARE,
    default=0.0,
    metavar="SHARE",
    help="Share of transactions without a terminal.",
)
@click.option(
    "--labels",
    type=_FILE,
    help="Write the labels to this CSV file instead of into the output file.",
)
@click.option("--no-labels", is_flag=True, help="Write no labels.")
@click.option(
    "--out-of-order",
    type=_SHARE,
    default=0.0,
    metavar="SHARE",
    help="Share that arrives after a newer transaction of its card.",
)
@click.option(
    "--late",
    type=_SHARE,
    default=0.0,
    metavar="SHARE",
    help="Share that arrives late: beyond FRAUDSTREAM_ALLOWED_LATENESS.",
)
@click.option(
    "--duplicates", type=_SHARE, default=0.0, metavar="SHARE", help="Share that arrives twice."
)
@click.option(
    "--broken",
    type=_SHARE,
    default=0.0,
    metavar="SHARE",
    help="Share of additional invalid records (JSON lines and Kafka only).",
)
@click.option(
    "--rate",
    type=POSITIVE_FLOAT,
    help="With --to-kafka: records per second.  [default: unthrottled]",
)
@json_option
def simulate(**options: Any) -> None:
    """Simulate labelled card transactions with three kinds of fraud.

    Customers pay near their homes, each with their own habits. Fraud is (1) every amount above
    220, (2) all payments at a compromised terminal for 28 days, (3) a third of the payments of a
    compromised card for 14 days, at five times their amount. Labels are the columns is_fraud (0 or
    1) and fraud_kind (none, amount, terminal, card). No event time lies in the future.
    """
    out, labels, to_kafka = options["out"], options["labels"], options["to_kafka"]
    if (out is None) == (not to_kafka):
        msg = "give --out FILE or --to-kafka"
        raise UsageError(msg)
    if options["rate"] and not to_kafka:
        msg = "--rate needs --to-kafka"
        raise UsageError(msg)
    if labels and options["no_labels"]:
        msg = "give --labels FILE or --no-labels, not both"
        raise UsageError(msg)
    if labels and out and labels.resolve() == out.resolve():
        msg = f"--out and --labels name the same file, {out}"
        raise UsageError(msg)
    to_stdout = str(out) == "-"
    if to_stdout and options["as_json"]:
        msg = "--json would mix with the records of --out -: give a file"
        raise UsageError(msg)

    from app.lab.simulation.files import write_deliveries, write_labels
    from app.ops.files.suffixes import file_format

    for path in filter(None, (out, labels)):
        file_format(path)  # refused before the work, not after it
    settings = load_settings()
    began = time.perf_counter()
    deliveries = _simulated(options, settings)
    report = None
    if labels:
        write_labels(labels, deliveries.transactions)
    if to_kafka:
        report = _send(deliveries, settings, options["rate"])
    else:
        with counter("writing", len(deliveries)) as show:
            write_deliveries(
                out, deliveries, labels=not labels and not options["no_labels"], progress=show
            )
    summary = _summary(deliveries)
    summary["seconds"] = round(time.perf_counter() - began, 3)
    summary["to"] = report.topic if report else str(out)
    if report:
        summary["produced"] = report.as_dict()
    click.echo(json.dumps(summary) if options["as_json"] else _sentence(summary), err=to_stdout)


def _simulated(options: dict[str, Any], settings: Settings) -> "Deliveries":
    from app.lab.simulation.simulate import Disorder, SimulationConfig, deliver
    from app.lab.simulation.simulate import simulate as run

    config = SimulationConfig(
        cards=options["cards"],
        terminals=options["terminals"],
        days=options["days"],
        count=options["count"],
        start_ms=options["start"],
        end_ms=options["end"],
        seed=options["seed"],
        run=options["run"],
        currency=settings.currency,
        minor_digits=settings.minor_unit_digits,
        without_terminal=options["without_terminal"],
    )
    disorder = Disorder(
        out_of_order=options["out_of_order"],
        late=options["late"],
        duplicates=options["duplicates"],
        broken=options["broken"],
        lateness_ms=settings.allowed_lateness,
    )
    return deliver(run(config, now_ms=time.time_ns() // 1_000_000), disorder, seed=config.seed)


def _send(deliveries: "Deliveries", settings: Settings, rate: float | None) -> "ProduceReport":
    from app.ops.produce import produce, quiet_client

    with quiet_client(), counter("sending", len(deliveries)) as show:
        return asyncio.run(
            produce(deliveries.pairs(), settings=settings, rate=rate, on_progress=show)
        )


def _summary(deliveries: "Deliveries") -> dict[str, Any]:
    from app.lab.simulation.frauds import KINDS

    transactions = deliveries.transactions
    times = transactions.event_time
    return {
        "transactions": len(transactions),
        "first": str(times[0]) if len(times) else None,
        "last": str(times[-1]) if len(times) else None,
        "frauds": {
            name: int((transactions.kind == kind).sum()) for kind, name in enumerate(KINDS) if kind
        },
        "records": len(deliveries),
        "out_of_order": len(deliveries.out_of_order),
        "late": len(deliveries.late),
        "duplicates": len(deliveries.duplicates),
        "broken": deliveries.broken,
    }


def _sentence(summary: dict[str, Any]) -> str:
    frauds = sum(summary["frauds"].values())
    share = frauds / max(summary["transactions"], 1)
    kinds = ", ".join(f"{name} {count:,}" for name, count in summary["frauds"].items())
    odd = ", ".join(
        f"{summary[name]:,} {name.replace('_', ' ')}"
        for name in ("out_of_order", "late", "duplicates", "broken")
        if summary[name]
    )
    return (
        f"{summary['transactions']:,} transactions, {(summary['first'] or '-')[:16]} to "
        f"{(summary['last'] or '-')[:16]} UTC, {frauds:,} frauds ({share:.2%}: {kinds})"
        f"{'; ' + odd if odd else ''}; {summary['records']:,} records to {summary['to']} in "
        f"{summary['seconds']:.1f} s"
    )
