"""`fraudstream deadletters`: the records that were refused, and why. Reads Kafka; needs no worker."""

import asyncio
import json
from typing import Any

import click

from app import display
from app.cli.options import ListByDefault, json_option
from app.cli.progress import counter
from app.errors import UsageError
from app.settings import load_settings

#: Bytes of a refused record that a list shows.
_SHOWN_BYTES = 100


@click.group(
    cls=ListByDefault,
    epilog="\b\nExamples:  fraudstream deadletters\n"
    "           fraudstream deadletters --reason invalid_json --limit 5\n"
    "           fraudstream deadletters show transactions/0/17\n"
    "           fraudstream deadletters redrive --reason unknown_schema_version --dry-run\n"
    "           fraudstream deadletters skip transactions/0/17 --why 'disk of broker 2'",
)
def deadletters() -> None:
    """Show refused records and send them back: `list` (the default), `show`, `redrive` or `skip`."""


@deadletters.command("list")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Show the newest N; 0 shows only the counts.",
)
@click.option(
    "--reason", metavar="CODE", help="List only records with this reason, such as invalid_json."
)
@json_option
def list_(limit: int, reason: str | None, as_json: bool) -> None:
    """List the newest refused records, then count all of them by reason."""
    from app.kafka.dead_letter_list import list_dead_letters

    settings = load_settings()
    with counter("reading") as show:
        listing = asyncio.run(
            list_dead_letters(
                settings, limit=limit, reason=reason, progress=lambda done, _total: show(done)
            )
        )
    total = listing.counts.total()
    if as_json:
        report = {
            "dead_letters": [letter.described() for letter in listing.newest],
            "counts": dict(listing.counts.most_common()),
            "total": total,
        }
        click.echo(json.dumps(report))
        return
    for letter in listing.newest:
        click.echo(f"{display.printable(letter.source)}  {display.printable(letter.reason)}")
        click.echo(f"    {display.printable(letter.message)}")
        click.echo(f"    {_beginning(letter.value)}")
    if not total:
        click.echo("no dead-letter records")
        return
    if listing.newest:
        click.echo()
    width = max(map(len, listing.counts))
    for code, count in listing.counts.most_common():
        click.echo(f"{display.printable(code):<{width}}  {count:>10,}")
    click.echo(
        f"{len(listing.newest):,} of {total:,} shown; "
        "`fraudstream deadletters show POSITION` prints one in full"
    )


@deadletters.command(
    "show", epilog="\b\nExample:  fraudstream deadletters show transactions/0/17 --json"
)
@click.argument("position")
@json_option
def show(position: str, as_json: bool) -> None:
    """Print one refused record in full. POSITION is topic/partition/offset, as in the list."""
    from app.kafka.dead_letter_list import find_dead_letter

    settings = load_settings()
    with counter("reading") as tell:
        letter = asyncio.run(find_dead_letter(settings, position, lambda done, _total: tell(done)))
    if as_json:
        click.echo(json.dumps(letter.described()))
        return
    facts = {
        "source": letter.source,
        "reason": letter.reason,
        "message": letter.message,
        "refused": f"{display.moment(letter.timestamp_ms)} UTC",
        "key": _escaped(letter.key),
    }
    told = {"topic", "partition", "offset", "reason", "message", "key"}
    facts |= {name: _escaped(raw) for name, raw in letter.headers if name not in told}
    width = max(map(len, facts))
    for name, text in facts.items():
        click.echo(f"{display.printable(name):<{width}}  {display.printable(text)}")
    size = len(letter.value or b"")
    click.echo(f"{'value':<{width}}  {size:,} bytes, unchanged:")
    click.echo()
    click.echo(_escaped(letter.value))


