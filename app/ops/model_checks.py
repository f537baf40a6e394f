"""Whether workers of a deployment can load a model, and whether it gives scores."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from app.cassandra import fetched_models
from app.cassandra.session import connected
from app.errors import UsageError
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from models.artifact_folders import ArtifactFolders, Entry
from models.model_loader import Model, ModelHolder
from models.trusted_artifacts import trust_of

#: Rows that a model scores before it may decide anything.
_PROBES = 64


@contextmanager
def checked(settings: Settings, wanted: str) -> Iterator[Entry]:
    """A registered model that workers of this deployment can load and that gives scores.

    Raises:
        NotFoundError: it is not registered.
        UsageError: workers could not load it; the text says why and what to do.
        UnavailableError: the registry does not answer.
    """
    with connected(settings) as session:
        entry = fetched_models.entry_of(settings, session, wanted)
        check_model(settings, entry)
        yield entry


def check_model(settings: Settings, entry: Entry, *, signed: bool = True) -> Model:
    """Load a model as workers do, and look at scores of drawn rows.

    Args:
        settings: the deployment.
        entry: the model.
        signed: whether it must be signed as the settings require; not yet, before it is registered.

    Raises:
        UsageError: it does not fit, or its scores are no probabilities.
    """
    catalogue = catalogue_of(settings)
    digits, trust = settings.minor_unit_digits, trust_of(settings)
    if not signed:
        trust = trust._replace(keys=())
    model = ModelHolder(ArtifactFolders(), catalogue, digits, trust=trust).load(entry)
    try:
        scores = model.score(probes(settings))
    except Exception as error:
        msg = (
            f"{entry.model} cannot score: {type(error).__name__}: {error}; train or import it again"
        )
        raise UsageError(msg) from error
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        msg = f"{entry.model} gives scores that are not between 0 and 1: {scores[:3].tolist()}; train it again"
        raise UsageError(msg)
    return model


def probes(settings: Settings) -> np.ndarray:
    """Drawn rows of a deployment's features, the same each time."""
    width = len(catalogue_of(settings).names)
    rows = np.random.default_rng(1).gamma(1.0, 100.0, (_PROBES, width))
    rows[0] = 0
    return rows
