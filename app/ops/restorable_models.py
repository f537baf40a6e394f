"""Whether the guard could take a promotion back: workers must be able to load the current model or an earlier one."""

from cassandra.cluster import Session

from app.cassandra.model_registry import entry_of
from app.domain.changes import EarlierModel, InForce
from app.errors import NotFoundError, UsageError
from app.ops.models import check_model
from app.settings import Settings


def check_restorable(settings: Settings, session: Session, in_force: InForce) -> str:
    """Look for a model that the guard could restore after a promotion.

    Args:
        settings: the deployment.
        session: to read the registry with.
        in_force: what decides now.

    Returns:
        A warning where that is not the current model; empty: it is, or nobody watches.

    Raises:
        UsageError: there is none; the text says why and what to do.
        UnavailableError: the registry does not answer.
    """
    if not settings.guard_time or not in_force.model:
        return ""
    refused = ""
    for earlier in (EarlierModel(in_force.model), *in_force.fallbacks):
        short = earlier.hash[:16]
        try:
            model = check_model(settings, entry_of(settings, session, earlier.hash))
        except (NotFoundError, UsageError) as error:
            refused = (
                refused or f"workers could not load the current model any more ({short}: {error})"
            )
        else:
            return f"{refused}: the guard would restore {model.version} instead" if refused else ""
    msg = f"the guard could not take this promotion back: {refused}; mend that first, or promote with --no-guard"
    raise UsageError(msg)
