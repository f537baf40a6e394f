"""`fraudstream label`: what became known of one transaction."""

import asyncio
import time
from datetime import UTC, datetime

import click
import orjson

from app.errors import UsageError
from app.settings import load_settings


@click.command(
    epilog="\b\nExamples:  fraudstream label tour-0000007 fraud\n"
    "           fraudstream label tour-0000007 genuine --at 2026-11-20T09:00:00Z --card C00042"
)
@click.argument("transaction_id")
@click.argument("verdict", type=click.Choice(["fraud", "genuine"]))
@click.option("--card", metavar="ID", help="Its card: needed when several cards use this id.")
@click.option(
    "--at", metavar="TIME", help="When it became known, ISO 8601 with a zone.  [default: now]"
)
def label(transaction_id: str, verdict: str, card: str | None, at: str | None) -> None:
    """Say that a transaction was fraud, or was genuine after all.

    The label goes to the topic `labels`; a running worker finds the transaction, stores the label beside
    it and tells its terminal. The latest label of a transaction holds. One whose transaction is not
    known within FRAUDSTREAM_LABEL_WAIT ends on `dead-letters`.
    """
    from app.tools import produce as tool
    from app.topics import Topics

    settings = load_settings()
    now_ms = time.time_ns() // 1_000_000
    record = {
        "transaction_id": transaction_id,
        "is_fraud": verdict == "fraud",
        "labelled_at": now_ms if at is None else _moment_ms(at),
    }
    if card is not None:
        record["card_id"] = card
    pair = (transaction_id.encode(), orjson.dumps(record))
    with tool.quiet_client():
        report = asyncio.run(
            tool.produce([pair], settings=settings, topic=Topics(settings).labels.name)
        )
    click.echo(f"{transaction_id} is {verdict}: sent to {report.topic}")


def _moment_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        msg = f"--at {text!r}: write ISO 8601 with a zone, such as 2026-11-20T09:00:00Z"
        raise UsageError(msg)
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)
