"""`fraudstream audit`: who changed what, by pages and by commands."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
import orjson

from app.cli.options import POSITIVE, json_option, moment_ms
from app.display import iso, printable
from app.durations import DAY_MS
from app.errors import UsageError
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from app.cassandra.audit_records import AuditRecord
    from app.domain.audit_objects import NamedObject

#: How far back a list goes that has no beginning.
_DAYS_BACK = 7
#: Objects of a change that a line shows.
_SHOWN = 4


@click.command(
    epilog="\b\nExamples:  fraudstream audit --by ann\n"
    "           fraudstream audit --on C00042 --from 2026-11-01 --json"
)
@click.option(
    "--from",
    "from_ms",
    metavar="TIME",
    callback=moment_ms,
    help="Start time.  [default: 7 days ago]",
)
@click.option("--to", "to_ms", metavar="TIME", callback=moment_ms, help="End time (exclusive).")
@click.option("--by", metavar="NAME", help="Only changes by this person.")
@click.option(
    "--on", metavar="ID", help="Only changes to this alert, card, terminal, transaction or rule."
)
@click.option(
    "--limit",
    type=POSITIVE,
    default=50,
    show_default=True,
    help="Largest number of changes to print.",
)
@json_option
def audit(
    from_ms: int | None,
    to_ms: int | None,
    by: str | None,
    on: str | None,
    limit: int,
    as_json: bool,
) -> None:
    r"""List who changed what, newest first: alerts taken, given back and decided; labels, acknowledgements, snoozes.

    A change is `done`, `refused`, `failed` (a server did not answer, so it may have been made in part) or `started`
    (how it ended is unknown). With --on CARD, changes to the card's alerts are included, even if the card was erased.
    Changes of models and rules are in `fraudstream models history` and `rules history`, erasures in `erase --list`.

    \b
    Exit codes:  0  done
                 2  a time is wrong
                 3  Cassandra does not answer
                 5  tables are missing
    """
    from app.cassandra.audit_records import read_records
    from app.cassandra.session import connected

    settings = load_settings()
    end = time.time_ns() // 1_000_000 + 1 if to_ms is None else to_ms
    begin = end - _DAYS_BACK * DAY_MS if from_ms is None else from_ms
    if begin >= end:
        msg = "--from must be before --to"
        raise UsageError(msg)
    with connected(settings) as session:
        named = None if on is None else _named(session, settings, on)
        found = (
            record
            for record in read_records(session, settings, from_ms=begin, to_ms=end)
            if by in (None, record.by) and (named is None or named.is_in(record.objects))
        )
        shown, more = list(islice(found, limit)), next(found, None) is not None
    if as_json:
        answer = {"records": [_as_json(record) for record in shown], "more": more}
        click.echo(orjson.dumps(answer).decode())
        return
    for line in map(_line, shown):
        click.echo(line)
    if not shown:
        click.echo(f"no changes since {iso(begin)}")
    if more:
        click.echo(f"more than {limit}: give --limit, or --to {iso(shown[-1].at_ms)}")


def _named(session: "Session", settings: Settings, name: str) -> "NamedObject":
    """What `--on` looks for; records of an erased card have a salted hash of its id."""
    from app.cassandra.erase_rows import read_erasures
    from app.domain.audit_objects import NamedObject

    erased = (one for one in read_erasures(session, settings) if one.is_of(name))
    return NamedObject(name, [one.card_hash for one in erased])


def _line(record: "AuditRecord") -> str:
    who = record.by + (f" ({record.role})" if record.role else "")
    objects = sorted(record.objects)
    named = " ".join(objects[:_SHOWN]) + (
        f" and {len(objects) - _SHOWN} more" if objects[_SHOWN:] else ""
    )
    parts = (
        iso(record.at_ms),
        f"{record.result:<7}",
        who,
        f"from {record.origin}",
        record.action,
        named,
    )
    return printable("  ".join([*parts, *_said(record.details)]).rstrip())


def _said(details: Any) -> Iterator[str]:
    for name, value in details.items():
        yield f"{name}={value}"


def _as_json(record: "AuditRecord") -> dict[str, Any]:
    return {
        "at": iso(record.at_ms),
        "by": record.by,
        "role": record.role,
        "from": record.origin,
        "action": record.action,
        "on": sorted(record.objects),
        "result": record.result,
        "details": record.details,
        "id": record.id,
    }
