"""`fraudstream replay`: history scored once more, beside the live results."""

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import click

from app import display
from app.cli.options import json_option, moment
from app.cli.progress import stages
from app.durations import format_duration
from app.errors import UsageError
from app.settings import ENV_PREFIX, load_settings

if TYPE_CHECKING:
    from app.ops.replaying.look_back_bounds import Bound

_OFFSETS = re.compile(r"\d{1,10}|\d+:\d+(,\d+:\d+)*")


@click.command(
    epilog="\b\nExamples:  fraudstream replay --group model_2 --model engineered@2 --from 2026-10-01 --to 2026-11-01\n"
    "           fraudstream replay --group strict --threshold 0.9 --from 0:120000,1:118000\n"
    "           fraudstream replay --group wider --set windows=1h,1d,14d --model ./models/wide --from 2026-10-01\n"
    "           fraudstream replay --remove model_2"
)
@click.option(
    "--from",
    "begin",
    metavar="TIME|OFFSET",
    help="Start: an event time (a date means midnight UTC), or an offset of `transactions`, for every partition or "
    "as PARTITION:OFFSET[,...].  [required, except with --remove]",
)
@click.option(
    "--to",
    "end",
    metavar="TIME|OFFSET",
    help="End (exclusive), in the same notation.  [default: the end of the log]",
)
@click.option(
    "--group",
    metavar="NAME",
    help="Name of the results: topic NAME.predictions, keyspace KEYSPACE_NAME.  [required, except with --remove]",
)
@click.option(
    "--model", help="Model to score with.  [default: the model that was live at each offset]"
)
@click.option("--features", help="Feature sets to compute.  [default: FRAUDSTREAM_FEATURES]")
@click.option(
    "--threshold",
    help="Lowest score at which a transaction is flagged as fraud.  [default: as live; with --model, the model's own]",
)
@click.option(
    "--set",
    "changed",
    metavar="NAME=VALUE",
    multiple=True,
    help="Another setting that shapes features or decisions, such as windows=1h,1d,14d; repeatable.",
)
@click.option(
    "--allow-short-windows",
    is_flag=True,
    help="Continue although retention has deleted part of the look-back period; such rows are flagged `inexact:...`.",
)
@click.option(
    "--remove", metavar="NAME", help="Delete the results of a replay, and do nothing else."
)
@json_option
def replay(
    begin: str | None,
    end: str | None,
    group: str | None,
    model: str | None,
    features: str | None,
    threshold: str | None,
    changed: tuple[str, ...],
    allow_short_windows: bool,
    remove: str | None,
    as_json: bool,
) -> None:
    r"""Score a part of the history again, with another model or other settings.

    Results go to their own topic and keyspace; the live deployment is not changed. Transactions
    and labels are processed in the stream's order, so with the same model and settings the results are
    bit-identical to the stream's. To fill the windows, it also reads the look-back period before --from, without
    scoring it.

    \b
    Exit codes:  0  done
                 2  the range is empty or deleted by retention, or the name is taken
                 4  no such model, or no such replay
    """
    if remove is not None:
        _remove(remove, begin or end or group or model or features or threshold or changed, as_json)
        return
    if group is None or begin is None:
        msg = "give --from and --group, such as `fraudstream replay --from 2026-10-01 --group model_2`"
        raise UsageError(msg)
    from app.ops.replay import replay as run
    from app.ops.replaying.look_back_bounds import ReplayRange
    from app.ops.replaying.plan import Plan

    live = load_settings()
    given = {"model": model, "features": features, "threshold": threshold}
    own = {name: value for name, value in given.items() if value is not None} | _settings_of(
        changed
    )
    plan = Plan(
        live,
        load_settings(own) if own else live,
        group,
        ReplayRange(
            bound_of("--from", begin), bound_of("--to", end) if end else None, live.partitions
        ),
        allow_short_windows,
        frozenset(own),
    )
    with stages() as progress:
        result = asyncio.run(run(plan, progress=progress))
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo("\n".join(display.printable(line) for line in summary(result)))


def _remove(name: str, other: object, as_json: bool) -> None:
    from app.ops.replay import remove as run

    if other:
        msg = "--remove takes a name and no other option"
        raise UsageError(msg)
    removed = asyncio.run(run(load_settings(), name))
    click.echo(json.dumps({"removed": removed}) if as_json else f"removed {', '.join(removed)}")


