"""Erasing a card from audit records: they stay, and a salted hash takes the place of the card's id."""

import json

from cassandra.cluster import Session

from app.cassandra.prediction_rows import epoch_ms
from app.cassandra.session import SCAN
from app.domain.audit_objects import CardErasure
from app.settings import Settings

AUDIT_RECORDS = "audit_records"


def pseudonymise(
    session: Session,
    settings: Settings,
    erasure: CardErasure,
    until_ms: int | None,
    *,
    dry_run: bool = False,
) -> int:
    """Take a card out of all records; gives the number of those that named it.

    All are read: a note may name a card, and there are as many as people have made changes.

    Args:
        session: to read and write with.
        settings: keyspace.
        erasure: of the card.
        until_ms: records of before this moment, epoch milliseconds; None: all.
        dry_run: change nothing, only count.
    """
    table = f"{settings.keyspace}.{AUDIT_RECORDS}"
    query = f"SELECT day, at, id, objects, details, TTL(result) FROM {table}"  # noqa: S608
    update = session.prepare(
        f"UPDATE {table} USING TTL ? SET objects = ?, details = ? WHERE day = ? AND at = ? AND id = ?"  # noqa: S608
    )
    found = 0
    for day, at, name, objects, details, ttl in session.execute(query, execution_profile=SCAN):
        if until_ms is not None and (epoch_ms(at) or 0) > until_ms:
            continue
        said = json.loads(details or "{}")
        others, text = erasure.of_objects(objects or ()), erasure.of_details(said)
        if others == frozenset(objects or ()) and text == said:
            continue
        found += 1
        if not dry_run:
            told = json.dumps(text, ensure_ascii=False)
            session.execute(update, (ttl or 0, set(others), told, day, at, name))
    return found
