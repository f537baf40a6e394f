"""`fraudstream demo`: from an empty machine to scored transactions, and a summary of it."""

import asyncio
import json
import shutil
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.file_options import FILE_PARAMETERS, file_and_mapping, given, read_as
from app.cli.options import POSITIVE, POSITIVE_FLOAT, json_option
from app.cli.produce import produce
from app.errors import UsageError, VerificationError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.lab.demo.feed import Feed
    from app.lab.demo.run import MakeFeed
    from app.lab.demo.screen import Screen
    from app.lab.demo.summary import Summary
    from app.lab.supervisor import Workers

#: Simulated transactions: on two cores a matter of seconds.
EVENTS = 50_000
#: Options of `produce` that say how a file is read; they mean the same here.
_FILE_OPTIONS = (*FILE_PARAMETERS, "drop", "keep", "only_known", "run", "skip", "limit", "skip_bad")


@click.command(
    epilog="\b\nExamples:  fraudstream demo\n"
    "           fraudstream demo --once --json\n"
    "           fraudstream demo --input handbook.csv.gz --recipe handbook --limit 100000"
)
@click.argument("words", nargs=-1, metavar="[FIELD=COLUMN]...")
@click.option(
    "--events",
    type=click.IntRange(min=100),
    help="Number of simulated transactions before the summary, besides those that measure latency (by default 800) "
    "and misrouted ones."
    f"  [default: {EVENTS:,}]",
)
@click.option(
    "--workers",
    "worker_count",
    type=POSITIVE,
    default=1,
    show_default=True,
    help="Number of workers.",
)
@click.option(
    "--rate",
    type=POSITIVE_FLOAT,
    default=20.0,
    show_default=True,
    help="Transactions per second after the summary.",
)
@click.option("--once", is_flag=True, help="End after the summary.")
@click.option("--free-ports", is_flag=True, help="Use free ports instead of 19092, 19042 and 6066.")
@click.option(
    "--input",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Score the transactions of a file: .csv, .jsonl (both also .gz) or .parquet.",
)
@json_option
@click.pass_context
def demo(context: click.Context, **options: Any) -> None:
    """Start everything, score simulated transactions, and show the results.

    Starts a local Kafka and Cassandra (unless FRAUDSTREAM_BROKER and FRAUDSTREAM_CASSANDRA name
    others), creates topics and tables, and starts workers. Then it sends simulated transactions
    (some late, repeated or invalid on purpose) with their labels, one day later in event time, and
    prints a summary, including which frauds were caught and missed. Afterwards the demo continues at a low rate and
    shows flagged transactions, until Ctrl-C. The workers stop with the demo; the servers
    keep running.

    With --input, the transactions of a file are scored instead. FIELD=COLUMN and the options from --recipe to
    --skip-bad are valid only with --input, --events only without it.
    """
    _check(context, options)
    with ExitStack() as opened:
        _demo(options, load_settings(), opened)


demo.params += [param for param in produce.params if param.name in _FILE_OPTIONS]


def _demo(options: dict[str, Any], settings: Settings, opened: ExitStack) -> None:
    from app.lab.demo import servers
    from app.lab.demo.screen import Screen
    from app.lab.supervisor import Workers

    count = options["worker_count"]
    if count > settings.partitions:
        msg = (
            f"--workers {count}: the topics have {settings.partitions} partitions, and a worker "
            "without one has nothing to do"
        )
        raise UsageError(msg)
    screen = Screen(lambda line: click.echo(line, err=options["as_json"]))
    with screen.phase("loading"):
        run, make_feed = _feed(options, settings, opened)
        if not servers.takes_free_ports(settings, options["free_ports"]):
            servers.make_workers(
                settings, count, free_ports=False
            )  # refused now, not a minute later
    with screen.phase("servers"):
        servers.start_servers(
            settings,
            free_ports=options["free_ports"],
            events=options["events"] or EVENTS,
            say=screen.step,
        )
    with screen.phase("schema"):
        made, applied = servers.prepare(settings)
        screen.step(
            f"Topics and tables exist ({len(made)} topics and {len(applied)} migrations are new)"
        )
    with screen.phase("workers"):
        workers = Workers(servers.make_workers(settings, count, free_ports=options["free_ports"]))
        for worker in workers.all:
            screen.step(f"Starting a worker at {worker.url}, log {worker.log}")
        opened.callback(_stop, workers, screen, settings)
        workers.start()
        workers.await_ready()
    summary, feed = asyncio.run(_measured(settings, workers, screen, options, make_feed, run))
    _tell(summary, settings, options, screen)
    if not options["once"]:
        _stream(settings, feed, workers, screen, options["rate"])


