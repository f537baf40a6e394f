"""The summary as text for people."""

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from app import display
from app.lab.demo.fraud_kinds import FIRST_AT_TERMINAL
from app.lab.demo.summary import Summary
from app.lab.simulation.frauds import AMOUNT_LIMIT
from app.settings import Settings

#: Marks a heading or a warning; `click.style` on a terminal.
Style = Callable[[str], str]

_WIDEST = 60
#: Outcomes that a demo's stream does not have: told where there are any.
_RARE = frozenset({"conflicting", "refund"})
#: Kinds of fraud, for people.
_DONE = {
    "amount": f"amount above {AMOUNT_LIMIT}",
    "terminal": "compromised terminal, fraud confirmed there",
    FIRST_AT_TERMINAL: "compromised terminal, no fraud confirmed there yet",
    "card": "stolen card, five times its usual amounts",
}
_WITHOUT_LABELS = (
    "  this model uses no label features, so it cannot recognise compromised terminals: "
    "the default model can"
)
#: Alerts that are shown.
_ALERTS = 3


def summary_text(
    summary: Summary, settings: Settings, *, bold: Style, call: str, ends: bool
) -> str:
    """Everything that a person reads after a run.

    Args:
        summary: what was measured.
        settings: the deployment.
        bold: marks headings.
        call: how the command line is called here, such as `fraudstream`.
        ends: the workers are stopped now.
    """
    parts = [
        [bold(_verdict(summary)), *_account(summary), *_speed(summary)],
        *([_headed(_frauds(summary, settings), bold)] if summary.frauds else []),
        _headed(_suspicious(summary, settings), bold),
        [bold("Next"), *_next(summary, settings, call, ends=ends)],
    ]
    return "\n".join("\n" + "\n".join(lines) for lines in parts)


def _headed(lines: list[str], bold: Style) -> list[str]:
    """Lines of which the first one is the heading."""
    return [bold(re.sub(r"^  (.*?)(?=  |$)", r"\1  ", lines[0]).rstrip()), *lines[1:]]


def _verdict(summary: Summary) -> str:
    account = summary.account
    if not account.missing and not account.repeated:
        return "PASS: every record is in exactly one place"
    return f"FAIL: {account.missing:,} records are missing, {account.repeated:,} are in two places"


def _account(summary: Summary) -> list[str]:
    account = summary.account
    kinds = " + ".join(
        f"{len(found):,} {'scored in time' if name == 'scored' else name}"
        for name, found in account.outcomes.items()
        if found or name not in _RARE
    )
    lines = [f"  {len(account.read):,} read = {kinds}"]
    if account.reasons:
        told = ", ".join(f"{reason} {count:,}" for reason, count in account.reasons.most_common(4))
        more = ", ..." if len(account.reasons) > 4 else ""
        lines.append(f"  dead: {told}{more}")
    if summary.rounded:
        lines.append(f"  amounts of {summary.rounded:,} records of the file were rounded")
    lines.append(
        f"  {summary.stored:,} rows in Cassandra; {account.out_of_order:,} arrived out of order, "
        f"{account.flagged:,} are flagged as fraud"
    )
    return lines


