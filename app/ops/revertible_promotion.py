"""Whether the guard could take a promotion back: workers must be able to load the current model or an earlier one."""

from app.cassandra.fetched_models import holder_of
from app.domain.changes_in_force import EarlierModel, InForce
from app.errors import NotAnsweringError, NotFoundError, UsageError
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.stages.scoring_models import is_refused
from models.signing import SignatureError


def check_restorable(settings: Settings, in_force: InForce) -> str:
    """Look for a model that the guard could restore after a promotion, and load it as workers do.

    Args:
        settings: the deployment.
        in_force: what decides now.

    Returns:
        A warning where that is not the current model; empty: it is, or nobody watches.

    Raises:
        UsageError: there is none; the text says why and what to do.
        NotAnsweringError: the registry does not answer.
    """
    if not settings.guard_time or not in_force.model:
        return ""
    holder = holder_of(settings, catalogue_of(settings))
    refused = ""
    for earlier in (EarlierModel(in_force.model), *in_force.fallbacks):
        try:
            model = holder.by_hash(earlier.hash)
        except NotAnsweringError:
            raise
        except Exception as error:
            if not (is_refused(error) or isinstance(error, SignatureError | NotFoundError)):
                raise
            why = f"{earlier.hash[:16]}: {error}"
            refused = refused or f"workers could not load the current model any more ({why})"
        else:
            return f"{refused}: the guard would restore {model.version} instead" if refused else ""
    msg = f"the guard could not revert this promotion: {refused}; fix that first, or promote with --no-guard"
    raise UsageError(msg)
