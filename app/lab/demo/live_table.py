"""The live table: what is flagged, with its score, one reason, and later the truth."""

from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from app import display
from app.lab.demo.fraud_kinds import FIRST_AT_TERMINAL, GENUINE, is_flagged
from app.settings import Settings

#: Rows of the table, and flagged transactions whose truth may still be told.
_ROWS, _OPEN = 12, 2_000
#: Width of a score's bar.
_BAR = 10
_MINUTE_SECONDS = 60.0
#: The truth, for people.
_WORDS = {GENUINE: "genuine", FIRST_AT_TERMINAL: "fraud: terminal"}


class Board:
    """Flagged transactions as they come, and what became known of them.

    Args:
        settings: currency and its digits.
        clock: seconds that never go back.

    Attributes:
        scored, flagged: since the beginning.
        frauds, genuine: of those that were flagged, as far as the truth is known.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.scored = self.flagged = self.frauds = self.genuine = 0
        self._settings = settings
        self._clock = clock
        self._times: deque[float] = deque()
        self._rows: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def score(self, prediction: dict[str, Any]) -> bool:
        """Take a prediction; whether it is flagged."""
        self.scored += 1
        if not is_flagged(prediction):
            return False
        self.flagged += 1
        self._times.append(self._clock())
        self._rows[prediction["transaction_id"]] = {**prediction, "truth": ""}
        if len(self._rows) > _OPEN:
            self._rows.popitem(last=False)
        return True

    def tell(self, transaction_id: str, kind: str) -> dict[str, Any] | None:
        """Take the truth of a transaction; its row if it was flagged."""
        row = self._rows.get(transaction_id)
        if row is None or row["truth"]:
            return None
        row["truth"] = _WORDS.get(kind, f"fraud: {kind}")
        self.genuine += kind == GENUINE
        self.frauds += kind != GENUINE
        return row

    @property
    def per_minute(self) -> int:
        """Flagged transactions of the last minute."""
        while self._times and self._times[0] <= self._clock() - _MINUTE_SECONDS:
            self._times.popleft()
        return len(self._times)

    def line(self, row: dict[str, Any]) -> str:
        """A row for a screen that is no terminal."""
        return "  ".join([*self.cells(row)[:-1], row.get("truth", "")]).rstrip()

    def cells(self, row: dict[str, Any]) -> list[str]:
        """Time, score, amount, card, reason and truth of a row."""
        settings = self._settings
        when = datetime.fromtimestamp(row["event_time_ms"] / 1000, UTC)
        why = [f"rule {rule}" for rule in row.get("rules") or ()] + row["reasons"]
        return [
            f"{when:%H:%M:%S}",
            f"{bar(row['score'])} {row['score']:.2f}",
            display.amount(
                row["amount_minor"], settings.minor_unit_digits, settings.currency
            ).rjust(12),
            display.printable(row["card_id"]),
            display.printable(why[0]) if why else "",
            row.get("truth") or "…",
        ]

    def table(self, status: str) -> Any:
        """The newest rows as a table of `rich`."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), caption=status, caption_justify="left"
        )
        for name in ("time (UTC)", "score", "amount", "card", "reason", "truth"):
            # where the screen is narrow, reasons are shortened, and nothing else
            table.add_column(name, no_wrap=name != "reason")
        for row in list(self._rows.values())[-_ROWS:]:
            style = {"": "yellow", "genuine": "dim"}.get(row["truth"], "red")
            *cells, why, truth = self.cells(row)
            short = Text(why, no_wrap=True, overflow="ellipsis")
            table.add_row(*cells, short, truth, style=style)
        return table

    def status(self, *, sent: int, rate: float, lag: int | None, latency: str) -> str:
        """Rate, alerts, lag and latency in a line.

        Args:
            sent: payments so far.
            rate: payments per second.
            lag: records that the worker has not finished; None: unknown.
            latency: of the last minutes, for people.
        """
        known = f"{self.frauds:,} were fraud, {self.genuine:,} genuine"
        return (
            f"{rate:.0f} per second, {self.per_minute} alerts per minute, lag {display.number(lag)}, {latency}; "
            f"{sent:,} sent, {self.scored:,} scored, {self.flagged:,} flagged, of which {known}. Ctrl-C ends"
        )


def bar(score: float) -> str:
    """A score from 0 to 1 as a bar."""
    full = round(max(0.0, min(1.0, score)) * _BAR)
    return "█" * full + "·" * (_BAR - full)