def bound_of(option: str, text: str) -> "Bound":
    """One end of the range.

    Args:
        option: its name, for errors.
        text: a time of ISO 8601 or epoch milliseconds, an offset, or `partition:offset` pairs.

    Raises:
        UsageError: it is none of them.
    """
    from app.ops.replaying.look_back_bounds import Bound

    if _OFFSETS.fullmatch(text):
        if ":" not in text:
            return Bound(text, offsets={}, everywhere=int(text))
        pairs = [pair.split(":") for pair in text.split(",")]
        offsets = {int(partition): int(offset) for partition, offset in pairs}
        if len(offsets) < len(pairs):
            msg = f"{option} {text} names a partition twice"
            raise UsageError(msg)
        return Bound(text, offsets=offsets)
    if text.isdigit():
        return Bound(text, time_ms=int(text))
    try:
        return Bound(text, time_ms=moment(text))
    except ValueError:
        msg = (
            f"{option} {text}: write a time such as 2026-10-01 or 2026-10-01T06:00Z, an offset such as 120000, "
            "or offsets of partitions such as 0:120000,1:118000"
        )
        raise UsageError(msg) from None


def _settings_of(changed: tuple[str, ...]) -> dict[str, str]:
    from app.ops.replaying.plan import OWN_SETTINGS

    found: dict[str, str] = {}
    for pair in changed:
        name, equals, value = pair.partition("=")
        name = name.strip().lower().removeprefix(ENV_PREFIX.lower())
        if not equals or name not in OWN_SETTINGS:
            msg = (
                f"--set {pair}: write NAME=VALUE; NAME is one of {', '.join(sorted(OWN_SETTINGS))}"
            )
            raise UsageError(msg)
        found[name] = value
    return found


def _threshold(result: dict[str, Any]) -> str:
    """Nothing where it is the one that decided live, too."""
    return "" if result["threshold"] is None else f", threshold {result['threshold']:g}"


def summary(result: dict[str, Any]) -> list[str]:
    """The report of a replay, line by line."""
    found = result["comparison"]
    lines = [
        f"replay {result['group']}: {result['model']}{_threshold(result)}, "
        f"features {result['feature_schema']}",
        f"{result['read']:>12,}  records read, from {format_duration(result['horizon_ms'])} before --from on",
        f"{result['warmed']:>12,}  counted in windows, not scored",
        f"{result['scored']:>12,}  scored, into topic {result['topics'][0]} and table {result['table']}",
    ]
    if result["short_by_ms"]:
        full_from = display.iso(result["full_windows_from_ms"])
        lines.append(
            f"{found['short_windows']:>12,}  of these, before {full_from}, with windows that lack up to "
            f"{format_duration(result['short_by_ms'])}, deleted by retention (flags `inexact:...`)"
        )
    if result["lost"]:
        lines.append(
            f"{result['lost']:>12,}  in the range but not scored: invalid or duplicate under these settings"
        )
    if result["not_scored_live_yet"]:
        lines.append(
            f"{result['not_scored_live_yet']:>12,}  records not replayed, because the stream has not processed them yet"
        )
    lines.append(
        f"{found['compared']:>12,}  compared with rows of {', '.join(found['live_models']) or 'no model'}; "
        f"{found['same_score']:,} have the same score"
    )
    if found["without_live_row"]:
        lines.append(
            f"{found['without_live_row']:>12,}  have no live row (not stored yet, or expired)"
        )
    for name, text in (
        ("newly_flagged", "newly flagged as fraud"),
        ("no_longer_flagged", "no longer flagged as fraud"),
    ):
        changed = found[name]
        lines.append(
            f"{changed['all']:>12,}  {text}: {changed['fraud']:,} labelled fraud, "
            f"{changed['genuine']:,} labelled genuine"
        )
    if not found["labelled"]:
        lines.append("no labels yet, so the models cannot be compared")
        return lines
    lines.append(f"{found['labelled']:>12,}  have labels, {found['frauds']:,} of them fraud:")
    lines.append(
        f"{'':14}{'alerts':>9}{'true pos.':>11}{'false pos.':>11}{'missed':>9}{'avg prec.':>11}"
    )
    for name in ("live", "replay"):
        side = found[name]
        precision = side["average_precision"]
        lines.append(
            f"{name:>12}  "
            + f"{side['alerts']:>9,}{side['true_positives']:>11,}{side['false_positives']:>11,}{side['missed']:>9,}"
            + (f"{'-':>11}" if precision is None else f"{precision:>11.3f}")
        )
    lines.append(f"{result['seconds']:.1f} s, {result['transactions_per_second']:,} transactions/s")
    return lines
