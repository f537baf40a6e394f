"""Rows of a backup that must not come back: of cards that were erased since."""

from typing import Any

from app.cassandra.erase_rows import ALERT_KEY, Erasure, hash_of
from app.cassandra.erased_since_backup import ErasedRows

AT_MS = 1_700_000_000_000
ERASED = [
    Erasure("e1", AT_MS, "bo", "asked", (0, 9), card_hash=hash_of("c1", "s1"), salt="s1"),
    Erasure("e2", AT_MS - 500, "bo", "asked", (1, 3), card_hash=hash_of("c2", "s2"), salt="s2"),
]


def alert(name: str) -> dict[str, Any]:
    return dict.fromkeys(ALERT_KEY, name)


def test_rows_from_before_the_erasure_of_their_card() -> None:
    erased = ErasedRows(ERASED)
    for card, received, gone in (
        ("c1", AT_MS - 1, True), ("c1", AT_MS + 1, False), ("c2", AT_MS - 1, False), ("c2", AT_MS - 501, True),
        ("c3", 1, False),
    ):  # fmt: skip
        row = {"card_id": card, "received_at": received}
        for table in ("predictions", "conflicting_predictions", "labels", "refunds"):
            assert erased.has(table, row, (AT_MS + 9) * 1000) is gone, (card, received)
    # without the time of its record, that of its writing
    assert erased.has("predictions", {"card_id": "c1"}, (AT_MS - 1) * 1000)
    assert not erased.has("predictions", {"card_id": "c1"}, (AT_MS + 1) * 1000)
    assert not ErasedRows([]).has("predictions", {"card_id": "c1", "received_at": 1}, 1)


def test_what_hangs_on_alerts_goes_with_their_last_transaction() -> None:
    erased = ErasedRows(ERASED)
    for name, card, received in (
        ("gone", "c1", AT_MS - 9), ("left", "c1", AT_MS - 9), ("left", "c1", AT_MS + 9), ("other", "c3", 1),
    ):  # fmt: skip
        erased.has("alerts", {**alert(name), "card_id": card, "received_at": received}, 0)
    for table in ("alert_acks", "alert_reviews"):
        assert erased.has(table, alert("gone"), 0)
        assert not any(erased.has(table, alert(name), 0) for name in ("left", "other", "unknown"))


def test_snoozes_and_what_names_no_card() -> None:
    erased = ErasedRows(ERASED)
    snooze = {"kind": "card", "id": "c1", "snoozed_at": AT_MS - 1}
    assert erased.has("alert_snoozes", snooze, 0)
    assert not erased.has("alert_snoozes", {**snooze, "snoozed_at": AT_MS + 1}, 0)
    assert not erased.has("alert_snoozes", {**snooze, "kind": "terminal"}, 0)
    assert not erased.has("models", {"name": "c1"}, 0)
