"""A model's artifact: a folder with `model.joblib` and the `manifest.json` that says what it is.

joblib is pickle, and loading a pickle runs what is in it. So the file's hash is checked against the
manifest before a byte is unpickled, only folders of the registry are loaded (`models/holder.py`), and what
is saved may name classes of scikit-learn and numpy alone: a pickle stores import paths, and one of ours
would tie old models to today's module names.

A model is named in rows and records by a hash of all that scoring takes from its artifact: the pickle and the
manifest's features, usual values and thresholds. Change one by hand, and it is another model.
"""

import hashlib
import io
import json
import pickle
import re
import shutil
import sys
import tempfile
import warnings
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, NamedTuple

import joblib
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn.exceptions import InconsistentVersionWarning

from app.errors import NotFoundError, UsageError

MODEL_FILE = "model.joblib"
MANIFEST_FILE = "manifest.json"
#: Hexadecimal digits of a model's hash in rows and records: enough to tell models apart.
HASH_DIGITS = 16
#: Of the manifests that are written: 2 since the hash covers the manifest's scoring fields too.
FORMAT = 2
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib")
_PICKLED_FROM = ("sklearn", "numpy", "scipy", "builtins", "collections", "copyreg")


class AnomalyPart(BaseModel):
    """The isolation forest beside the model: it knows no labels, and tells how odd a transaction is.

    Attributes:
        features: names in the order in which it takes them.
        feature_schema: the catalogue that they were computed by.
        threshold: anomaly score from which a transaction gets the flag `anomaly`.
        trained: how (`rows`, `parameters`, `threshold_by`).
        metrics: how well it finds frauds on data that training never saw, though it was not asked to.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    features: tuple[str, ...] = Field(min_length=1)
    feature_schema: str
    threshold: float = Field(ge=0, le=1)
    trained: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)


class Fitted(NamedTuple):
    """What an artifact's file holds.

    Attributes:
        model: a classifier or Pipeline of two classes.
        anomaly: an isolation forest, or None.
    """

    model: Any
    anomaly: Any = None


class Manifest(BaseModel):
    """What an artifact is; unknown fields of later releases are ignored.

    Attributes:
        format: 1: the model's hash is that of its file; 2: see `scoring_hash`.
        name: what the model is called; versions of one model share it.
        version: a number, rising with each training.
        sha256: of model.joblib, 64 hexadecimal digits.
        kind: family of the estimator, such as `logistic`.
        features: names in the order in which the model takes them.
        feature_schema: the catalogue that they were computed by.
        usual: median of each feature in training; reasons are told relative to it.
        threshold: score from which a transaction is called fraud.
        trained: where the data came from (`from`, `to` as ISO 8601, `rows`, `frauds`, `source`, `seed`).
        metrics: figures on data that training never saw.
        libraries: versions that wrote the pickle.
        anomaly: the isolation forest in the same file, if there is one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = Field(default=1, ge=1, le=FORMAT)
    name: str = Field(pattern=_NAME)
    version: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    kind: str
    features: tuple[str, ...] = Field(min_length=1)
    feature_schema: str
    usual: tuple[float, ...]
    threshold: float = Field(ge=0, le=1)
    trained: dict[str, Any]
    metrics: dict[str, Any]
    libraries: dict[str, str]
    anomaly: AnomalyPart | None = None

    @property
    def scoring_hash(self) -> str:
        """sha256 over all that scores, reasons, decisions and their names come from; 64 digits.

        The fields are written as compact JSON with sorted keys; floats as Python writes them, which
        gives each its own text.
        """
        if self.format == 1:
            return self.sha256
        told = self.model_dump(
            mode="json",
            include={
                "name": True,
                "version": True,
                "sha256": True,
                "features": True,
                "feature_schema": True,
                "usual": True,
                "threshold": True,
                "anomaly": {"features", "feature_schema", "threshold"},
            },
        )
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def model_hash(self) -> str:
        """The abbreviated hash that rows and records carry."""
        return self.scoring_hash[:HASH_DIGITS]


