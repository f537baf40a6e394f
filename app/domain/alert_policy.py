"""Alerts: which scored transactions raise one, how severe it is, and which transactions form one alert.

Everything here is a function of one scored transaction. So a replay gives the same alerts under the same keys, in
whatever order transactions are scored.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from app.domain.prediction_flags import ANOMALY
from app.domain.transaction import hash_id

#: Causes of alerts: the model's decision, a rule that fired, an unusual combination of features.
MODEL, RULE = "model", "rule"
CAUSES = (MODEL, RULE, ANOMALY)
#: In rising order.
SEVERITIES = ("low", "medium", "high", "critical")
#: Number of table partitions per day; the first digit of the card's hash selects the partition.
SHARDS = 16
_ALERT_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{16}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Group(NamedTuple):
    """The alerts of one card within one window.

    Attributes:
        alert_id: its id: the second in which its window begins, and a hash of its card.
        opened_at: when its window begins, epoch milliseconds.
    """

    alert_id: str
    opened_at: int

    @property
    def day(self) -> str:
        """The UTC day on which its window begins."""
        return day_of(self.opened_at)

    @property
    def shard(self) -> int:
        """Its table partition within that day."""
        return shard_of(self.alert_id)


def group_of(card_id: str, event_time_ms: int, window_ms: int) -> Group:
    """The group of a card's transaction.

    The windows of a card follow each other without gaps. Their offset depends on the card, so that not all windows
    begin at the full hour.

    Args:
        card_id: the card.
        event_time_ms: event time of the transaction.
        window_ms: length of a window, in whole seconds.
    """
    hashed = hash_id(card_id)
    window, second = max(1, window_ms // 1000), event_time_ms // 1000
    begin = second - (second - int.from_bytes(hashed, "big")) % window
    moment = datetime.fromtimestamp(begin, UTC)
    return Group(f"{moment:%Y%m%dT%H%M%S}-{hashed.hex()}", begin * 1000)


def place_of(alert_id: str) -> Group:
    """The group of an alert id.

    Raises:
        ValueError: it is not the id of an alert.
    """
    if not _ALERT_ID.fullmatch(alert_id):
        msg = f"{alert_id!r} is not the id of an alert"
        raise ValueError(msg)
    moment = datetime.strptime(alert_id.partition("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return Group(alert_id, int((moment - _EPOCH).total_seconds()) * 1000)


def is_alert_id(text: str) -> bool:
    """Whether a text has the form of an alert id."""
    try:
        place_of(text)
    except ValueError:
        return False
    return True


def shard_of(alert_id: str) -> int:
    """The table partition of an alert within its day."""
    return int(alert_id[alert_id.index("-") + 1], SHARDS)


def day_of(moment_ms: int) -> str:
    """The UTC day of a time, such as 2026-11-29."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-%d")


def expected_loss(transactions: Iterable[Mapping[str, Any]]) -> float:
    """Total expected loss of an alert's transactions, in minor units; the review queue is ranked by it.

    The expected loss of a transaction is score times amount, or the whole amount if a rule fired.
    """
    return sum(_loss(row["score"], row["amount_minor"], row["causes"]) for row in transactions)


def _loss(score: float, minor: int, causes: Collection[str]) -> float:
    return minor if RULE in causes else score * minor


def rank(severity: str) -> int:
    """The rank of a severity: 0 is the lowest."""
    return SEVERITIES.index(severity)


def _causes(is_fraud: bool, flags: Collection[str], rules: Collection[str]) -> Mapping[str, bool]:
    return {MODEL: is_fraud, RULE: bool(rules), ANOMALY: ANOMALY in flags}


def may_raise_alert(is_fraud: bool, flags: Collection[str], rules: Collection[str]) -> bool:
    """Whether any policy would raise an alert for a scored transaction."""
    return any(_causes(is_fraud, flags, rules).values())


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """Decides which scored transactions raise alerts, and their severity.

    Attributes:
        causes: those of `CAUSES` that raise an alert.
        window_ms: flagged transactions of one card within this time form one alert.
        losses_minor: expected losses (score times amount) from which an alert is medium, high and critical; rising,
            in minor units. If a rule fired, the whole amount counts.
        currency: currency of the amounts.
    """

    causes: Collection[str]
    window_ms: int
    losses_minor: Sequence[float]
    currency: str = "EUR"

    def why(self, *, is_fraud: bool, flags: Collection[str], rules: Collection[str]) -> list[str]:
        """The causes of an alert, in the order of `CAUSES`; empty if the transaction raises none."""
        found = _causes(is_fraud, flags, rules)
        return [cause for cause in CAUSES if found[cause] and cause in self.causes]

    def severity(self, score: float, minor: int, causes: Collection[str]) -> str:
        """The severity of an alert."""
        loss = _loss(score, minor, causes)
        return SEVERITIES[sum(loss >= limit for limit in self.losses_minor)]

    @property
    def named(self) -> dict[str, Any]:
        """The policy, as each alert records it: these settings are on no log."""
        return {
            "causes": [cause for cause in CAUSES if cause in self.causes],
            "window_ms": self.window_ms,
            "losses_minor": list(self.losses_minor),
        }

    def alert(self, prediction: Mapping[str, Any]) -> dict[str, Any] | None:
        """The alert of a scored transaction; None if it raises none.

        Args:
            prediction: its prediction's fields (see docs/outputs.md), with the ids of transaction, card and terminal.
        """
        flags, rules = prediction["flags"], prediction.get("rules") or []
        causes = self.why(is_fraud=prediction["is_fraud"], flags=flags, rules=rules)
        if not causes:
            return None
        card_id, minor = prediction["card_id"], prediction["amount_minor"]
        group = group_of(card_id, prediction["event_time_ms"], self.window_ms)
        severity = self.severity(prediction["score"], minor, causes)
        position = f"{prediction['source_partition']}-{prediction['source_offset']}"
        return {
            "key": f"{group.alert_id}-{position}",
            "alert_id": group.alert_id,
            "opened_at": group.opened_at,
            "severity": severity,
            "causes": causes,
            "currency": self.currency,
            "rules": list(rules),
            **{name: prediction.get(name) for name in COPIED},
            "policy": self.named,
        }


#: Fields of an alert that are copied from its prediction.
COPIED = (
    "transaction_id", "card_id", "terminal_id", "amount_minor", "event_time_ms", "score", "threshold",
    "anomaly_score", "action", "reasons", "flags", "model_version", "source_topic", "source_partition",
    "source_offset", "received_at", "scored_by",
)  # fmt: skip