async def _measured(
    settings: Settings,
    workers: "Workers",
    screen: "Screen",
    options: dict[str, Any],
    make_feed: "MakeFeed",
    run: str | None,
) -> "tuple[Summary, Feed]":
    from app.lab.demo.run import Run

    return await Run(settings, workers, screen, options["rate"]).measure(make_feed, run)


def _tell(
    summary: "Summary", settings: Settings, options: dict[str, Any], screen: "Screen"
) -> None:
    from app.lab.demo.summary_text import summary_text

    seconds = {**screen.seconds, "total": round(screen.elapsed, 2)}
    if options["as_json"]:
        click.echo(json.dumps(summary.as_dict(settings, seconds)))
    else:
        click.echo(summary_text(summary, settings, bold=_bold, call=called(), ends=options["once"]))
    if summary.account.missing or summary.account.repeated:
        msg = (
            f"{summary.account.missing:,} records are missing and {summary.account.repeated:,} are in two "
            "places: `fraudstream verify` lists them"
        )
        raise VerificationError(msg)


def _stream(
    settings: Settings, feed: "Feed", workers: "Workers", screen: "Screen", rate: float
) -> None:
    from app.lab.demo.endless_phase import Stream

    screen.line("")
    screen.step(
        f"Continuing at {rate:g} per second; flagged transactions appear here. Ctrl-C ends the demo."
    )
    try:
        asyncio.run(Stream(settings, feed, workers, screen, rate, _red).run())
        screen.end_status()
        screen.step("All of the input has been sent")
    except KeyboardInterrupt:  # the way to end it, no failure
        click.echo(err=True)
        screen.end_status()


def _stop(workers: "Workers", screen: "Screen", settings: Settings) -> None:
    many = len(workers.all) > 1
    screen.step("Stopping the workers" if many else "Stopping the worker")
    for worker in workers.stop():
        screen.step(f"The worker on port {worker.port} did not stop in time and was killed")
    if not (settings.broker and settings.cassandra):
        screen.step(
            f"The local servers keep running: `{called()} down` stops them and keeps their data"
        )


def _feed(
    options: dict[str, Any], settings: Settings, opened: ExitStack
) -> "tuple[str | None, MakeFeed]":
    """The run's name, None for a file, and what makes the feed."""
    from app.lab.demo import feed

    if options["file"] is None:
        run = feed.run_name(datetime.now(UTC))
        events = options["events"] or EVENTS
        return run, lambda first: feed.SimulatedFeed(settings, run, events, first, _now_ms)

    from app.ops.files.transaction_file import open_reading
    from app.wire.input_records import RecordRules

    path, mapping = file_and_mapping((str(options["file"]), *options["words"]), options["mapping"])
    reading = opened.enter_context(
        open_reading(
            path,
            read_as(options, mapping, settings, "fraudstream demo --input {file}"),
            rules=RecordRules.of(settings),
            skip=options["skip"],
            skip_bad=options["skip_bad"],
        )
    )
    return options["run"], lambda _first: feed.FileFeed(reading, path.name, options["limit"])


def _check(context: click.Context, options: dict[str, Any]) -> None:
    if options["file"] is not None:
        if options["events"] is not None:
            msg = "--events is for simulated transactions; with --input use --limit"
            raise UsageError(msg)
        return
    wanted = given(context, _FILE_OPTIONS)
    if wanted or options["words"]:
        msg = f"{', '.join(wanted) or options['words'][0]}: only with --input FILE"
        raise UsageError(msg)


def called() -> str:
    """How to call the command line from here: the environment need not be on the PATH."""
    if shutil.which("fraudstream"):
        return "fraudstream"
    script = Path(sys.executable).with_name("fraudstream")
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _bold(text: str) -> str:
    return click.style(text, bold=True)


def _red(text: str) -> str:
    return click.style(text, fg="red")
