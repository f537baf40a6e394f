"""Rows of a backup that an erasure has deleted since: they must not come back.

The erase record on `transactions`, by which `fraudstream erase --again` finds a card, may be gone by then. The audit
record stays, and recognises the card by a salted hash.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from app.cassandra.erase_audit_records import AUDIT_RECORDS
from app.cassandra.erase_rows import ALERT_KEY, ALERT_TABLES, SNOOZES, Erasure
from app.domain.audit_objects import words_in

#: Cards whose look-up is remembered: rows of one card are often together.
_REMEMBERED = 100_000


class ErasedRows:
    """Recognises rows of erased cards. Rows of `alerts` have to be shown before those that hang on them.

    Args:
        erasures: audit records.
    """

    def __init__(self, erasures: Sequence[Erasure]) -> None:
        self._erasures = erasures
        self._erased_at = lru_cache(_REMEMBERED)(self._look)
        self._gone: set[tuple[Any, ...]] = set()
        self._left: set[tuple[Any, ...]] = set()

    def has(self, table: str, row: Mapping[str, Any], written_us: int) -> bool:
        """Whether a row was deleted by an erasure: it is of an erased card, and from before.

        Args:
            table: the row's.
            row: its values by column; moments as epoch milliseconds.
            written_us: when it was written, epoch microseconds.
        """
        if not self._erasures:
            return False
        if table in ALERT_TABLES:
            # it names no card; it goes with the last transaction of its alert
            alert = tuple(row[name] for name in ALERT_KEY)
            return alert in self._gone and alert not in self._left
        if table == AUDIT_RECORDS:
            return self._is_record(row)
        of_card = table != SNOOZES or row["kind"] == "card"
        card = row.get("id" if table == SNOOZES else "card_id") if of_card else None
        if card is None:
            return False
        # not when the row was written: `rewrite` may have done that again
        since = row.get("snoozed_at" if table == SNOOZES else "received_at") or written_us // 1000
        erased = since <= self._erased_at(card)
        if table == "alerts":
            (self._gone if erased else self._left).add(tuple(row[name] for name in ALERT_KEY))
        return erased

    def _is_record(self, row: Mapping[str, Any]) -> bool:
        """Whether an audit record names an erased card, as an object or as a word of a note."""
        objects = row.get("objects") or ()
        cards = {one.removeprefix("card/") for one in objects if one.startswith("card/")}
        words = words_in(json.loads(row.get("details") or "{}"))
        return any(row["at"] <= self._erased_at(one) for one in cards | words)

    def _look(self, card_id: str) -> int:
        """When a card was erased last, epoch milliseconds; -1: never."""
        return max((one.at_ms for one in self._erasures if one.is_of(card_id)), default=-1)
