"""The order in which open alerts are reviewed: by the expected loss of what is still to be decided, greatest first."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.cassandra.stored_alert import Alert
from app.domain.alert_policy import expected_loss


@dataclass(frozen=True)
class Ranking:
    """Open alerts, ranked.

    Attributes:
        alerts: those with the greatest expected loss, it first.
        open: how many there are.
    """

    alerts: list[Alert] = field(default_factory=list)
    open: int = 0


def ranking(alerts: Iterator[Alert], most: int) -> Ranking:
    """The open ones of some alerts, the `most` with the greatest expected loss; no more are in memory."""
    count = 0

    def counted() -> Iterator[Alert]:
        nonlocal count
        for alert in alerts:
            if alert.state == "open":
                count += 1
                yield alert

    best = heapq.nlargest(most, counted(), key=lambda alert: expected_loss(alert.todo))
    return Ranking(best, count)
