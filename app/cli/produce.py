"""`fraudstream produce`: a file of transactions into Kafka."""

import json
import re
from contextlib import AbstractContextManager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.file_options import (
    FILE_PARAMETERS,
    file_and_mapping,
    file_options,
    given,
    named,
    read_as,
)
from app.cli.options import POSITIVE, POSITIVE_FLOAT, json_option, moment_of
from app.cli.produce_report import lines_of, summary_of
from app.cli.produce_sending import label_after, now_ms, send
from app.errors import UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.ops.files.label_file import LabelPass
    from app.ops.files.transaction_file import TransactionPass

_RUN = re.compile(r"[A-Za-z0-9._-]{1,64}")


@click.command(
    epilog="\b\nExamples:  fraudstream produce transactions.csv.gz\n"
    "           fraudstream produce payments.csv --map card_id=PAN_HASH,amount=VALUE --assume-zone Europe/Paris\n"
    "           fraudstream produce till.csv --time-format '%d/%m/%Y %H:%M' --assume-zone UTC --skip-bad\n"
    "           fraudstream produce transactions.jsonl --rate 500\n"
    "           fraudstream produce handbook.csv.gz --recipe handbook\n"
    "           fraudstream produce paysim.csv --recipe paysim --time-origin 2024-01-01 --with-labels --ahead 20000\n"
    "           fraudstream produce chargebacks.csv --labels --map transaction_id=REF,is_fraud=CHARGED_BACK\n"
    "           fraudstream produce transactions.csv.gz --with-labels is_fraud --label-after 1d"
)
@click.argument("words", nargs=-1, metavar="FILE [FIELD=COLUMN]...")
@file_options
@click.option("--drop", multiple=True, metavar="COLUMN", help="Do not send a column; repeatable.")
@click.option(
    "--keep",
    multiple=True,
    metavar="COLUMN",
    help="Send this label column, too; repeatable.",
)
@click.option(
    "--only-known",
    is_flag=True,
    help="Send only the fields of the input record, those of your own fields file included; drop all other columns.",
)
@click.option(
    "--run",
    metavar="NAME",
    help="Prefix of transaction ids, so that another run does not send duplicates.",
)
@click.option(
    "--rate",
    type=POSITIVE_FLOAT,
    help="Records per second.  [default: unthrottled]",
)
@click.option(
    "--speed",
    type=POSITIVE_FLOAT,
    metavar="TIMES",
    help="Follow event time at this multiple of its speed: 60 sends an hour in a minute.",
)
@click.option(
    "--stamp/--no-stamp",
    default=None,
    help="Add the header `due`: the scheduled send time, epoch ms.  [default: only with --rate or --speed]",
)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Skip the first N records.",
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Send at most N records.")
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Skip malformed rows and report how many there were, instead of stopping at the first.",
)
@click.option(
    "--raw", is_flag=True, help="Send JSON lines byte for byte, including invalid records."
)
@click.option(
    "--labels",
    is_flag=True,
    help="Read labels from FILE, and send them to the topic `labels`.",
)
@click.option(
    "--with-labels",
    metavar="[COLUMN]",
    is_flag=False,
    flag_value="",
    help="Also send the labels in this column, or in the recipe's (write the option after FILE). A label is sent when "
    "event time is --label-after later than its transaction.",
)
@click.option(
    "--label-after",
    metavar="DURATION",
    help="How long after its event time a transaction is labelled, such as 12h.  [default: 1d]",
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
    help="Stop before the first transaction with this event time or later, such as 2018-09-05; in UTC or "
    "--assume-zone if it has no zone.",
)
@json_option
@click.pass_context
def produce(context: click.Context, **options: Any) -> None:
    """Send a file of transactions to the topic `transactions`.

    FILE is .csv, .jsonl (both also .gz) or .parquet; CSV may be separated by commas, semicolons, tabs or pipes, and
    encoded as UTF-8, or as UTF-16 with a byte order mark. The fields are transaction_id, card_id, amount, event_time,
    and optionally terminal_id, currency, converted_amount and schema_version; other columns are forwarded. The
    Kafka key is the card_id.

    Each record is checked as a worker checks it. A record that a worker would refuse counts as malformed. The
    command stops at the first malformed row, after sending the rows before it; --skip-bad counts such rows and
    reports the first. Suspicious ids (NULL, blanks, 4.53E+15) are sent; a warning gives their number.

    Label columns (is_fraud, fraud_kind, TX_FRAUD, isFraud, isFlaggedFraud, Class, 'Is Fraud?' and similar) are not
    sent without --keep, because a model could learn from them.

    Times are ISO 8601 with a UTC offset, or epoch numbers; --assume-zone, --time-format and --time-unit change this.
    Amounts are plain decimals such as 57.10; amounts with more decimals than the currency are refused without
    --round-amounts.

    With --recipe, FILE is a well-known public data set whose columns are known. Missing ids and times are
    generated deterministically: sending the file again gives the same records. docs/input-files.md lists the
    recipes.

    With --with-labels each transaction's label goes to the topic `labels`, with its card, terminal and event
    time. At the end of the file, the remaining labels are sent at once. No label gets a date in the future.

    With --labels, FILE is sent to the topic `labels` instead: transaction_id, is_fraud (true or false, yes or no, 1
    or 0, fraud or genuine), and optionally labelled_at, card_id, terminal_id and event_time. Without labelled_at,
    the labels get the current time. With card_id, terminal_id and event_time, no look-up in Cassandra is needed.
    """
    if not options["words"]:
        taken = (
            f"; {options['with_labels']} was read as the column of --with-labels"
            if options["with_labels"]
            else ""
        )
        msg = f"which FILE? Write it before the options{taken}"
        raise UsageError(msg)
    path, mapping = file_and_mapping(options["words"], options["mapping"])
    _check(context, options, mapping)
    settings = load_settings()
    with _open(path, mapping, settings, options) as reading:
        report, labels = send(reading, settings, options)
        if reading.bad and not report.records:
            msg = f"no record of {path} could be sent: all {reading.bad:,} are malformed; {reading.first_bad}"
            raise UsageError(msg)
        summary = summary_of(path, reading, report, labels, options["recipe"])
    click.echo(json.dumps(summary) if options["as_json"] else "\n".join(lines_of(summary)))


