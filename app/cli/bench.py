"""`fraudstream bench`: measure this machine."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from app.cli.options import json_option
from app.errors import UsageError
from app.file_writing import require_writable
from app.settings import load_settings

if TYPE_CHECKING:
    from app.lab.bench.run import Design, Tell

#: Of each run of `--scale` with `--quick`.
_QUICK_SCALE_EVENTS = 3_000
_NOTHING_TO_DRAW = "--plot shows latency: give --rates"


@click.command(
    epilog="\b\nExamples:  fraudstream bench --quick\n"
    "           fraudstream bench --events 300000 --rates 1000,5000 --json\n"
    "           fraudstream bench --runs 0 --plot latency.svg\n"
    "           FRAUDSTREAM_FEATURES=engineered FRAUDSTREAM_MODEL=engineered fraudstream bench --with-labels\n"
    "           fraudstream bench --stages\n"
    "           fraudstream bench --scale workers\n"
    "           fraudstream bench --scale score --quick"
)
@click.option(
    "--quick",
    is_flag=True,
    help="One short run of each design: under three minutes; with --scale, 3,000 events.",
)
@click.option("--events", type=click.IntRange(min=1000), help="Backlog per run.  [default: 150000]")
@click.option(
    "--naive-events",
    type=click.IntRange(min=0),
    help="Backlog of the naive design; 0 omits it.  [default: 4000]",
)
@click.option(
    "--runs",
    type=click.IntRange(min=0),
    help="Runs of each design; the median is reported; 0 omits throughput.  [default: 3]",
)
@click.option(
    "--rates",
    help='Open-loop loads, events per second; "" omits latency.  [default: 200,1000,3000,6000]',
)
@click.option(
    "--with-labels",
    is_flag=True,
    help="Send labels with the backlogs of fraudstream, and use the features and model of the settings; "
    "peers get no labels.",
)
@click.option("--no-verify", is_flag=True, help="Do not recompute the rows of each run.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw latency against load into this SVG file.",
)
@click.option(
    "--peers",
    help="Also measure these systems, comma-separated: quix, quix-reduced (one window, no predictions topic), "
    "ours-reduced (fraudstream with the work of quix-reduced), spark-exact (exact sliding windows), "
    "spark-windows (hopping windows), flink; or all. With --quick their backlogs are a tenth of the usual size.",
)
@click.option(
    "--stages",
    is_flag=True,
    help="Measure the microseconds per event of each stage, in this process, without servers.  [default of --events: "
    "50000; with --quick 5000]",
)
@click.option(
    "--scale",
    type=click.Choice(
        ("history", "windows", "cards", "rebuild", "partitions", "workers", "takeover", "score")
    ),
    help="Measure how cost grows with one quantity; history and windows need no servers. takeover: how long partitions "
    "do not advance when a worker dies; score: the latency of POST /score beside a load on the topic. Uses --events "
    "and --quick.",
)
@json_option
def bench(
    quick: bool,
    events: int | None,
    naive_events: int | None,
    runs: int | None,
    rates: str | None,
    with_labels: bool,
    no_verify: bool,
    plot: Path | None,
    peers: str | None,
    stages: bool,
    scale: str | None,
    as_json: bool,
) -> None:
    r"""Measure throughput compared with a naive Faust design, and latency by load.

    Runs on the real servers with its own topics, keyspace and state, and removes them afterwards. Each run uses one
    worker (two for --scale takeover, up to four for --scale workers), and is verified unless --no-verify. On a shared
    machine, ratios within one run are more reliable than absolute figures. Latency is measured from the time at
    which an event was due.

    \b
    Exit codes:  0  everything was measured
                 3  a server or a worker failed, or no request to POST /score was answered with 200
                 6  a run does not verify, or an answer of POST /score differs from its row
    """
    if stages:
        click.echo(_stages(events or (5_000 if quick else 50_000), 1 if quick else 5, as_json))
        return
    tell = functools.partial(click.echo, err=True)
    if scale:
        from app.lab.bench.scale import measure_scale, scale_text

        few = _QUICK_SCALE_EVENTS if quick else None
        lines = measure_scale(load_settings(), scale, events or few, tell)
        click.echo(orjson.dumps(lines).decode() if as_json else scale_text(lines))
        return
    from app.lab.bench.run import bench as measure
    from app.lab.bench.run import naive

    loads = parse_rates(rates if rates is not None else ("500" if quick else "200,1000,3000,6000"))
    if plot and not loads:
        raise UsageError(_NOTHING_TO_DRAW)
    if plot:
        require_writable(plot.parent, "--plot")
    found, skipped = _peers(peers, tell)
    if quick:
        found = [replace(design, events=design.events // 10, rates=()) for design in found]
    few = naive_events if naive_events is not None else (1_000 if quick else 4_000)
    report = measure(
        load_settings(),
        events=events or (20_000 if quick else 150_000),
        designs=[*([naive(few, () if quick else (200.0,))] if few else []), *found],
        runs=runs if runs is not None else (1 if quick else 3),
        rates=loads,
        rate_seconds=5 if quick else 20,
        warm_up=0 if quick else 50_000,
        verified=not no_verify,
        labels=with_labels,
        tell=tell,
    )
    report.skip(skipped)
    if plot:
        from app.lab.bench.plot import latency_svg

        plot.write_text(latency_svg(report.systems, _title(report.machine)))
    click.echo(orjson.dumps(report.as_dict()).decode() if as_json else report.text())


def _peers(text: str | None, tell: "Tell") -> "tuple[list[Design], dict[str, str]]":
    if not text:
        return [], {}
    from app.lab.bench.peer_designs import PEERS, peer_designs

    names = list(PEERS) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        msg = f"--peers {unknown[0]!r} is unknown; choose from {', '.join(PEERS)}, or all"
        raise UsageError(msg)
    return peer_designs(names, tell)


def _stages(events: int, repeats: int, as_json: bool) -> str:
    from dataclasses import asdict

    from app.lab.bench.stages import measure_stages, stages_text

    found = measure_stages(load_settings(), events=events, repeats=repeats, seed=1)
    if as_json:
        return orjson.dumps([asdict(stage) for stage in found]).decode()
    return stages_text(found)


def parse_rates(text: str) -> tuple[float, ...]:
    """The loads of `--rates`, events a second.

    Raises:
        UsageError: one is not a number above zero.
    """
    try:
        loads = tuple(float(rate) for rate in text.split(",") if rate.strip())
    except ValueError:
        loads = (0.0,)
    if any(not 0 < load < float("inf") for load in loads):
        msg = f"--rates {text!r}: write numbers above zero with commas, such as 200,1000"
        raise UsageError(msg)
    return loads


def _title(machine: dict[str, object]) -> str:
    return f"Due time to acknowledged row; {machine['cpus']} cores with the servers on them"
