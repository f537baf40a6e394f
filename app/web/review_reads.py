"""What the review queue needs of Cassandra and of its worker."""

from collections.abc import Sequence
from typing import Any, Protocol

from app.cassandra.review_rows import Review
from app.cassandra.stored_alert import Alert
from app.web.review_order_cache import AlertRankings, AlertReading


class ReviewReads(AlertRankings, Protocol):
    """See `app.cassandra.claims_and_verdicts.ReviewStore`."""

    def alert(self, alert_id: str, now_ms: int) -> Alert | None:
        """One alert."""

    def is_stored(self, alert_id: str) -> bool:
        """Whether there is such an alert."""

    def of_card(self, card_id: str, from_ms: int, now_ms: int) -> list[Alert]:
        """A card's open ones."""

    def of_terminal(self, terminal_id: str, from_ms: int, now_ms: int) -> list[Alert]:
        """Open ones with a transaction at a terminal."""

    def claim(
        self, alert_id: str, by: str, until_ms: int, now_ms: int, decided_at: int | None = None
    ) -> Review:
        """Take one."""

    def release(self, alert_id: str, by: str) -> None:
        """Give one back."""

    def decide(self, alert_id: str, wanted: Review, decided_at: int | None = None) -> Review:
        """Write a verdict."""

    def close(self, alert_id: str, review: Review, now_ms: int) -> None:
        """Labels were sent."""


class ReviewingWorker(AlertReading, Protocol):
    """What the queue needs of a worker."""

    @property
    def reviews(self) -> ReviewReads:
        """The store; it blocks."""

    async def send_labels(self, labels: Sequence[dict[str, Any]]) -> None:
        """Append labels to the topic; done once they are durable."""
