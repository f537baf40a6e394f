"""`fraudstream produce`: a file of transactions into Kafka."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.counter import counter
from app.cli.options import (
    POSITIVE,
    POSITIVE_FLOAT,
    file_and_mapping,
    json_option,
    map_option,
    moment_of,
    round_option,
    rounding_of,
    zone_option,
)
from app.durations import parse_duration_ms
from app.errors import UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.tools.produce import ProduceReport
    from app.tools.producing.labels import LabelReading
    from app.tools.producing.reading import Reading

_RUN = re.compile(r"[A-Za-z0-9._-]{1,64}")


@click.command(
    epilog="\b\nExamples:  fraudstream produce transactions.csv.gz\n"
    "           fraudstream produce transactions.jsonl --rate 500\n"
    "           fraudstream produce handbook.csv.gz --assume-zone UTC --round-amounts --map \\\n"
    "             transaction_id=TRANSACTION_ID card_id=CUSTOMER_ID terminal_id=TERMINAL_ID \\\n"
    "             amount=TX_AMOUNT event_time=TX_DATETIME\n"
    "           fraudstream produce transactions.csv.gz --with-labels is_fraud --label-after 1d \\\n"
    "             --ahead 20000"
)
@click.argument("words", nargs=-1, required=True, metavar="FILE [FIELD=COLUMN]...")
@map_option
@click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out; repeatable.")
@click.option(
    "--only-known",
    is_flag=True,
    help="Leave out every column that the input record does not define.",
)
@zone_option
@round_option
@click.option(
    "--run",
    metavar="NAME",
    help="Prefix of transaction ids, so that a further run is not a repetition.",
)
@click.option(
    "--rate",
    type=POSITIVE_FLOAT,
    help="Records a second, whatever the stream does.  [default: as fast as it goes]",
)
@click.option(
    "--speed",
    type=POSITIVE_FLOAT,
    metavar="TIMES",
    help="Follow event time, so many times as fast: 60 sends an hour in a minute.",
)
@click.option(
    "--stamp/--no-stamp",
    default=None,
    help="Header `due`: when a record was to be sent, epoch ms.  [default: with --rate and --speed]",
)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Leave out the first N records.",
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Send at most N records.")
@click.option(
    "--skip-bad", is_flag=True, help="Count malformed lines instead of ending at the first."
)
@click.option(
    "--raw", is_flag=True, help="Send JSON lines byte for byte, also what is no transaction."
)
@click.option(
    "--labels",
    is_flag=True,
    help="FILE holds labels: transaction_id, is_fraud, and optionally labelled_at, card_id, terminal_id, "
    "event_time.",
)
@click.option(
    "--with-labels",
    metavar="COLUMN",
    help="Send labels, too: the column says what was fraud. One pass, a label where event time has come as "
    "far as --label-after.",
)
@click.option(
    "--label-after",
    metavar="DURATION",
    help="How long after its event a transaction was labelled, such as 12h.  [default: 1d]",
)
@click.option(
    "--ahead",
    type=POSITIVE,
    metavar="N",
    help="With --with-labels: wait while workers are more than N records behind, so that labels and "
    "transactions of a long file stay together in the stream.",
)
@click.option(
    "--until",
    metavar="TIME",
    help="End before the first transaction of this event time or later, such as 2018-09-05; in UTC or "
    "--assume-zone if it names no zone.",
)
@json_option
def produce(**options: Any) -> None:
    """Send a file of transactions to the topic `transactions`.

    FILE is .csv, .jsonl (both also .gz) or .parquet. The fields are transaction_id, card_id,
    amount, event_time, and optionally terminal_id and currency; further columns are passed on.
    Columns that say what is fraud (is_fraud, fraud_kind, TX_FRAUD, TX_FRAUD_SCENARIO) never are.
    Behind one --map more pairs may follow.
    The Kafka key is the card_id.

    With --with-labels each transaction's label goes to the topic `labels`, with its card, terminal and event
    time, at the point of the file where event time has come so far; the rest at the end. None is dated
    later than now.

    With --labels, FILE is sent to the topic `labels` instead. Labels without labelled_at say that it
    became known now; card_id, terminal_id and event_time spare a look-up in Cassandra.
    """
    path, mapping = file_and_mapping(options["words"], options["mapping"])
    _check(options, mapping)
    settings = load_settings()
    opened = _open_labels if options["labels"] else _open_transactions
    with opened(path, mapping, settings, options) as reading:
        report, labels = _send(reading, settings, options)
        if reading.bad and not report.records:
            msg = f"nothing of {path} could be sent: all {reading.bad:,} are malformed; {reading.first_bad}"
            raise UsageError(msg)
    summary = {
        "file": str(path),
        **report.as_dict(),
        "malformed": reading.bad,
        "first_malformed": reading.first_bad,
        "rounded": reading.rounded,
        "left_out": reading.left_out,
    }
    if labels:
        summary["labels"] = labels.as_dict()
    click.echo(json.dumps(summary) if options["as_json"] else _sentence(summary))


def _open_transactions(
    path: Path, mapping: dict[str, str], settings: Settings, options: dict[str, Any]
) -> "AbstractContextManager[Reading]":
    from app.tools.producing.reading import open_reading

    zone, until = options["assume_zone"], options["until"]
    return open_reading(
        path,
        raw=options["raw"],
        mapping=mapping,
        drop=options["drop"],
        only_known=options["only_known"],
        run=options["run"] or "",
        zone=zone,
        rounding=rounding_of(settings, wanted=options["round_amounts"]),
        skip=options["skip"],
        limit=options["limit"],
        skip_bad=options["skip_bad"],
        largest=settings.max_message_bytes,
        until_ms=None if until is None else moment_of("--until", until, zone or UTC),
        label=options["with_labels"],
    )


def _open_labels(
    path: Path, mapping: dict[str, str], _settings: Settings, options: dict[str, Any]
) -> "AbstractContextManager[LabelReading]":
    from app.tools.producing.labels import open_labels

    return open_labels(
        path,
        mapping=mapping,
        run=options["run"] or "",
        zone=options["assume_zone"],
        now_ms=_now_ms(),
        skip=options["skip"],
        limit=options["limit"],
    )


def _send(
    reading: "Reading | LabelReading",
    settings: Settings,
    options: dict[str, Any],
) -> "tuple[ProduceReport, ProduceReport | None]":
    """What was sent, and which labels beside transactions."""
    from app.tools import produce as tool

    sent = 0
    with tool.quiet_client(), counter("sending", options["limit"] or reading.size) as show:

        def progress(count: int) -> None:
            nonlocal sent
            sent = count
            show(count, count if options["limit"] else reading.position())

        try:
            return asyncio.run(_sent(reading, settings, options, progress))
        except UsageError as error:
            if not sent:
                raise
            msg = f"{error} ({sent:,} records before it are sent)"
            raise UsageError(msg) from error


async def _sent(
    reading: "Reading | LabelReading",
    settings: Settings,
    options: dict[str, Any],
    progress: Callable[[int], None],
) -> "tuple[ProduceReport, ProduceReport | None]":
    from app.tools import produce as tool
    from app.tools.producing.labels import LabelReading
    from app.topics import Topics

    rate, speed, stamp = options["rate"], options["speed"], options["stamp"]
    if isinstance(reading, LabelReading) or not (options["with_labels"] or speed):
        topics = Topics(settings)
        to = topics.labels if isinstance(reading, LabelReading) else topics.transactions
        report = await tool.produce(
            reading.pairs(),
            settings=settings,
            topic=to.name,
            rate=rate,
            stamp=stamp,
            on_progress=progress,
        )
        return report, None
    if not options["with_labels"]:
        report = await tool.produce_on_schedule(
            tool.spread(reading.timed(), speed),
            settings=settings,
            stamp=stamp is not False,
            on_progress=progress,
        )
        return report, None

    from app.tools.producing.following import following
    from app.tools.producing.pace import Pace
    from app.tools.verification.log import open_log

    async with AsyncExitStack() as opened:
        pace = None
        if options["ahead"]:
            pace = Pace(await opened.enter_async_context(open_log(settings)), options["ahead"])
        return await tool.produce_with_labels(
            following(reading.labelled(), after_ms=_label_after(options), now_ms=_now_ms()),
            settings=settings,
            rate=rate,
            speed=speed,
            stamp=stamp,
            keep_pace=pace,
            on_progress=progress,
        )


def _label_after(options: dict[str, Any]) -> int:
    try:
        return parse_duration_ms(options["label_after"] or "1d")
    except ValueError as error:
        msg = f"--label-after: {error}"
        raise UsageError(msg) from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


#: What changes transactions, and so goes neither with --raw nor with --labels.
_CHANGING = ("drop", "only_known", "round_amounts", "speed", "with_labels", "until")


def _check(options: dict[str, Any], mapping: dict[str, str]) -> None:
    if options["rate"] and options["speed"]:
        msg = "give --rate or --speed, not both"
        raise UsageError(msg)
    run = options["run"]
    if run is not None and not _RUN.fullmatch(run):
        msg = f"--run {run!r} must be 1 to 64 letters, digits, dots, dashes or underscores"
        raise UsageError(msg)
    for name in ("label_after", "ahead"):
        if options[name] and not options["with_labels"]:
            msg = f"{_named(name)} goes with --with-labels COLUMN"
            raise UsageError(msg)
    _label_after(options)
    if options["labels"]:
        unfit = [_named(name) for name in (*_CHANGING, "raw", "skip_bad") if options[name]]
        if unfit:
            msg = f"--labels does not go with {', '.join(unfit)}"
            raise UsageError(msg)
    if options["raw"]:
        unfit = [_named(name) for name in (*_CHANGING, "assume_zone", "run") if options[name]]
        unfit += ["--map"] if mapping else []
        if unfit:
            msg = f"--raw sends lines as they are; it does not go with {', '.join(unfit)}"
            raise UsageError(msg)


def _named(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


def _sentence(summary: dict[str, Any]) -> str:
    parts = [
        f"{summary['records']:,} records ({summary['bytes'] / 1e6:,.1f} MB) to {summary['topic']} in "
        f"{summary['seconds']:.1f} s, {summary['rate']:,.0f}/s"
    ]
    if labels := summary.get("labels"):
        parts.append(f"{labels['records']:,} labels to {labels['topic']}")
    if summary["behind_ms"] >= 1000:
        parts.append(f"up to {summary['behind_ms'] / 1000:.1f} s behind the schedule")
    if summary["malformed"]:
        parts.append(
            f"{summary['malformed']:,} malformed left out, the first: {summary['first_malformed']}"
        )
    if summary["rounded"]:
        parts.append(f"amounts of {summary['rounded']:,} rounded")
    if summary["left_out"]:
        parts.append(f"columns left out: {', '.join(summary['left_out'])}")
    return "; ".join(parts)
