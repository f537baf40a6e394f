"""What `fraudstream models` does: models in the folders here and in the registry, and whether workers can load them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

from app.cassandra import model_registry
from app.cassandra.model_registry import Registered
from app.cassandra.session import connected
from app.errors import FraudstreamError, NotFoundError, UnavailableError, UsageError
from app.host import author
from app.ops.feature_choice import choose_features
from app.ops.train import place
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from models.artifact import MANIFEST_FILE, MODEL_FILE, check_free, check_libraries, save_artifact
from models.artifact_folders import ArtifactFolders, Entry, artifact_folders, is_path
from models.holder import Model, ModelHolder
from models.scoring import positive_column

#: Rows that a model scores before it may decide anything.
_PROBES = 64


class Listing(NamedTuple):
    """All models.

    Attributes:
        registered: those in the registry; None: it does not answer.
        away: why it does not.
        here: those in the folders.
        damaged: a line for each folder that cannot be read.
    """

    registered: list[Registered] | None
    away: str
    here: list[Entry]
    damaged: list[str]


def list_models(settings: Settings) -> Listing:
    """The models of the registry, if it answers, and those in the folders."""
    here, damaged = artifact_folders(settings).scan()
    try:
        with connected(settings) as session:
            found = model_registry.list_registered(session, settings)
    except FraudstreamError as error:
        return Listing(None, str(error), here, damaged)
    return Listing(found, "", here, damaged)


def find_model(settings: Settings, wanted: str) -> Entry:
    """A model by name, `name@version`, hash or folder: the registry's, else one in the folders.

    Raises:
        NotFoundError: it is in neither.
        UsageError: it is damaged.
    """
    if is_path(wanted):
        return artifact_folders(settings).find(wanted)
    try:
        with connected(settings) as session:
            return model_registry.entry_of(settings, session, wanted)
    except (NotFoundError, UnavailableError):
        return artifact_folders(settings).find(wanted)


def register(settings: Settings, wanted: str) -> tuple[Entry, bool]:
    """Put a model of the folders into the registry; whether it is new there.

    Raises:
        NotFoundError, UsageError: there is none, it is damaged, or its version is another's.
        UnavailableError: the registry does not answer.
    """
    folders = artifact_folders(settings)
    if is_path(wanted):
        folders = ArtifactFolders(*folders.folders, Path(wanted))
    entry = folders.find(wanted)
    with connected(settings) as session:
        return entry, model_registry.register(session, settings, entry, author())


def import_model(
    settings: Settings,
    file: Path,
    *,
    name: str,
    features: tuple[str, ...] | None,
    feature_set: str | None,
    threshold: float,
    usual: dict[str, float],
) -> Entry:
    """Make an artifact of somebody's own estimator, and register it.

    Args:
        settings: the deployment.
        file: as joblib saved it. Loading it runs what is in it.
        name: what the model is to be called.
        features: those that it takes, in its order; None: all of the set.
        feature_set: the set that they are of; None: all that the deployment computes.
        threshold: score from which a transaction is called fraud.
        usual: typical values of features, which reasons compare with; 0 for those that are not given.

    Raises:
        UsageError: the file is no classifier of these features, or holds classes that are not scikit-learn's.
        UnavailableError: the registry does not answer, or the folder cannot be written.
    """
    choice = choose_features(settings, feature_set)
    names = features or choice.names
    if unknown := [one for one in (*names, *usual) if one not in choice.names]:
        msg = (
            f"features that this deployment does not compute: {', '.join(unknown)}; `fraudstream features` lists "
            "those that it does"
        )
        raise UsageError(msg)
    try:
        estimator = joblib.load(file)
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror}"
        raise UsageError(msg) from error
    except Exception as error:
        msg = f"{file} is nothing that joblib has saved here: {type(error).__name__}: {error}"
        raise UsageError(msg) from error
    _check_estimator(estimator, len(names), str(file))
    version, folder = place(settings, name)
    with connected(settings) as session:
        known = [
            one.version
            for one in model_registry.list_registered(session, settings)
            if one.name == name
        ]
        version = max([version, *(one + 1 for one in known)])
        try:
            manifest = save_artifact(
                folder, estimator, name=name, version=version, kind="imported", features=names,
                feature_schema=choice.schema, usual=tuple(usual.get(one, 0.0) for one in names),
                threshold=threshold, trained={"source": {"file": file.name}}, metrics={},
            )  # fmt: skip
        except ValueError as error:
            msg = f"{file} cannot be imported: {error}"
            raise UsageError(msg) from error
        entry = Entry(folder, manifest)
        check_model(settings, entry)
        model_registry.register(session, settings, entry, author())
    return entry


def download(settings: Settings, wanted: str, folder: Path) -> Entry:
    """Copy a registered model into a folder.

    Raises:
        NotFoundError, UsageError: there is none, or the folder exists.
        UnavailableError: the registry does not answer, or the folder cannot be written.
    """
    check_free(folder)
    with connected(settings) as session:
        entry = model_registry.entry_of(settings, session, wanted)
    try:
        folder.mkdir(parents=True)
        for name in (MANIFEST_FILE, MODEL_FILE):
            shutil.copyfile(entry.folder / name, folder / name)
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror}"
        raise UnavailableError(msg) from error
    return Entry(folder, entry.manifest)


@contextmanager
def checked(settings: Settings, wanted: str) -> Iterator[Entry]:
    """A registered model that workers of this deployment can load and that gives scores.

    Raises:
        NotFoundError: it is not registered.
        UsageError: workers could not load it; the text says why and what to do.
        UnavailableError: the registry does not answer.
    """
    with connected(settings) as session:
        entry = model_registry.entry_of(settings, session, wanted)
        check_model(settings, entry)
        yield entry


def check_model(settings: Settings, entry: Entry) -> Model:
    """Load a model as workers do, and look at scores of drawn rows.

    Raises:
        UsageError: it does not fit, or its scores are no probabilities.
    """
    catalogue = catalogue_of(settings)
    check_libraries(entry.folder, entry.manifest)
    model = ModelHolder(ArtifactFolders(), catalogue, settings.minor_unit_digits).load(entry)
    rows = np.random.default_rng(1).gamma(1.0, 100.0, (_PROBES, len(catalogue.names)))
    rows[0] = 0
    try:
        scores = model.score(rows)
    except Exception as error:
        msg = (
            f"{entry.model} cannot score: {type(error).__name__}: {error}; train or import it again"
        )
        raise UsageError(msg) from error
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        msg = f"{entry.model} gives scores that are not between 0 and 1: {scores[:3].tolist()}; train it again"
        raise UsageError(msg)
    return model


def _check_estimator(estimator: Any, width: int, where: str) -> None:
    """Refuse what cannot score.

    Raises:
        UsageError: it is no fitted classifier of two classes that takes so many features.
    """
    try:
        positive_column(estimator)
        two = len(estimator.classes_) == 2  # noqa: PLR2004
        takes = int(estimator.n_features_in_)
    except (AttributeError, ValueError, TypeError):
        msg = f"{where} does not contain a fitted scikit-learn classifier of the classes 0 and 1 (fraud)"
        raise UsageError(msg) from None
    if not two or not hasattr(estimator, "predict_proba"):
        msg = f"{where} contains a classifier that does not return the probabilities of two classes"
        raise UsageError(msg)
    if takes != width:
        msg = f"{where} needs {takes} features, but {width} are named: list them with --features, in its order"
        raise UsageError(msg)
