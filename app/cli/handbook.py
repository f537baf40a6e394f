"""`fraudstream handbook`: score the Fraud Detection Handbook's transactions live."""

import json
import time
from pathlib import Path
from typing import Any

import click

from app.cli.options import POSITIVE, check_kind, json_option, moment_ms, parameters_option
from app.cli.progress import stage
from app.errors import UsageError, VerificationError


@click.command(
    epilog="\b\nExamples:  fraudstream handbook\n"
    "           fraudstream handbook --verify --json > handbook.json\n"
    "           fraudstream handbook transactions.csv.gz --from 2018-06-20 --to 2018-08-01 --weeks 1\n"
    "           fraudstream handbook --kind forest --parameter max_depth=14"
)
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@click.option(
    "--from", "begin", metavar="DATE", callback=moment_ms, help="Start date.  [default: 2018-04-01]"
)
@click.option(
    "--to",
    "end",
    metavar="DATE",
    callback=moment_ms,
    help="End date (exclusive).  [default: 2018-09-05]",
)
@click.option(
    "--weeks", type=POSITIVE, help="Number of final weeks used for evaluation.  [default: 4]"
)
@click.option(
    "--rows", type=POSITIVE, metavar="N", help="Use only the newest N transactions of the period."
)
@click.option(
    "--kind", help="Kind of the model under test; see `fraudstream train`.  [default: blend]"
)
@parameters_option
@click.option(
    "--train-days",
    type=POSITIVE,
    metavar="N",
    help="Number of training days of the model under test.  [default: 70]",
)
@click.option(
    "--verify/--no-verify",
    default=False,
    show_default=True,
    help="Run `fraudstream verify` at the end, which takes longer than all other steps.",
)
@click.option(
    "--naive/--no-naive",
    "beside_naive",
    default=True,
    show_default=True,
    help="Also measure naive Faust on the same servers.",
)
@click.option(
    "--weekly",
    is_flag=True,
    help="Retrain the model with `fraudstream retrain` for each week after the first.",
)
@json_option
def handbook(**options: Any) -> None:
    r"""Score the Fraud Detection Handbook's transactions live and compare with published results.

    FILE is the simulated data as CSV (TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT,
    TX_FRAUD); default: the file that the environment variable HANDBOOK_TRANSACTIONS names, or
    shared/handbook/transactions.csv.gz beside the folder of this project's source. The command trains the model under
    test on the data that ends one label delay before the first test week.
    Then it sends all transactions and labels through Kafka once, to a worker that scores them and writes the rows to
    Cassandra. The figures are computed from these rows. With --weekly, `fraudstream retrain --promote` runs twice for
    each later week: the first call trains the next model, the second one compares and promotes it. Servers, topics and
    folder are temporary, and are removed at the end.

    \b
    Exit codes:  0  all goals are met
                 4  FILE does not exist
                 6  a goal is missed, or something is missing or different
    """
    from app.lab.handbook import data
    from app.lab.handbook.run import Run

    plan = _plan(data.require(options["file"]), options)
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - began:5.0f} s  {line}", err=True)

    run = Run(plan, say=say, stage=stage, now_ms=time.time_ns() // 1_000_000)
    report = run.measure(verified=options["verify"], beside_naive=options["beside_naive"])
    click.echo(json.dumps(report.as_dict()) if options["as_json"] else report.text())
    if report.missed:
        msg = f"goals missed: {'; '.join(report.missed)}"
        raise VerificationError(msg)


def _plan(path: Path, options: dict[str, Any]) -> Any:
    from app.lab.handbook.plan import BEGIN_MS, END_MS, WEEKS, Plan, Recipe

    recipe = Recipe()
    kind = options["kind"] or recipe.kind
    check_kind(kind)
    plan = Plan(
        path,
        begin_ms=BEGIN_MS if options["begin"] is None else options["begin"],
        end_ms=END_MS if options["end"] is None else options["end"],
        weeks=options["weeks"] or WEEKS,
        rows=options["rows"],
        recipe=Recipe(
            kind,
            options["parameters"] or (recipe.fixed if kind == recipe.kind else {}),
            options["train_days"] or recipe.train_days,
        ),
        weekly=options["weekly"],
    )
    if plan.begin_ms > plan.a_week().train_from:
        msg = (
            "the period must contain a training week, the label delay of 7d and the test weeks: "
            "give an earlier --from, a later --to or fewer --weeks"
        )
        raise UsageError(msg)
    return plan