def _frauds(summary: Summary, settings: Settings) -> list[str]:
    """Recall by kind and in money, and what became of each alert."""
    account, digits = summary.account, settings.minor_unit_digits

    def row(name: str, caught: int, of: int, minor: int, of_minor: int) -> list[str]:
        money = [display.amount(part, digits) for part in (minor, of_minor)]
        return [name, f"{caught:,}", f"{of:,}", _percent(caught, of), *money]

    table = [
        [
            "Frauds",
            "caught",
            "frauds",
            "recall",
            f"caught {settings.currency}",
            f"fraud {settings.currency}",
        ]
    ]
    table += [
        row(
            _DONE[kind],
            one["caught"],
            one["caught"] + one["missed"],
            one["caught_minor"],
            one["caught_minor"] + one["missed_minor"],
        )
        for kind, one in summary.frauds.items()
    ]
    caught, minor = account.caught.total(), account.caught_minor.total()
    of, of_minor = caught + account.missed.total(), minor + account.missed_minor.total()
    table.append(row("all", caught, of, minor, of_minor))
    unknown = f" + {summary.unlabelled:,} unlabelled" if summary.unlabelled else ""
    known = summary.true_positives + account.false_positives
    return [
        *_aligned(table, right={1, 2, 3, 4, 5}),
        f"  {account.flagged:,} flagged = {summary.true_positives:,} frauds + "
        f"{account.false_positives:,} genuine{unknown}: precision {_percent(summary.true_positives, known)}, by amount "
        f"{_percent(minor, minor + account.false_positives_minor)}; the genuine ones are worth "
        f"{display.amount(account.false_positives_minor, digits, settings.currency)}",
        *([] if summary.label_features else [_WITHOUT_LABELS]),
        _labels(summary),
    ]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def _labels(summary: Summary) -> str:
    account = summary.account
    dead = sum(account.labels_dead.values())
    told = ", ".join(f"{reason} {count:,}" for reason, count in account.labels_dead.most_common(4))
    return (
        f"  {summary.labels:,} labels, each one day later in event time: {dead:,} dead-lettered"
        f"{f' ({told})' if told else ''}, {account.labels_waiting:,} waiting"
    )


def _speed(summary: Summary) -> list[str]:
    lines = []
    beside = f" and {summary.labels:,} labels" if summary.labels else ""
    if summary.events_per_second is not None:
        lines.append(
            f"  speed: {summary.events_per_second:,.0f} transactions per second from Kafka to Cassandra: "
            f"{summary.wave_records:,}{beside}, unthrottled, in {summary.wave_seconds:.1f} s"
        )
    gentle = summary.gentle
    if gentle.p50_ms is not None and gentle.p99_ms is not None:
        lines.append(
            f"  latency: p50 {display.milliseconds(gentle.p50_ms)}, p99 {display.milliseconds(gentle.p99_ms)} "
            f"from the broker's append to the row: {gentle.transactions:,} more, at "
            f"{gentle.rate:,.0f} per second"
        )
    if summary.restarts:
        lines.append(f"  a worker was restarted {summary.restarts} times; its log shows why")
    return lines or ["  speed: too few records to measure"]


def _suspicious(summary: Summary, settings: Settings) -> list[str]:
    if not summary.suspicious:
        return [f"  Top alerts: nothing scored {settings.reasons_from:g} or more"]
    digits, currency = settings.minor_unit_digits, settings.currency
    table = [["Top alerts", "score", "amount", "card", "time (UTC)", "reason"]]
    table += [
        [
            str(number),
            f"{prediction['score']:.3f}",
            display.amount(prediction["amount_minor"], digits, currency),
            display.printable(prediction["card_id"]),
            display.moment(prediction["event_time_ms"])[:16],
            "; ".join(display.printable(reason) for reason in prediction["reasons"][:1]),
        ]
        for number, prediction in enumerate(summary.suspicious[:_ALERTS], 1)
    ]
    return _aligned(table, right={1, 2})


def _next(summary: Summary, settings: Settings, call: str, *, ends: bool) -> list[str]:
    used = urlsplit(summary.base_url).port
    port = "" if used == settings.web_port else f" --web-port {used}"
    top = summary.web.get("transaction")
    commands = [
        (
            f"{summary.base_url}/",
            "the dashboard; its menu leads to alerts, review queue and quality",
        ),
        *([(top, "why the top alert has its score")] if top else []),
        (f"{call} verify", "recompute every feature, slowly, and compare"),
    ]
    if ends:
        commands.insert(0, (f"{call} worker{port}", "restart the worker so that these links work"))
    width = max(len(command) for command, _ in commands)
    return [f"  {command:<{width}}   {text}" for command, text in commands]


def _aligned(table: Sequence[Sequence[str]], *, right: set[int]) -> list[str]:
    """A table of texts as lines; columns in `right` align right."""
    cut = [[_cut(cell) for cell in row] for row in table]
    widths = [max(len(row[at]) for row in cut) for at in range(len(cut[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cut
    ]


def _cut(cell: Any) -> str:
    text = str(cell)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"
