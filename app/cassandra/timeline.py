"""What people see of a card or terminal over time: scored transactions with their labels and alerts."""

from typing import Any

from app.cassandra.alert_queries import alert_ids, terminal_rows
from app.cassandra.label_queries import labels_of
from app.cassandra.prediction_queries import card_predictions
from app.cassandra.session import shared_session
from app.settings import Settings

#: Rows of a page.
SHOWN = 50
_FIELDS = (
    "transaction_id", "card_id", "terminal_id", "event_time_ms", "amount_minor", "score", "is_fraud", "action", "rules",
    "flags",
)  # fmt: skip


def timeline(settings: Settings, kind: str, identifier: str, now_ms: int) -> list[dict[str, Any]]:
    """The newest transactions of a card, or those of a terminal's alerts, newest event first; few queries for many.

    All transactions of a terminal cannot be asked for: `predictions` has no index on it, which would cost every write.
    Uses the session that this process keeps for reads; blocks.

    Returns:
        Fields of the prediction, with its action and rules; `label` (None: unlabelled), `alert_id` (None: no alert).

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: a table is missing.
    """
    session = shared_session(settings)
    if kind == "card":
        found = card_predictions(session, settings, identifier, SHOWN)
        of_alert = alert_ids(session, settings, identifier)
    else:
        # its causes do not say what the model decided: FRAUDSTREAM_ALERT_ON may leave the model out
        found = [
            {**row, "is_fraud": row["score"] >= row["threshold"]}
            for row in terminal_rows(session, settings, identifier)
        ]
        of_alert = {(row["transaction_id"], row["event_time_ms"]): row["alert_id"] for row in found}
    rows = sorted(found, key=lambda row: -row["event_time_ms"])[:SHOWN]
    keys = [(row["transaction_id"], row["event_time_ms"]) for row in rows]
    labels = labels_of(session, settings, keys)
    return [
        {**{name: row[name] for name in _FIELDS}, "label": labels.get(key), "alert_id": of_alert.get(key)}
        for key, row in zip(keys, rows, strict=True)
    ]  # fmt: skip
