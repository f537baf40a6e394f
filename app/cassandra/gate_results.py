"""Results of `fraudstream models gate`: which model was compared with which, and whether it passed."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from cassandra.cluster import Session

from app.cassandra.prediction_rows import epoch_ms
from app.cassandra.session import explained
from app.settings import Settings

#: Comparisons of one model that are read at most.
_MOST = 20


def record(
    session: Session, settings: Settings, result: dict[str, Any], *, champion: str, by: str
) -> None:
    """Write a comparison down.

    Args:
        session: to write with.
        settings: keyspace.
        result: as `app.ops.gate_scores.gate` gives it.
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


def recent(session: Session, settings: Settings, hashes: Iterable[str]) -> list[dict[str, Any]]:
    """Comparisons of some models, the newest first: what `record` was given, with `at` (epoch ms) and `by`.

    Raises:
        UnavailableError: Cassandra does not answer.
        SchemaError: the table is missing.
    """
    found = []
    with explained(settings):
        for model_hash in hashes:
            for row in session.execute(
                f"SELECT at, report, made_by FROM {settings.keyspace}.model_gates WHERE hash = %s LIMIT {_MOST}",  # noqa: S608
                (model_hash,),
            ):
                report = json.loads(row["report"])
                found.append({**report, "at": epoch_ms(row["at"]) or 0, "by": row["made_by"]})
    return sorted(found, key=lambda one: -one["at"])


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
