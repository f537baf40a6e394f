"""`fraudstream verify`: check that everything is stored once and correctly."""

import asyncio
import json
from typing import TYPE_CHECKING

import click

from app import display
from app.cli.options import FiniteRange, examples_option, json_option, moment_ms
from app.cli.progress import stages
from app.errors import VerificationError
from app.settings import load_settings

if TYPE_CHECKING:
    from app.ops.verification.totals import Report

#: What the counts mean, for people.
_MEANINGS = {
    "read": "source records",
    "scored": "in time, on predictions",
    "late": "scored, flagged late, not counted for others",
    "conflicting": "scored, id used before with another time or amount, not counted for others",
    "duplicate": "repeated: same id, time and amount; not scored again",
    "refund": "negative amount: stored, not scored",
    "dead": "dead-lettered",
    "moved": "misrouted: forwarded to the partition of their card",
    "pending": "not processed yet",
    "unverifiable": "deleted by retention or time to live",
    "missing": "in none of these places, or without a row",
    "differing": "stored and recomputed values differ",
    "lost": "offsets deleted before they were read",
}
#: The same of labels; `pending` and what follows it are in the counts above.
_LABELS = {
    "read": "labels read",
    "forwarded": "forwarded to their transactions",
    "waiting": "waiting for their transactions",
    "dead": "dead-lettered",
}
#: The same of alerts.
_ALERTS = {
    "required": "alerts required",
    "found": "on their topic",
    "other_settings": "raised under other settings",
    "rows": "in Cassandra",
}


@click.command(
    epilog="\b\nExamples:  fraudstream verify\n"
    "           fraudstream verify --timeout 600 --json > verified.json"
)
@click.option(
    "--timeout",
    type=FiniteRange(min=0),
    default=120,
    show_default=True,
    help="Seconds to wait for workers; records that are not processed by then count as pending.",
)
@click.option(
    "--accept-lost",
    is_flag=True,
    help="Succeed even if offsets were deleted before they were read.",
)
@click.option(
    "--alerts-from",
    metavar="TIME",
    callback=moment_ms,
    help="Ignore missing alerts of predictions made before TIME; use it if FRAUDSTREAM_ALERT_ON was `none` until then.",
)
@examples_option
@json_option
def verify(
    timeout: float, accept_lost: bool, alerts_from: int | None, examples: int, as_json: bool
) -> None:
    r"""Recompute every feature and compare it with what was stored.

    Waits until the workers have processed everything that is in `transactions` now. Then recomputes all of it
    with the reference implementation, and checks every record in the topics and in Cassandra, alerts included.

    \b
    Exit codes:  0  everything is in its place and bit-identical
                 6  something is pending, missing, different or lost, or there was nothing to compare
    """
    from app.ops.verify import verify as run

    settings = load_settings()
    with stages() as progress:
        report = asyncio.run(
            run(
                settings,
                timeout_seconds=timeout,
                examples=examples,
                progress=progress,
                alerts_from_ms=alerts_from or 0,
            )
        )
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        for name, meaning in _MEANINGS.items():
            click.echo(f"{name:<12} {report.counts[name]:>12,}  {meaning}")
        _echo_erased(report.details["erased_cards"], report.details["erased_transactions"])
        labels = report.details["labels"]
        click.echo(", ".join(f"{labels[name]:,} {words}" for name, words in _LABELS.items()))
        alerts = report.details["alerts"]
        click.echo(", ".join(f"{alerts[name]:,} {words}" for name, words in _ALERTS.items()))
        if before := alerts["before"]:
            click.echo(
                f"{before:,} predictions would raise alerts under the present settings, but were made before these "
                "were in force"
            )
        if earlier := report.details["dead_by_earlier_rules"]:
            click.echo(
                f"{earlier:,} dead-lettered records were refused by an earlier release or other settings: "
                "`fraudstream deadletters redrive` sends them back"
            )
        if others := report.details["of_other_deployments"]:
            click.echo(f"{others:,} outputs of other deployments on the same topics were left out")
        for lost in report.details["lost_ranges"]:
            click.echo(
                f"{lost['topic']}/{lost['partition']}: offsets {lost['offset']} to {lost['until'] - 1} were deleted "
                "before they were read"
            )
        for model_hash, reason in report.details["models_missing"].items():
            click.echo(f"scores of model {model_hash} were not recomputed: {reason}")
        for example in report.examples:
            click.echo(display.printable(_described(example)))
        if lost := report.details["rows_lost"]:
            since = display.iso(report.details["rows_lost_from_ms"] // 60_000 * 60_000 - 60_000)
            click.echo(
                f"{lost:,} rows that Cassandra had acknowledged are missing there: "
                f"`fraudstream rewrite --from {since}` writes them again"
            )
    if not (report.passed or (accept_lost and report.consistent)):
        raise VerificationError(_verdict(report))
    if not as_json:
        what = "everything that is left" if report.counts["lost"] else "everything"
        click.echo(f"{what} is in its place ({report.details['seconds']:.1f} s)")


def _echo_erased(cards: int, transactions: int) -> None:
    if cards:
        click.echo(
            f"{'erased':<12} {transactions:>12,}  of these, records of {cards:,} erased cards; their rows are gone"
        )


def _verdict(report: "Report") -> str:
    """Why it failed, in one line."""
    from app.ops.verification.totals import PLACES

    counts = report.counts
    bad = (
        f"{counts['pending']:,} pending, {counts['missing']:,} missing, "
        f"{counts['differing']:,} differing of {counts['read']:,}"
    )
    if counts["missing"] or counts["differing"]:
        return bad
    if counts["pending"]:
        return bad + ": is a worker running? start `fraudstream worker`, or wait with --timeout"
    if not counts["read"]:
        return "nothing was compared: `transactions` has no records"
    if report.consistent:
        return (
            f"everything that is left is in its place, but {counts['lost']:,} offsets were "
            "deleted before they were read; "
            "once you have handled this, use --accept-lost to make the command succeed"
        )
    return f"the counts do not add up: read is not {' + '.join(PLACES)}, because retention has deleted outputs"


def _described(example: dict[str, object]) -> str:
    card = f" card {example['card']}" if example["card"] is not None else ""
    stored = "nothing" if example["stored"] is None else repr(example["stored"])
    text = f"{example['source']}{card}: {example['what']} in {example['where']}: stored {stored}"
    if example["recomputed"] is not None:
        text += f", recomputed {example['recomputed']!r}"
    return text
