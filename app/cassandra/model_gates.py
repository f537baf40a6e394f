"""Results of `fraudstream models gate`: which model was compared with which, and whether it passed."""

import json
from datetime import UTC, datetime
from typing import Any

from cassandra.cluster import Session

from app.cassandra.session import explained
from app.settings import Settings


def record(
    session: Session, settings: Settings, result: dict[str, Any], *, champion: str, by: str
) -> None:
    """Write a comparison down.

    Args:
        session: to write with.
        settings: keyspace.
        result: as `app.ops.gate.gate` gives it.
        champion: hash of the model that it was compared with.
        by: who did it.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    with explained(settings):
        session.execute(
            f"INSERT INTO {settings.keyspace}.model_gates (hash, champion, at, passed, report, made_by) "  # noqa: S608
            "VALUES (%s, %s, %s, %s, %s, %s)",
            (result["hash"], champion, datetime.now(UTC), result["passed"], json.dumps(result), by),
        )


def latest(
    session: Session, settings: Settings, model_hash: str, champion: str
) -> dict[str, Any] | None:
    """The newest comparison of a model with another one; None: they were not compared.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    with explained(settings):
        row = session.execute(
            f"SELECT report FROM {settings.keyspace}.model_gates WHERE hash = %s AND champion = %s LIMIT 1",  # noqa: S608
            (model_hash, champion),
        ).one()
    found: dict[str, Any] | None = None if row is None else json.loads(row["report"])
    return found
