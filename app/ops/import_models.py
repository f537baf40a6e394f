"""Makes artifacts of models that were not trained here, or not by this release."""

from pathlib import Path
from typing import Any

import joblib
from cassandra.cluster import Session

from app.cassandra import model_registry
from app.cassandra.session import connected
from app.change_author import author
from app.errors import UsageError
from app.ops.feature_choice import choose_features
from app.ops.manage_models import find_model
from app.ops.model_checks import check_model, probes
from app.ops.train import place
from app.settings import Settings
from models.artifact import load_artifact, save_artifact
from models.artifact_folders import Entry
from models.scoring import positive_column
from models.skops_file import MAGIC, UntrustedTypeError, unpack

_ALLOW = "FRAUDSTREAM_ALLOW_PICKLED_MODELS=true allows pickles, for models that you trust"


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
        file: as skops saved it, or joblib: loading that runs what is in it, and must be allowed.
        name: what the model is to be called.
        features: those that it takes, in its order; None: all of the set.
        feature_set: the set that they are of; None: all that the deployment computes.
        threshold: score from which a transaction is called fraud.
        usual: typical values of features, which reasons compare with; 0 for those that are not given.

    Raises:
        UsageError: the file is no classifier of these features, is a pickle, or holds types that skops does not take.
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
    pickled = settings.allow_pickled_models
    estimator = _read_estimator(file, pickled=pickled)
    _check_estimator(estimator, len(names), str(file))
    with connected(settings) as session:
        version, folder = _next_place(settings, session, name)
        try:
            manifest = save_artifact(
                folder, estimator, pickled=pickled, name=name, version=version, kind="imported", features=names,
                feature_schema=choice.schema, usual=tuple(usual.get(one, 0.0) for one in names),
                threshold=threshold, trained={"source": {"file": file.name}}, metrics={},
            )  # fmt: skip
        except UntrustedTypeError as error:
            msg = f"{file} cannot be imported: {error}; {_ALLOW}"
            raise UsageError(msg) from error
        entry = Entry(folder, manifest)
        check_model(settings, entry, signed=False)
        model_registry.register(session, settings, entry, author())
    return entry


def convert_model(settings: Settings, wanted: str) -> tuple[Entry, Entry]:
    """Save a model that is a pickle in skops' format, under its name's next version, and register it.

    Loading a pickle runs what is in it: the settings must allow it.

    Returns:
        The model as it is, and the new one. Their scores are the same, bit for bit.

    Raises:
        NotFoundError: there is no such model.
        UsageError: it is no pickle, must not be loaded, or holds types that skops does not take.
        UnavailableError: the registry does not answer, or the folder cannot be written.
    """
    old = find_model(settings, wanted)
    manifest = old.manifest
    if not manifest.is_pickle:
        msg = f"{old.model} is not a pickle: there is nothing to convert"
        raise UsageError(msg)
    before = check_model(settings, old, signed=False)
    fitted = load_artifact(old.folder, manifest, pickled=settings.allow_pickled_models)
    told = manifest.model_dump(exclude={"format", "sha256", "libraries", "version", "signature"})
    told["trained"]["converted_from"] = manifest.model_hash
    with connected(settings) as session:
        version, folder = _next_place(settings, session, manifest.name)
        try:
            saved = save_artifact(
                folder, fitted.model, isolation=fitted.anomaly, version=version, **told
            )
        except UntrustedTypeError as error:
            msg = f"{old.model} cannot be converted: {error}; {_ALLOW}"
            raise UsageError(msg) from error
        new = Entry(folder, saved)
        rows = probes(settings)
        after = check_model(settings, new, signed=False)
        if after.score(rows).tobytes() != before.score(rows).tobytes():
            msg = f"{new.model} gives other scores than {old.model}: it is not registered; train again"
            raise UsageError(msg)
        model_registry.register(session, settings, new, author())
    return old, new


def _next_place(settings: Settings, session: Session, name: str) -> tuple[int, Path]:
    """The version and folder of a new model: neither the registry nor a folder here has it."""
    known = model_registry.list_registered(session, settings)
    return place(settings, name, after=max((o.version for o in known if o.name == name), default=0))


def _read_estimator(file: Path, *, pickled: bool) -> Any:
    """An estimator that somebody has saved.

    Raises:
        UsageError: it cannot be read, or is a pickle that must not be loaded.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror}"
        raise UsageError(msg) from error
    is_skops = content.startswith(MAGIC)
    if not is_skops and not pickled:
        msg = f"{file} is not in skops' format: save it with `skops.io.dump(estimator, file)`; {_ALLOW}"
        raise UsageError(msg)
    try:
        return unpack(content) if is_skops else joblib.load(file)
    except UntrustedTypeError as error:
        msg = f"{file} cannot be imported: {error}; {_ALLOW}: save it with joblib.dump then"
        raise UsageError(msg) from error
    except Exception as error:
        detail = " ".join(str(error).split())
        msg = f"{file} was saved by neither skops nor joblib: {type(error).__name__}: {detail}"
        raise UsageError(msg) from error


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
