"""`fraudstream erase`: delete what is stored about a card, and say when the rest is gone."""

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from app.cli.options import FiniteRange, json_option
from app.cli.progress import stages
from app.display import iso, printable
from app.errors import UsageError
from app.pseudonyms import is_pseudonym
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.cassandra.erase_rows import Erasure
    from app.ops.erase_card import Report


@click.command(
    epilog="\b\nExamples:  fraudstream erase --card C00042 --dry-run\n"
    "           fraudstream erase --card C00042 --reason 'request 4711'\n"
    "           fraudstream erase --list"
)
@click.option("--card", "card_id", metavar="ID", help="The card.")
@click.option("--reason", help="Why, for the audit record. Do not write the card's id here.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--list", "listing", is_flag=True, help="List erasures; with --card, those of a card."
)
@click.option(
    "--again",
    is_flag=True,
    help="Delete rows of erased cards that were written again: after the log was processed again "
    "under a new FRAUDSTREAM_APP_ID, after `rewrite`, or after an erasure that was interrupted.",
)
@click.option(
    "--timeout",
    type=FiniteRange(min=0),
    default=300,
    show_default=True,
    help="Seconds to wait for workers.",
)
@json_option
def erase(
    card_id: str | None,
    reason: str | None,
    dry_run: bool,
    yes: bool,
    listing: bool,
    again: bool,
    timeout: float,
    as_json: bool,
) -> None:
    r"""Delete the rows and the state of a card, and show by when Kafka will have deleted its records.

    It deletes at once: the card's rows in Cassandra, its state, labels that wait for its transactions, and its entries
    on lists. Records on `control` that mention the card only in a note or reason are deleted, unless the current
    model, rules or lists depend on them. Kafka deletes its records later: the command shows by when, for each topic.
    Workers must be running. Later transactions of the card start with an empty state. An audit record of the erasure
    stays. In audit records of changes, a salted hash replaces the card's id.

    With FRAUDSTREAM_CARD_ID_KEYS, all pseudonyms of the card are erased. Records under the raw card id are erased,
    too, unless FRAUDSTREAM_CARD_IDS=pseudonyms. docs/private-data.md has the whole procedure.

    \b
    Exit codes:  0  done
                 2  a rule names the card, there are results of replays, or the options do not fit together
                 3  a server does not answer, workers did not catch up in time, or another `erase` is running: the
                    message says how to continue
    """
    settings = load_settings()
    if listing or again:
        if dry_run or reason or (again and (listing or card_id)):
            msg = "--list takes no other option than --card and --json, and --again none but --json and --timeout"
            raise UsageError(msg)
        _list(settings, card_id, as_json) if listing else _again(settings, timeout, as_json)
        return
    if not card_id:
        msg = "name the card with --card"
        raise UsageError(msg)
    cards = _cards(settings, card_id)
    if dry_run:
        from app.ops.erase_card import preview

        _show([asyncio.run(preview(settings, card)) for card in cards], as_json, would=True)
        return
    if not reason:
        msg = "say why with --reason: the audit record needs it"
        raise UsageError(msg)
    if any(card in reason for card in (card_id, *cards)):
        msg = "--reason must not contain the card's id: the audit record is kept forever"
        raise UsageError(msg)
    if not yes:
        if not sys.stdin.isatty():
            msg = f"erase deletes all that is stored about card {card_id}: without a terminal, confirm with --yes"
            raise UsageError(msg)
        click.confirm(f"Delete everything that is stored about card {card_id}?", abort=True)
    from app.ops.erase_card import erase as run

    with stages() as progress:
        reports = [
            asyncio.run(
                run(settings, card, reason=reason, timeout_seconds=timeout, progress=progress)
            )
            for card in cards
        ]
    _show(reports, as_json)


