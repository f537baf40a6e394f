"""An alert as people see it: transactions of one card within a window, and what was done about them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.cassandra.prediction_rows import epoch_ms
from app.cassandra.review_rows import Review
from app.cassandra.snoozes import Snoozes
from app.display import iso
from app.domain.alert_policy import CAUSES, rank


@dataclass
class Alert:
    """The alerts of one card within a window.

    Attributes:
        alert_id, card_id, severity, causes, rules: what they have in common; the highest severity.
        opened_at: when the window begins, epoch milliseconds; `opened` the same as ISO 8601.
        transactions: its rows, newest event first, as the topic has them.
        amount_minor, currency: sum of amounts.
        acked: who has acknowledged it last, when, and the note; None: nobody.
        snoozed_until: until when nobody is told of it, epoch milliseconds; None: people are.
        review: claims and verdicts.
    """

    alert_id: str
    card_id: str
    opened_at: int
    transactions: list[dict[str, Any]]
    acked: dict[str, Any] | None = None
    snoozed_until: int | None = None
    review: Review = field(default_factory=Review)

    @property
    def todo(self) -> list[dict[str, Any]]:
        """The transactions that nobody has seen to: of no verdict, and received after the acknowledgement."""
        is_done = is_done_by(self.acked, self.review)
        return [
            row
            for row in self.transactions
            if not is_done(row["transaction_id"], row["received_at"])
        ]

    @property
    def handled(self) -> dict[str, Any] | None:
        """Who has acknowledged or decided it last, when, and the note; None: nobody."""
        review = self.review
        if review.verdict is None or (self.acked and self.acked["at"] > (review.decided_at or 0)):
            return self.acked
        note = f"{review.verdict}: {review.note}" if review.note else review.verdict
        return {"at": review.decided_at, "by": review.decided_by, "note": note}

    @property
    def severity(self) -> str:
        """The highest one."""
        return max((row["severity"] for row in self.transactions), key=rank)

    @property
    def state(self) -> str:
        """open, acked or snoozed. One that was acknowledged is open again with its next transaction."""
        if not self.todo:
            return "acked"
        return "snoozed" if self.snoozed_until else "open"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = self.transactions
        return {
            "alert_id": self.alert_id,
            "card_id": self.card_id,
            "opened_at": self.opened_at,
            "opened": iso(self.opened_at),
            "transactions": rows,
            "acked": self.handled,
            "todo": len(self.todo),
            "snoozed_until": self.snoozed_until,
            "state": self.state,
            "severity": self.severity,
            "causes": [cause for cause in CAUSES if any(cause in row["causes"] for row in rows)],
            "amount_minor": sum(row["amount_minor"] for row in rows),
            "currency": rows[0]["currency"],
        }


@dataclass(frozen=True)
class Handled:
    """What people have done about an alert.

    Attributes:
        at_ms: when it was acknowledged or decided last, epoch milliseconds.
        covers: tells of a transaction's id and reception (epoch milliseconds) whether that was about it.
    """

    at_ms: int
    covers: Callable[[str, int | None], bool]


def is_done_by(ack: Mapping[str, Any] | None, review: Review) -> Callable[[str, int | None], bool]:
    """A function of a transaction's id and reception (epoch ms): whether it was acknowledged or decided."""
    covered, acked_at = review.covered, -1 if ack is None else ack["at"]
    return lambda name, received_at: name in covered or (received_at or 0) <= acked_at


def alert_of(
    alert_id: str,
    rows: list[dict[str, Any]],
    ack: dict[str, Any] | None,
    review: Review,
    snoozes: Snoozes,
    now_ms: int,
) -> Alert:
    """An alert of its rows (see `alert_row`), its acknowledgement and review; snoozed where all of its rows are."""
    alert = Alert(alert_id, rows[0]["card_id"], rows[0]["opened_at"], rows, ack, None, review)
    # nobody is told of it where nobody would be told of any of its transactions
    untils = [snoozes.until(row, now_ms) for row in alert.todo or rows]
    if None not in untils:
        alert.snoozed_until = min(until for until in untils if until is not None)
    return alert


def alert_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `alerts` as the topic has it."""
    found = {
        name: list(value) if isinstance(value, (list, tuple)) else value
        for name, value in row.items()
        if name not in ("day", "shard", "event_time", "amount")
    }
    for name in ("causes", "rules", "reasons", "flags"):
        found[name] = list(row[name] or ())
    for name in ("opened_at", "received_at"):
        found[name] = epoch_ms(row[name])
    return found | {"event_time_ms": epoch_ms(row["event_time"])}


def ack_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `alert_acks`."""
    return {"at": epoch_ms(row["acked_at"]), "by": row["acked_by"], "note": row["note"]}