@deadletters.command(
    "redrive",
    epilog="\b\nExamples:  fraudstream deadletters redrive --reason unknown_schema_version --dry-run\n"
    "           fraudstream deadletters redrive transactions/0/17 transactions/2/4\n"
    "           fraudstream deadletters redrive --all",
)
@click.argument("positions", nargs=-1, metavar="[POSITION]...")
@click.option(
    "--reason", metavar="CODE", help="Send the records with this reason, such as missing_key."
)
@click.option("--all", "everything", is_flag=True, help="Send back every refused record.")
@click.option("--dry-run", is_flag=True, help="Send nothing; print what would be sent.")
@json_option
def redrive_(
    positions: tuple[str, ...], reason: str | None, everything: bool, dry_run: bool, as_json: bool
) -> None:
    """Send refused records back to be scored: the same bytes under the same key.

    Use it when an upgrade or a changed setting makes the records valid. If a record is refused again, --all
    and --reason do not send its new dead-letter record. Sending a record twice is safe: the second copy
    counts as a duplicate. Records that were masked, hashed, dropped or cut are not sent: their producer has to send
    them again.
    """
    if sum((bool(positions), reason is not None, everything)) != 1:
        msg = "give one of POSITION, --reason CODE or --all; --dry-run shows what would be sent"
        raise UsageError(msg)
    from app.ops.redrive import redrive

    settings = load_settings()
    with counter("reading") as tell:
        done = asyncio.run(
            redrive(
                settings,
                sources=positions,
                reason=reason,
                dry_run=dry_run,
                progress=lambda count, _total: tell(count),
            )
        )
    if as_json:
        report: dict[str, Any] = {
            "dry_run": dry_run,
            "sent": done.sent.total(),
            "reasons": dict(done.sent.most_common()),
            "refused": [{"source": source, "why": why} for source, why in done.refused],
            "again": done.again,
        }
        click.echo(json.dumps(report))
    else:
        for source, why in done.refused:
            click.echo(f"{display.printable(source)} is not sent: {why}")
        for code, count in done.sent.most_common():
            click.echo(f"{display.printable(code)}  {count:,}")
        verb = "would be sent" if dry_run else "sent back"
        click.echo(
            f"{done.sent.total():,} {verb}, {len(done.refused):,} refused, "
            f"{done.again:,} skipped: refused again after an earlier redrive"
        )
    if positions and done.refused:
        click.get_current_context().exit(1)


@deadletters.command(
    "skip",
    epilog="\b\nExamples:  fraudstream deadletters skip transactions/0/17 --dry-run\n"
    "           fraudstream deadletters skip transactions/0/17 --to 24 --why 'disk of broker 2'",
)
@click.argument("position")
@click.option(
    "--to",
    type=click.IntRange(min=0),
    metavar="OFFSET",
    help="The last offset to skip.  [default: the one before the next readable offset]",
)
@click.option("--why", default="", help="Reason, stored for audits.")
@click.option("--dry-run", is_flag=True, help="Skip nothing; print the offsets.")
@json_option
def skip_(position: str, to: int | None, why: str, dry_run: bool, as_json: bool) -> None:
    """Skip unreadable offsets, so that their partition continues after them.

    Use it for a partition that cannot be read further. The worker's log names the POSITION, topic/partition/offset. The
    skipped records are not scored: send them again from their producer if you can. The dead-letters topic records who
    skipped them, when and why. Workers, verify, replay and rebuild all skip the same offsets, which count as one
    dead-letter record with the reason `skipped`. A running worker continues within seconds.
    """
    from app.ops.give_up_offsets import skip

    made = asyncio.run(skip(load_settings(), position, to=to, why=why, dry_run=dry_run))
    count = made.last - made.first + 1
    if as_json:
        report = {
            "dry_run": dry_run, "topic": made.topic, "partition": made.partition,
            "first": made.first, "last": made.last,
        }  # fmt: skip
        click.echo(json.dumps(report))
        return
    verb = "would be skipped" if dry_run else "skipped"
    click.echo(
        f"{made.topic}/{made.partition}: offsets {made.first} to {made.last} ({count:,}) {verb}"
    )


def _beginning(value: bytes | None) -> str:
    raw = value or b""
    more = " ..." if len(raw) > _SHOWN_BYTES else ""
    return _escaped(raw[:_SHOWN_BYTES]) + more


def _escaped(raw: bytes | None) -> str:
    if not raw:
        return "(empty)"
    return display.printable(raw.decode(errors="backslashreplace"))
