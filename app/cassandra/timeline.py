"""What people see of a card or terminal over time: scored transactions with their labels and alerts."""

from typing import Any

from app.cassandra.alert_store import Alert, card_alerts, terminal_alerts
from app.cassandra.label_store import labels_of
from app.cassandra.prediction_reads import card_predictions
from app.cassandra.session import shared_session
from app.domain.alerts import MODEL
from app.settings import Settings

#: Rows of a page.
SHOWN = 50
_FIELDS = (
    "transaction_id", "card_id", "terminal_id", "event_time_ms", "amount_minor", "score", "is_fraud", "flags",
)  # fmt: skip


def timeline(settings: Settings, kind: str, identifier: str, now_ms: int) -> list[dict[str, Any]]:
    """The newest transactions of a card, or those of a terminal's alerts, newest event first.

    All transactions of a terminal cannot be asked for: `predictions` has no index on it, which would cost every write.
    Uses the session that this process keeps for reads; blocks.

    Returns:
        Fields of the prediction; `label` (None: unlabelled), `alert_id` (None: no alert).

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: a table is missing.
    """
    session = shared_session(settings)
    if kind == "card":
        alerts = card_alerts(session, settings, identifier, now_ms)
        found = card_predictions(session, settings, identifier, SHOWN)
    else:
        alerts = terminal_alerts(session, settings, identifier, now_ms)
        found = [row for row in _rows(alerts) if row["terminal_id"] == identifier]
    of_alert = {
        (row["transaction_id"], row["event_time_ms"]): alert.alert_id
        for alert in alerts
        for row in alert.transactions
    }
    rows = sorted(found, key=lambda row: -row["event_time_ms"])[:SHOWN]
    keys = [(row["transaction_id"], row["event_time_ms"]) for row in rows]
    labels = labels_of(session, settings, keys)
    return [
        {**{name: row[name] for name in _FIELDS}, "label": labels.get(key), "alert_id": of_alert.get(key)}
        for key, row in zip(keys, rows, strict=True)
    ]  # fmt: skip


def _rows(alerts: list[Alert]) -> list[dict[str, Any]]:
    return [
        {**row, "is_fraud": MODEL in row["causes"]}
        for alert in alerts
        for row in alert.transactions
    ]
