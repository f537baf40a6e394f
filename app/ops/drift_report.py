"""`fraudstream drift`: stored predictions against the training data of the models that scored them."""

import time
from collections.abc import Callable
from typing import Any

from cassandra.cluster import Session

from app.cassandra.fetched_models import entry_of
from app.errors import NotFoundError, UsageError
from app.quality.drift_stored import stored_drift
from app.settings import Settings
from models.artifact_folders import artifact_folders
from models.training_distribution import Distribution, read_distribution


def drift(
    settings: Settings,
    session: Session,
    *,
    from_ms: int | None,
    to_ms: int | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """See `app.quality.drift_stored.stored_drift`; models are the registry's, or those in folders here.

    Raises:
        UsageError: no predictions are stored for that period.
        UnavailableError, SchemaError: Cassandra does not answer, or tables are missing.
    """
    known: dict[str, Distribution | None] = {}

    def find(model: str) -> Distribution | None:
        if model not in known:
            known[model] = _distribution(settings, session, model)
        return known[model]

    result = stored_drift(
        session,
        settings,
        find,
        now_ms=time.time_ns() // 1_000_000,
        from_ms=from_ms,
        to_ms=to_ms,
        progress=progress,
    )
    if not result["transactions"]:
        msg = "no predictions are stored for this period: give an earlier --from, or a later --to"
        raise UsageError(msg)
    return result


def _distribution(settings: Settings, session: Session, model: str) -> Distribution | None:
    for look in (
        lambda: entry_of(settings, session, model),
        lambda: artifact_folders(settings).find(model),
    ):
        try:
            return read_distribution(look().manifest)
        except (NotFoundError, UsageError):
            continue
    return None
