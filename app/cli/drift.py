"""`fraudstream drift`: whether the stream still looks like the training data."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from app import display
from app.cli.file_options import given
from app.cli.options import POSITIVE, from_option, json_option, moment_ms
from app.cli.progress import counter
from app.errors import UsageError
from app.settings import load_settings

_FOUND = 1
#: Columns that are shown although their distribution has not moved.
_CALM = 3
#: Transactions without any fault that have to raise nothing.
_QUIET = 100_000


@click.command(
    epilog="\b\nExamples:  fraudstream drift --from 1d\n"
    "           fraudstream drift --from 2026-11-01 --to 2026-11-08 --json\n"
    "           fraudstream drift --inject\n"
    "           fraudstream drift --inject --fault cents --fault zone --quiet-count 0"
)
@from_option
@click.option(
    "--to",
    "to_ms",
    metavar="TIME",
    callback=moment_ms,
    help="End of the event times (exclusive).  [default: the newest]",
)
@click.option(
    "--inject", is_flag=True, help="Test the detectors on a simulated stream with injected faults."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME",
    help="With --inject: only this fault; repeatable.  [default: all]",
)
@click.option(
    "--quiet-count",
    type=click.IntRange(min=0),
    default=_QUIET,
    show_default=True,
    help="With --inject: number of transactions without a fault. A finding among them counts as a failure.",
)
@click.option(
    "--cards",
    type=POSITIVE,
    default=1_000,
    show_default=True,
    help="With --inject: number of cards.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="With --inject: random seed.",
)
@json_option
@click.pass_context
def drift(
    context: click.Context,
    from_ms: int | None,
    to_ms: int | None,
    *,
    inject: bool,
    faults: tuple[str, ...],
    quiet_count: int,
    cards: int,
    seed: int,
    as_json: bool,
) -> None:
    r"""Compare stored predictions with the training data of the models that scored them.

    For each model and challenger, the command prints how much the distributions of the features and of the score have
    changed, as PSI (population stability index). It also compares missing values, the share of flagged transactions,
    the numbers of cards and terminals, hours of the day, clock errors, late transactions and labels. Transactions are
    compared in windows of 5,000. docs/drift.md describes the detectors and their limits. The command reads Cassandra,
    and needs no worker.

    --inject tests the detectors, without a server. It trains a model on a simulated stream, injects one fault at a
    time, and prints after how many transactions the fault is detected.

    \b
    Exit codes:  0  nothing has drifted; with --inject: only the injected faults were found
                 1  something has drifted; with --inject: a fault was missed, or there was a false alarm
                 2  there are no stored predictions, none of their models has a training distribution, or there is no
                    such fault
                 3  Cassandra does not answer
                 5  tables are missing
    """
    if inject:
        if from_ms is not None or to_ms is not None:
            msg = "--inject cannot be used with --from or --to: it simulates a stream"
            raise UsageError(msg)
        found = _inject(faults, quiet_count, cards, seed, as_json=as_json)
    else:
        if alone := given(context, ("faults", "quiet_count", "cards", "seed")):
            msg = f"{alone[0].replace('faults', 'fault')} needs --inject"
            raise UsageError(msg)
        found = _stored(from_ms, to_ms, as_json=as_json)
    if found:
        raise click.exceptions.Exit(_FOUND)


def _stored(from_ms: int | None, to_ms: int | None, *, as_json: bool) -> bool:
    from app.cassandra.session import connected
    from app.ops.drift_report import drift as run

    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        msg = f"--from {display.iso(from_ms)} is not before --to {display.iso(to_ms)}"
        raise UsageError(msg)
    settings = load_settings()
    with connected(settings) as session, counter("reading") as show:
        result = run(settings, session, from_ms=from_ms, to_ms=to_ms, progress=show)
    click.echo(json.dumps(result) if as_json else "\n".join(_lines(result)))
    if not any(result["models"].values()):
        raise click.exceptions.Exit(UsageError.exit_code)
    return any(one and one["findings"] for one in result["models"].values())


def _lines(result: dict[str, Any]) -> list[str]:
    from app.quality.drift_comparison import LARGE, LEAST_ROWS, MODERATE

    labels = result["labels"]
    lines = [f"{result['transactions']:,} transactions; labels of all periods: {labels['known']:,}"]
    if labels["silent_ms"] is not None:
        told = [
            f"{share:.1%} of the transactions older than {age.removesuffix('d')} d"
            for age, share in labels["labelled_share"].items()
            if share is not None
        ]
        lines[0] += f", the newest {labels['silent_ms'] / 3_600_000:,.1f} hours ago"
        if told:
            lines.append(f"labelled: {', '.join(told)}")
    for model, one in result["models"].items():
        lines.append("")
        if one is None:
            lines.append(
                f"{display.printable(model)}: cannot be compared: no training distribution in its manifest (an earlier "
                "release trained it, or it was imported); train it again (`fraudstream train` or `retrain`), and "
                "promote the new version"
            )
            continue
        lines.append(
            f"{display.printable(model)}: {one['transactions']:,} transactions, compared in {_windows(one['windows'])}"
        )
        if one["fraud_share"] is not None:
            lines.append(
                f"  {one['fraud_share']:.2%} of its labels are fraud (in training: {one['trained_fraud_share']:.2%})"
            )
        if one["transactions"] < LEAST_ROWS:
            lines.append(f"  at least {LEAST_ROWS:,} transactions are needed to compare")
            continue
        columns = sorted(one["columns"], key=lambda column: -column["psi"])
        shown = [column for column in columns if column["psi"] >= MODERATE] or columns[:_CALM]
        lines.append(f"  {'feature':32} {'PSI':>6} {'limit':>6} {'missing':>8}")
        lines += [
            f"  {column['name']:32} {column['psi']:6.3f} {column['limit']:6.2f} {column['missing']:8.2%}"
            for column in shown
        ]
        rest = len(columns) - len(shown)
        if rest:
            lines.append(
                f"  {rest} others have a lower PSI (up to {MODERATE:g} means no change, above {LARGE:g} a large one)"
            )
        for found in one["findings"]:
            where = f" (in {found['windows']} of {_windows(one['windows'])}"
            where += ")" if found["newest"] else ", not in the newest)"
            lines.append(
                f"  drift: {display.printable(found['text'])}{where if one['windows'] > 1 else ''}"
            )
        if not one["findings"]:
            lines.append("  nothing has drifted")
    return lines


def _windows(count: int) -> str:
    return f"{count} window{'' if count == 1 else 's'}"


def _inject(names: tuple[str, ...], quiet: int, cards: int, seed: int, *, as_json: bool) -> bool:
    from app.lab.drift.faults import FAULTS
    from app.lab.drift.inject import Laboratory, fault_of
    from models.training_distribution import WINDOW

    faults = tuple(map(fault_of, names)) or FAULTS
    settings = load_settings()
    with tempfile.TemporaryDirectory() as home, counter("computing") as show:
        laboratory = Laboratory(
            settings, Path(home) / "model", cards=cards, seed=seed, quiet=quiet, progress=show
        )
        false = laboratory.quiet(quiet)
        if not as_json:
            said = "nothing found" if not false else f"{len(false)} findings"
            click.echo(f"{quiet:,} transactions without a fault: {said}")
            for done, one in false:
                click.echo(f"  after {done:,}: {one.detector}, {one.subject}: {one.text}")
            click.echo(f"{'fault':15} {'after':>6}  detected")
        results = []
        for fault in faults:
            named = laboratory.inject(fault)
            results.append(named)
            if not as_json:
                after = "-" if named.after is None else f"{named.after:,}"
                click.echo(
                    f"{fault.name:15} {after:>6}  {fault.detector}, {fault.subject}: {named.text}"
                )
    missed = sum(one.after is None for one in results)
    if as_json:
        told = {
            "quiet": {"transactions": quiet, "findings": [one._asdict() for _, one in false]},
            "faults": [
                {
                    "fault": one.fault.name,
                    "detector": one.fault.detector,
                    "subject": one.fault.subject,
                    "after": one.after,
                    "text": one.text,
                }
                for one in results
            ],
        }
        click.echo(json.dumps(told))
    else:
        within = f"within {WINDOW:,} transactions"
        click.echo(f"{len(results) - missed} of {len(results)} faults detected {within}")
    return bool(missed or false)