def _open(
    path: Path, mapping: dict[str, str], settings: Settings, options: dict[str, Any]
) -> "AbstractContextManager[TransactionPass | LabelPass]":
    from app.ops.files.label_file import open_labels
    from app.ops.files.transaction_file import open_raw, open_reading
    from app.wire.input_records import RecordRules

    span = {name: options[name] for name in ("skip", "limit", "skip_bad")}
    if options["raw"]:
        if settings.pseudonyms is not None:
            msg = "--raw sends card ids unchanged, and FRAUDSTREAM_CARD_ID_KEYS is set: produce without --raw"
            raise UsageError(msg)
        return open_raw(path, keep=options["keep"], largest=settings.max_message_bytes, **span)
    read = read_as(options, mapping, settings, "fraudstream produce {file}")
    if options["labels"]:
        skew_ms = settings.max_future_skew
        return open_labels(path, read, now_ms=now_ms(), max_future_skew_ms=skew_ms, **span)
    zone, until = options["assume_zone"], options["until"]
    return open_reading(
        path,
        read,
        rules=RecordRules.of(settings),
        until_ms=None if until is None else moment_of("--until", until, zone or UTC),
        label=options["with_labels"],
        **span,
    )


#: Options for transactions, which can be used neither with --raw nor with --labels.
_CHANGING = ("drop", "only_known", "round_amounts", "speed", "with_labels", "until")
_READING = (*FILE_PARAMETERS, "run")


def _check(context: click.Context, options: dict[str, Any], mapping: dict[str, str]) -> None:
    if options["rate"] and options["speed"]:
        msg = "give --rate or --speed, not both"
        raise UsageError(msg)
    run = options["run"]
    if run is not None and not _RUN.fullmatch(run):
        msg = f"--run {run!r} must be 1 to 64 letters, digits, dots, dashes or underscores"
        raise UsageError(msg)
    for name in ("label_after", "ahead"):
        if options[name] and options["with_labels"] is None:
            msg = f"{named(name)} needs --with-labels COLUMN"
            raise UsageError(msg)
    label_after(options)
    if options["labels"] and (unfit := given(context, (*_CHANGING, "raw", "keep"))):
        msg = f"--labels cannot be used with {', '.join(unfit)}"
        raise UsageError(msg)
    if options["raw"]:
        unfit = given(context, tuple(dict.fromkeys((*_CHANGING, *_READING))))
        unfit += ["--map"] if mapping and "--map" not in unfit else []
        if unfit:
            msg = f"--raw sends lines unchanged; it cannot be used with {', '.join(unfit)}"
            raise UsageError(msg)