def save_artifact(
    folder: Path, pipeline: Any, *, isolation: Any = None, **described: Any
) -> Manifest:
    """Write an artifact; it appears whole or not at all.

    Args:
        folder: where; must not exist yet.
        pipeline: a fitted scikit-learn estimator.
        isolation: a fitted isolation forest, described by `anomaly`; None without one.
        described: the manifest's fields, but for `format`, `sha256` and `libraries`.

    Raises:
        UsageError: the folder exists or cannot be written.
        ValueError: the pipeline holds classes that are not scikit-learn's or numpy's.
    """
    check_free(folder)
    held = {"model": pipeline, "anomaly": isolation}
    _check_classes(held)
    packed = io.BytesIO()
    joblib.dump(held, packed)
    manifest = Manifest(
        format=FORMAT,
        sha256=hashlib.sha256(packed.getvalue()).hexdigest(),
        libraries={
            "python": ".".join(map(str, sys.version_info[:3])),
            **{name: library_version(name) for name in _LIBRARIES},
        },
        **described,
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            (draft / MODEL_FILE).write_bytes(packed.getvalue())
            (draft / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
            draft.chmod(0o755)  # mkdtemp's 0700 would hide the model from a worker of another user
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        msg = f"cannot write the model to {folder}: {error.strerror}"
        raise UsageError(msg) from error
    return manifest


def check_free(folder: Path) -> None:
    """Refuse to write over anything.

    Raises:
        UsageError: the folder exists.
    """
    if folder.exists():
        msg = f"{folder} exists already: choose another folder, or delete it"
        raise UsageError(msg)


def check_name(name: str) -> None:
    """Refuse what cannot be told from a path or a version.

    Raises:
        UsageError: the name cannot be a model's.
    """
    if not re.fullmatch(_NAME, name):
        msg = f"{name!r} cannot be a model's name: letters, digits, dots, dashes and underscores"
        raise UsageError(msg)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact; the model itself is not touched.

    Raises:
        NotFoundError: there is no artifact in the folder.
        UsageError: the manifest is damaged; the text says where.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        msg = f"no model in {folder}: there is no {MANIFEST_FILE}"
        raise NotFoundError(msg) from None
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise UsageError(msg) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        msg = f"{path} is damaged: {where + ': ' if where else ''}{first['msg']}"
        raise UsageError(msg) from None
    if len(manifest.usual) != len(manifest.features):
        msg = (
            f"{path} is damaged: usual has {len(manifest.usual)} values "
            f"for {len(manifest.features)} features"
        )
        raise UsageError(msg)
    return manifest


def load_artifact(folder: Path, manifest: Manifest | None = None) -> Fitted:
    """What was fitted for an artifact, once its hash and libraries are what the manifest says.

    Args:
        folder: the artifact. The caller has made sure that it belongs to the registry.
        manifest: what was read from it, if it was.

    Raises:
        NotFoundError: there is no artifact, or its model file is missing.
        UsageError: the model file is not the one that was saved, or other libraries wrote it.
    """
    manifest = manifest or read_manifest(folder)
    path = folder / MODEL_FILE
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        msg = f"no model in {folder}: there is a {MANIFEST_FILE} but no {MODEL_FILE}"
        raise NotFoundError(msg) from None
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise UsageError(msg) from error
    found = hashlib.sha256(packed).hexdigest()
    if found != manifest.sha256:
        msg = (
            f"{path} is not the file that was saved: its sha256 is {found[:HASH_DIGITS]}..., the "
            f"manifest says {manifest.sha256[:HASH_DIGITS]}...; restore it or train again"
        )
        raise UsageError(msg)
    check_libraries(folder, manifest)
    try:
        with warnings.catch_warnings():
            # patch releases differ without harm; check_libraries has refused the others
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            # the very bytes that were hashed: the file may have been replaced since
            held = joblib.load(io.BytesIO(packed))
    except Exception as error:
        msg = f"{path} cannot be unpickled ({type(error).__name__}: {error}); train again"
        raise UsageError(msg) from error
    fitted = Fitted(**held) if isinstance(held, dict) else Fitted(held)  # format 1: the model alone
    if (fitted.anomaly is None) != (manifest.anomaly is None):
        msg = (
            f"{path} and {MANIFEST_FILE} disagree on whether there are anomaly scores; train again"
        )
        raise UsageError(msg)
    return fitted


def check_libraries(folder: Path, manifest: Manifest) -> None:
    """Refuse a pickle that another minor release of scikit-learn wrote: its fields may mean other things.

    Raises:
        UsageError: the releases differ.
    """
    wrote, here = manifest.libraries.get("scikit-learn", "?"), library_version("scikit-learn")
    if wrote.split(".")[:2] != here.split(".")[:2]:
        msg = (
            f"the model in {folder} was written by scikit-learn {wrote} and {here} is installed: "
            f"install scikit-learn {wrote} or train again"
        )
        raise UsageError(msg)


def check_features(
    manifest: Manifest, names: tuple[str, ...], schema: str, part: AnomalyPart | None = None
) -> list[int]:
    """Where the features of a model, or of its anomaly scores, stand in this deployment's catalogue.

    Args:
        manifest: the model's.
        names: the catalogue's features, in order.
        schema: the catalogue's schema.
        part: the model's anomaly part, to ask for its features instead.

    Raises:
        UsageError: the catalogue lacks features, or computes them by other rules.
    """
    needs = part or manifest
    model = f"model {manifest.name} version {manifest.version}"
    if part is not None:
        model = f"the anomaly part of {model}"
    missing = [name for name in needs.features if name not in names]
    if missing:
        msg = (
            f"{model} takes features that this deployment does not compute: {', '.join(missing)} "
            f"({needs.feature_schema}); {_remedy(needs.feature_schema, schema)}"
        )
        raise UsageError(msg)
    if not set(needs.feature_schema.split("+")) <= set(schema.split("+")):
        msg = (
            f"{model} was trained on features {needs.feature_schema}, this deployment computes "
            f"{schema}: {_remedy(needs.feature_schema, schema)}"
        )
        raise UsageError(msg)
    return [names.index(name) for name in needs.features]


def _remedy(needed: str, schema: str) -> str:
    """The setting to change, by what the schemas name: feature sets with their versions, windows, label delay."""
    here = {_set_of(part): part for part in schema.split("+")}
    for wanted in needed.split("+"):
        name = _set_of(wanted)
        if name not in here:
            return f"add {name} to FRAUDSTREAM_FEATURES or train again"
        if wanted.partition("-")[0] != here[name].partition("-")[0]:
            return f"this release computes {here[name].partition('-')[0]}: train again"
        delay = wanted.rpartition("-delay")[2]
        if "-delay" in wanted and delay != here[name].rpartition("-delay")[2]:
            return f"set FRAUDSTREAM_LABEL_DELAY={delay} or train again"
    return "set the windows it was trained with (FRAUDSTREAM_WINDOWS) or train again"


def _set_of(part: str) -> str:
    """The feature set of one part of a schema; `basic` is spelled without its name."""
    return part.partition("@")[0] if "@" in part else "basic"


class _ImportPaths(pickle.Unpickler):
    """Unpickles what this process has just pickled, and refuses classes that must not be in a model."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".", maxsplit=1)[0] not in _PICKLED_FROM:
            msg = f"a model must hold scikit-learn and numpy objects only, not {module}.{name}"
            raise ValueError(msg)
        return super().find_class(module, name)


def _check_classes(held: Any) -> None:
    _ImportPaths(io.BytesIO(pickle.dumps(held))).load()  # noqa: S301