def _cards(settings: Settings, card_id: str) -> list[str]:
    """The ids under which a card is stored."""
    if settings.pseudonyms is None or is_pseudonym(card_id):
        return [card_id]
    pseudonyms = settings.pseudonyms.all_of(card_id)
    # where others are accepted, it may have come as it is; elsewhere the erase record would be the first to have it
    return pseudonyms if settings.card_ids == "pseudonyms" else [card_id, *pseudonyms]


def _show(reports: "list[Report]", as_json: bool, *, would: bool = False) -> None:
    if as_json:
        click.echo(json.dumps({"erasures": [_as_json(r.erasure, r.undated) for r in reports]}))
        return
    for report in reports:
        erasure = report.erasure
        head = "Would delete" if would else f"Erasure {erasure.id}: deleted"
        click.echo(f"{head} from Cassandra:")
        for table, rows in erasure.rows.items():
            how = "  (stay, without the card's id)" if table == "audit_records" else ""
            click.echo(f"  {table:<24} {rows:>9,}{how}")
        click.echo(
            f"{'Would delete' if would else 'Deleted'} {report.changes:,} changes that name it from control."
        )
        if erasure.kept:
            click.echo(f"{'Would keep' if would else 'Kept'} {erasure.kept:,}: {_DECIDES}")
        for name in report.replays:
            click.echo(
                f"First remove a replay, which may have copies: fraudstream replay --remove {name}"
            )
        if not would:
            click.echo("Workers have deleted the card's state.")
        click.echo("Records in Kafka are gone by:")
        for topic, at_ms in erasure.gone_by.items():
            click.echo(f"  {topic:<40} {iso(at_ms)}")
        for topic in report.undated:
            click.echo(f"  {topic:<40} no date: {_UNDATED}")
    click.echo(
        'Next: docs/private-data.md, "After the erasure" (disks of Cassandra, Kafka and workers).'
    )


_DECIDES = (
    "these changes name the card in a note or a reason, and their place in the log decides what is in force "
    "(fraudstream models history, rules history)"
)
_UNDATED = "set retention.ms, or of a compacted topic max.compaction.lag.ms"


def _list(settings: Settings, card_id: str | None, as_json: bool) -> None:
    from app.ops.erase_card import erasures

    found = asyncio.run(erasures(settings, _cards(settings, card_id) if card_id else ()))
    if as_json:
        click.echo(json.dumps({"erasures": [_as_json(one) for one in found]}))
        return
    for one in found:
        rows = f"{sum(one.rows.values()):,} rows" if one.rows else "not finished: --again"
        click.echo(
            f"{iso(one.at_ms)}  {one.id}  {printable(one.by)}  {rows}  {printable(one.reason)}"
        )
    if not found:
        click.echo("this card was not erased" if card_id else "no card was erased")


def _again(settings: Settings, timeout: float, as_json: bool) -> None:
    from app.ops.erase_card import again

    with stages() as progress:
        done = asyncio.run(again(settings, timeout_seconds=timeout, progress=progress))
    now_ms = time.time_ns() // 1_000_000
    if as_json:
        told = [
            {"id": one.erasure.id, "deleted": one.rows, "lacks": one.lacks(now_ms)} for one in done
        ]
        click.echo(json.dumps({"erasures": told}))
        return
    for one in done:
        text = one.lacks(now_ms) or (
            "gone from Kafka" if one.rows is None else f"{sum(one.rows.values()):,} rows deleted"
        )
        click.echo(f"{iso(one.erasure.at_ms)}  {one.erasure.id}  {text}")
    if not done:
        click.echo("no card was erased")


def _as_json(erasure: "Erasure", undated: list[str] | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": erasure.id,
        "at": iso(erasure.at_ms),
        "by": erasure.by,
        "reason": erasure.reason,
        "partition": erasure.place[0],
        "offset": erasure.place[1],
        "deleted": erasure.rows,
        "changes_kept": erasure.kept,
        "gone_by": {topic: iso(at_ms) for topic, at_ms in erasure.gone_by.items()},
    }
    return told if undated is None else {**told, "no_date": undated}
