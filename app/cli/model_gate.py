"""`fraudstream models gate`: whether a model may replace the current one."""

import asyncio
import json
from typing import Any

import click

from app.cli.options import FiniteRange, json_option, moment_ms
from app.display import iso
from app.errors import UsageError
from app.settings import Settings, load_settings

_NOT_PASSED = 1
_ROWS = (
    ("average_precision", "average precision", "{:.3f}"),
    ("card_precision_at_100", "card precision@100", "{:.3f}"),
    ("alerts_per_day", "flagged per day", "{:,.1f}"),
    ("calibration_error", "calibration error", "{:.4f}"),
    ("microseconds", "us per transaction", "{:,.1f}"),
)


@click.command(
    epilog="\b\nExamples:  fraudstream models gate fraud@2\n"
    "           fraudstream models gate fraud@2 --from 2026-11-01 --json"
)
@click.argument("model")
@click.option(
    "--from",
    "from_ms",
    metavar="TIME",
    callback=moment_ms,
    help="Compare transactions from this event time on.  [default: after the last transaction that either model was "
    "trained on]",
)
@click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    help="Threshold of the model.  [default: the model's own]",
)
@json_option
def gate(model: str, from_ms: int | None, threshold: float | None, as_json: bool) -> None:
    r"""Compare a registered model with the current one, and record whether it passes. `promote` requires a pass.

    Both models score the stored features of the same transactions. Average precision and card precision@100 are
    computed from the labels that have arrived, and compared by a paired bootstrap over cards. The limits are in
    docs/models-live.md.

    \b
    Exit codes:  0  the model passes
                 1  it does not pass; the output says why
                 2  there is nothing to compare, or a model cannot be loaded
                 3  Kafka or Cassandra does not answer
                 4  the model is not registered
                 5  topics or tables are missing
    """
    from app.cassandra.session import connected
    from app.cli.progress import counter
    from app.ops.gate_scores import gate as run

    settings = load_settings()
    with connected(settings) as session, counter("reading") as show:
        result = asyncio.run(
            run(settings, session, model, from_ms=from_ms, threshold=threshold, progress=show)
        )
    click.echo(json.dumps(result) if as_json else "\n".join(_lines(result)))
    if not result["passed"]:
        raise click.exceptions.Exit(_NOT_PASSED)


def require_pass(
    settings: Settings,
    model: str,
    model_hash: str,
    champion: Any,
    threshold: float | None,
    own: float,
) -> None:
    """Refuse a model that has not passed the gate against the one that decides.

    Args:
        settings: the deployment.
        model: name and version.
        model_hash: its whole hash.
        champion: what decides (`app.kafka.change_history.DecidingModel`).
        threshold: the one with which it is to decide; None: its own.
        own: its own threshold.

    Raises:
        UsageError: it has not; the text says what to do.
        UnavailableError: Cassandra does not answer.
    """
    from app.cassandra.gate_results import latest
    from app.cassandra.session import connected

    with connected(settings) as session:
        found = latest(session, settings, model_hash, champion.hash)
    force = "`promote --force` promotes it without a pass, which the history records"
    given = "" if threshold is None else f" --threshold {threshold:g}"
    if found is None:
        msg = (
            f"{model} has not been compared with {champion.model}: run `fraudstream models gate {model}{given}`. If "
            f"labels or stored transactions are missing, {force}"
        )
        raise UsageError(msg)
    if not found["passed"]:
        msg = f"{model} has not passed the gate against {champion.model}: {found['reasons'][0]}; {force}"
        raise UsageError(msg)
    gated = found["challenger"]["threshold"]
    if gated != (own if threshold is None else threshold):
        msg = f"{model} has passed the gate with threshold {gated:g}: run `fraudstream models gate {model}{given}`"
        raise UsageError(msg)


def _lines(result: dict[str, Any]) -> list[str]:
    champion, challenger = result["champion"], result["challenger"]
    names = result["against"], result["model"]
    lines = [
        f"{result['transactions']:,} transactions since {iso(result['from_ms'])}, {result['labelled']:,} with a label, "
        f"{result['frauds']:,} of them fraud",
        f"{'':<20} {names[0]:>14} {names[1]:>14}  difference (95 % interval)",
    ]
    for name, text, form in _ROWS:
        cells = [_cell(one[name], form) for one in (champion, challenger)]
        difference = (result["difference"] or {}).get(name)
        told = ""
        if difference is not None:
            low, high = difference["interval"]
            told = f"  {difference['value']:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"{text:<20} {cells[0]:>14} {cells[1]:>14}{told}")
    if result["psi"] is not None:
        lines.append(f"score distribution: PSI {result['psi']:.3f} (above 0.25 is a large shift)")
    lines += [f"refused: {reason}" for reason in result["reasons"]]
    if result["undecided"]:
        lines.append(
            "the labels so far show neither a better nor a worse model: run this again when more have arrived"
        )
    lines.append(
        f"{result['model']} passes. To use it: fraudstream models promote {result['model']}"
        if result["passed"]
        else f"{result['model']} does not pass; `fraudstream models promote {result['model']} --force` ignores that"
    )
    return lines


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
