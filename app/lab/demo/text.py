"""The summary as text for people."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from app import formats
from app.lab.demo.summary import Summary
from app.lab.simulation.frauds import AMOUNT_LIMIT, KINDS, TERMINAL
from app.settings import Settings

#: Marks a heading or a warning; `click.style` on a terminal.
Style = Callable[[str], str]

#: Columns of the table that are shown, of more than twenty.
_COLUMNS = (
    "card_id",
    "event_time",
    "transaction_id",
    "amount",
    "score",
    "is_fraud",
    "flags",
)
_WIDEST = 44
#: Outcomes that a demo's stream does not have: told where there are any.
_RARE = frozenset({"conflicting", "refund"})
#: Kinds of fraud, for people.
_DONE = {
    "amount": f"an amount above {AMOUNT_LIMIT}",
    "terminal": "any payment at a terminal that is compromised for 28 days",
    "card": "a stolen card, at five times its usual amounts",
}


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
        [bold(_verdict(summary)), *_account(summary)],
        *([[bold("Frauds of the simulation"), *_frauds(summary)]] if summary.frauds else []),
        [bold("Speed"), *_speed(summary)],
        [bold("Most suspicious"), *_suspicious(summary, settings)],
        [bold(summary.query), *_rows(summary.rows)],
        [bold("Look at it while a worker runs"), *_web(summary)],
        [bold("Try next"), *_next(summary, settings, call, ends=ends)],
    ]
    return "\n".join("\n" + "\n".join(lines) for lines in parts)


def flagged_line(prediction: dict[str, Any], settings: Settings) -> str:
    """One transaction that the model calls fraud, in a line."""
    digits, currency = settings.minor_unit_digits, settings.currency
    when = datetime.fromtimestamp(prediction["event_time_ms"] / 1000, UTC)
    amount = formats.amount(prediction["amount_minor"], digits, currency)
    card = formats.printable(prediction["card_id"])
    return (
        f"{when:%H:%M:%S}  {prediction['score']:.3f}  {amount:>14}  {card}  {_why(prediction, 2)}"
    ).rstrip()


def _verdict(summary: Summary) -> str:
    account = summary.account
    if not account.missing and not account.repeated:
        return "Every record is in one place"
    return f"{account.missing:,} records became nothing, {account.repeated:,} two things"


def _account(summary: Summary) -> list[str]:
    account = summary.account
    kinds = " + ".join(
        f"{len(found):,} {name}"
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
        f"  {summary.stored:,} rows in Cassandra; {account.out_of_order:,} came out of order, "
        f"{account.flagged:,} are called fraud"
    )
    return lines


def _frauds(summary: Summary) -> list[str]:
    table = [["kind", "caught", "missed", "what was done"]]
    table += [
        [kind, f"{one['caught']:,}", f"{one['missed']:,}", _DONE[kind]]
        for kind, one in summary.frauds.items()
    ]
    return [
        *_aligned(table, right={1, 2}, widest=120),
        *_terminals(summary),
        f"  {summary.account.false_alarms:,} alerts were no fraud",
        *_labels(summary),
    ]


def _terminals(summary: Summary) -> list[str]:
    """What labels are for: nothing else tells a compromised terminal from another."""
    found = summary.frauds.get(KINDS[TERMINAL])
    if found is None:
        return []
    all_of_them = found["caught"] + found["missed"]
    knows = (
        "its model takes what labels say of terminals"
        if summary.label_features
        else "its model takes nothing that labels say; `FRAUDSTREAM_FEATURES=engineered "
        "FRAUDSTREAM_MODEL=engineered` in a new home does"
    )
    return [
        f"  {found['caught']:,} of {all_of_them:,} at compromised terminals were caught: {knows}"
    ]


def _labels(summary: Summary) -> list[str]:
    account = summary.account
    dead = sum(account.labels_dead.values())
    told = ", ".join(f"{reason} {count:,}" for reason, count in account.labels_dead.most_common(4))
    return [
        f"  {summary.labels:,} labels came a day of event time behind their transactions: "
        f"{dead:,} became dead letters{f' ({told})' if told else ''}, {account.labels_waiting:,} wait"
    ]


def _speed(summary: Summary) -> list[str]:
    lines = []
    beside = f" with {summary.labels:,} labels" if summary.labels else ""
    if summary.events_per_second is not None:
        lines.append(
            f"  {summary.events_per_second:,.0f} transactions a second from Kafka to Cassandra: the "
            f"first {summary.wave_records:,}{beside}, as fast as it goes, in {summary.wave_seconds:.1f} s"
        )
    gentle = summary.gentle
    if gentle.p50_ms is not None and gentle.p99_ms is not None:
        lines.append(
            f"  p50 {formats.milliseconds(gentle.p50_ms)}, p99 {formats.milliseconds(gentle.p99_ms)} "
            f"from the broker's append to the row: {gentle.transactions:,} more, at "
            f"{gentle.rate:,.0f} a second"
        )
    if summary.restarts:
        lines.append(f"  a worker was restarted {summary.restarts} times: its log says why")
    return lines or ["  too few records to measure"]


def _suspicious(summary: Summary, settings: Settings) -> list[str]:
    if not summary.suspicious:
        return [f"  nothing scored {settings.reasons_from:g} or more"]
    digits, currency = settings.minor_unit_digits, settings.currency
    table = [["score", "amount", "card", "time (UTC)", "because"]]
    table += [
        [
            f"{prediction['score']:.3f}",
            formats.amount(prediction["amount_minor"], digits, currency),
            formats.printable(prediction["card_id"]),
            formats.moment(prediction["event_time_ms"])[:16],
            _why(prediction, 1),
        ]
        for prediction in summary.suspicious
    ]
    return _aligned(table, right={0, 1}, widest=120)


def _why(prediction: dict[str, Any], most: int) -> str:
    return "; ".join(formats.printable(reason) for reason in prediction["reasons"][:most])


def _rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["  (none)"]
    shown = [name for name in _COLUMNS if name in rows[0]]
    table = [shown, *([_cell(name, row[name]) for name in shown] for row in rows)]
    rest = len(rows[0]) - len(shown)
    return [*_aligned(table, right={shown.index("amount"), shown.index("score")}),
            f"  ... and {rest} more columns, the features among them"]  # fmt: skip


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if name == "score":
        return f"{value:.4f}"
    if isinstance(value, str):
        return formats.printable(value)
    if isinstance(value, Iterable):
        return ",".join(sorted(map(str, value)))
    return str(value)


def _web(summary: Summary) -> list[str]:
    width = max(map(len, summary.web))
    return [f"  {name:<{width}}  {url}" for name, url in summary.web.items()]


def _next(summary: Summary, settings: Settings, call: str, *, ends: bool) -> list[str]:
    example = next(iter(summary.suspicious), None) or next(iter(summary.rows), None)
    name = shlex.quote(formats.printable(example["transaction_id"])) if example else "ID"
    used = urlsplit(summary.base_url).port
    port = "" if used == settings.web_port else f" --web-port {used}"
    commands = [
        (f"{call} transaction {name}", "why it was scored as it was"),
        (f"{call} verify", "compute every feature once more, slowly, and compare"),
        *([(f"{call} quality", "alerts judged by the labels that came")] if summary.labels else []),
        (f"{call} produce FILE.csv", "your own transactions: --help shows how columns map"),
    ]
    if ends:
        commands.insert(0, (f"{call} worker{port}", "go on: then the addresses above answer"))
        commands.pop()
    width = max(len(command) for command, _ in commands)
    return [f"  {command:<{width}}   {text}" for command, text in commands]


def _aligned(
    table: Sequence[Sequence[str]], *, right: set[int], widest: int = _WIDEST
) -> list[str]:
    """A table of texts as lines; columns in `right` align right."""
    cut = [[cell if len(cell) <= widest else cell[: widest - 1] + "…" for cell in r] for r in table]
    widths = [max(len(row[at]) for row in cut) for at in range(len(cut[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cut
    ]
