"""What analysts have said of alerts: rows of `alert_reviews`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.cassandra.prediction_rows import epoch_ms


@dataclass(frozen=True)
class Review:
    """What is known of an alert's review.

    Attributes:
        claimed_by, claimed_until: who looks at it, and until when it is kept for them, epoch milliseconds.
        verdict: the latest one, `fraud` or `genuine`; None: there was none.
        decided_by, decided_at: who decided and when, epoch milliseconds.
        transactions: ids of those that the verdict is about: what the analyst saw.
        note: theirs.
        earlier: ids of those that earlier verdicts were about.
        labelled_at: when the labels of the verdict were on their topic, epoch milliseconds; None: they are to be sent.
    """

    claimed_by: str | None = None
    claimed_until: int | None = None
    verdict: str | None = None
    decided_by: str | None = None
    decided_at: int | None = None
    transactions: tuple[str, ...] = ()
    note: str | None = None
    earlier: tuple[str, ...] = ()
    labelled_at: int | None = None

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "Review":
        """A row of the table."""
        return cls(
            row.get("claimed_by"),
            epoch_ms(row.get("claimed_until")),
            row.get("verdict"),
            row.get("decided_by"),
            epoch_ms(row.get("decided_at")),
            tuple(row.get("transactions") or ()),
            row.get("note"),
            tuple(row.get("earlier") or ()),
            epoch_ms(row.get("labelled_at")),
        )

    @property
    def decision(self) -> tuple[str | None, str | None, int | None]:
        """What was decided, by whom and when."""
        return self.verdict, self.decided_by, self.decided_at

    @property
    def unsent(self) -> bool:
        """Whether labels of the verdict are still to be sent."""
        return self.verdict is not None and self.labelled_at is None

    @property
    def covered(self) -> frozenset[str]:
        """Ids of the transactions that verdicts were about."""
        return frozenset(self.transactions + self.earlier)

    def holder(self, now_ms: int) -> str | None:
        """Who has it now; None: nobody."""
        return self.claimed_by if (self.claimed_until or 0) > now_ms else None
