"""Labels to a real Cassandra: every column, how long rows live, and where the server puts them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from cassandra.cluster import Session
from cassandra.metadata import Murmur3Token

from app.cassandra.label_rows import LABELS, pack_labels
from app.cassandra.label_store import LabelStore
from app.settings import Settings
from app.wire.label_records import LabelRecord
from tests.builders import T0

pytestmark = pytest.mark.integration

WITH_TERMINAL = LabelRecord(7, T0 + 5, "tx-ü", True, T0 + 1, "card-ç", "t1", T0, b"")
#: A transaction at no terminal, labelled before 1970.
WITHOUT = LabelRecord(1 << 40, T0 + 6, "tx-2", False, -1, "c", None, -5, b"")


async def stored(settings: Settings, session: Session, ttl: str) -> list[dict[str, Any]]:
    """The rows of both labels, in their order."""
    deployment = settings.model_copy(update={"prediction_ttl": ttl})
    labels = [WITH_TERMINAL, WITHOUT]
    await LabelStore(deployment, "labels").store(3, labels)
    rows = session.execute(
        "SELECT transaction_id, card_id, labelled_at, source_partition, source_offset, source_topic, "  # noqa: S608
        "is_fraud, event_time, terminal_id, received_at, TTL(is_fraud) AS ttl, TTL(terminal_id) AS also, "
        f"token(transaction_id) AS place FROM {settings.keyspace}.labels"
    )
    by_id = {row["transaction_id"]: dict(row) for row in rows}
    return [by_id[label.transaction_id] for label in labels]


def moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).replace(tzinfo=None)


async def test_every_column_comes_back_and_rows_are_where_they_were_sent(
    session: Session, settings: Settings
) -> None:
    rows = await stored(settings, session, "forever")
    packed = pack_labels("labels", 3, [WITH_TERMINAL, WITHOUT])
    for label, row, sent in zip((WITH_TERMINAL, WITHOUT), rows, packed, strict=True):
        assert row == {
            "transaction_id": label.transaction_id,
            "card_id": label.card_id,
            "labelled_at": moment(label.labelled_at_ms),
            "source_partition": 3,
            "source_offset": label.offset,
            "source_topic": "labels",
            "is_fraud": label.is_fraud,
            "event_time": moment(label.event_time_ms or 0),
            "terminal_id": label.terminal_id,
            "received_at": moment(label.received_at),
            "ttl": None,
            "also": None,
            "place": Murmur3Token.hash_fn(LABELS.routing_key(sent)),
        }


async def test_labels_live_as_long_as_predictions(session: Session, settings: Settings) -> None:
    for row in await stored(settings, session, "1h"):
        assert 3_500 < row["ttl"] <= 3_600
        assert (row["also"] is None) == (row["terminal_id"] is None)


async def test_a_label_that_comes_again_is_one_row(session: Session, settings: Settings) -> None:
    first = await stored(settings, session, "forever")
    again = await stored(settings, session, "forever")
    assert first == again
    count = session.execute(f"SELECT COUNT(*) AS n FROM {settings.keyspace}.labels")  # noqa: S608
    assert count.one()["n"] == 2
