"""`fraudstream label`: label transactions."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import orjson

from app import display
from app.cli.change_records import audit_record, by_option
from app.cli.options import valid_id
from app.domain.event_times import parse_moment_ms
from app.domain.transaction import DeadRecordError
from app.errors import NotFoundError, UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from cassandra.cluster import Session


@click.command(
    epilog="\b\nExamples:  fraudstream label t-3 fraud\n"
    "           fraudstream label t-3 t-4 genuine --at 2026-11-20T09:00:00Z\n"
    "           fraudstream label t-3 fraud --card card-1 --by ann"
)
@click.argument("transaction_ids", metavar="ID...", nargs=-1, required=True)
@click.argument("verdict", type=click.Choice(["fraud", "genuine"]))
@click.option(
    "--card",
    metavar="ID",
    help="Card of the transactions; needed if several cards use the same id.",
)
@click.option(
    "--at", metavar="TIME", help="Time of the label, ISO 8601 with a UTC offset.  [default: now]"
)
@click.option(
    "--wait",
    is_flag=True,
    help="Also label unknown transactions: the labels wait for them, up to FRAUDSTREAM_LABEL_WAIT.",
)
@by_option
def label(
    transaction_ids: tuple[str, ...],
    verdict: str,
    card: str | None,
    at: str | None,
    wait: bool,
    by: str | None,
) -> None:
    r"""Label transactions as fraud or as genuine.

    Each id is looked up in Cassandra first. If an id is unknown or ambiguous, no label is sent. The labels go to the
    topic `labels`. A running worker stores each label with its transaction, and updates the state of the
    transaction's terminal. The latest label of a transaction wins. `fraudstream audit` lists who set labels.

    \b
    Exit codes:  0  all labels were sent
                 2  several transactions have the same id: use --card
                 3  Kafka or Cassandra does not answer, or the audit record cannot be written: no label is sent
                 4  a transaction is unknown: check the id, or use --wait
    """
    from app.cassandra.audit_records import recorded
    from app.cassandra.session import connected
    from app.ops import produce as tool
    from app.topics import Topics
    from app.wire.label_records import label_object, label_of_row

    settings = load_settings()
    is_fraud = verdict == "fraud"
    ids = tuple(dict.fromkeys(map(valid_id, transaction_ids)))
    if card is not None:
        valid_id(card, "card_id")
    now_ms = time.time_ns() // 1_000_000
    labelled_at_ms = now_ms
    if at is not None:
        labelled_at_ms = _moment_ms(at)
        _check_time(at, labelled_at_ms, now_ms + settings.max_future_skew)
    with connected(settings) as session:
        if wait:
            at_text = display.iso(labelled_at_ms)
            labels = [
                label_object(name, is_fraud=is_fraud, labelled_at=at_text, card_id=card)
                for name in ids
            ]
            cards = {card} - {None}
        else:
            rows = list(_rows(session, settings, ids, card))
            labels = [label_of_row(row, is_fraud=is_fraud, at_ms=labelled_at_ms) for row in rows]
            cards = {row["card_id"] for row in rows}
        pairs = [(one["transaction_id"].encode(), orjson.dumps(one)) for one in labels]
        objects = [f"transaction/{name}" for name in ids] + [f"card/{name}" for name in cards]
        change = audit_record("label", objects, by, verdict=verdict, labelled_at=at)
        with recorded(session, settings, change), tool.quiet_client():
            report = asyncio.run(
                tool.produce(pairs, settings=settings, topic=Topics(settings).labels.name)
            )
    for name in ids:
        click.echo(f"{display.printable(name)} is {verdict}: sent to {report.topic}")


def _rows(
    session: "Session", settings: Settings, ids: Sequence[str], card: str | None
) -> Iterator[dict[str, Any]]:
    """Each transaction, as Cassandra has it.

    Raises:
        NotFoundError: one is unknown.
        UsageError: several have an id.
    """
    from app.cassandra.label_queries import find_places

    found = find_places(session, settings, ids)
    of_card = [[row for row in rows if card in (None, row["card_id"])] for rows in found]
    if unknown := [name for name, rows in zip(ids, of_card, strict=True) if not rows]:
        names = ", ".join(map(display.printable, unknown[:5])) + (", ..." if unknown[5:] else "")
        of = "" if card is None else f" of card {display.printable(card)}"
        msg = (
            f"no transaction{of} with the id {names} has been scored and stored: nothing was "
            "sent; check the id, or let "
            "the label wait for it with --wait"
        )
        raise NotFoundError(msg)
    for name, rows in zip(ids, of_card, strict=True):
        if len(rows) > 1:
            cards = ", ".join(display.printable(row["card_id"]) for row in rows[:5])
            msg = (
                f"{len(rows)} transactions have the id {display.printable(name)}, of cards {cards}: nothing was "
                "sent; give --card, or send a file with event_time (`produce --labels`)"
            )
            raise UsageError(msg)
        yield {"transaction_id": name, **rows[0]}


def _check_time(at: str, labelled_at_ms: int, latest_ms: int) -> None:
    """Refuse what workers would refuse.

    Raises:
        UsageError: a label cannot have this time.
    """
    if labelled_at_ms > latest_ms:
        msg = f"--at {at} is in the future"
        raise UsageError(msg)
    try:
        parse_moment_ms(labelled_at_ms, f"--at {at}", "ms")
    except DeadRecordError as dead:
        raise UsageError(str(dead)) from None


def _moment_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        msg = f"--at {text!r}: write ISO 8601 with a UTC offset, such as 2026-11-20T09:00:00Z"
        raise UsageError(msg)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
