"""A model's artifact: a folder with `model.joblib` and the `manifest.json` that says what it is.

joblib is pickle, and loading a pickle runs what is in it. So the file's hash is checked against the
manifest before a byte is unpickled, only known folders are loaded (`models/artifact_folders.py`), and what
is saved may name classes of scikit-learn and numpy alone: a pickle stores import paths, and one of ours
would tie old models to today's module names.
"""

import hashlib
import io
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
from pydantic import ValidationError
from sklearn.exceptions import InconsistentVersionWarning

from app.errors import NotFoundError, UnavailableError, UsageError
from models.manifest import FORMAT, HASH_DIGITS, NAME, Manifest

MODEL_FILE = "model.joblib"
MANIFEST_FILE = "manifest.json"
_LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib")
_PICKLED_FROM = ("sklearn", "numpy", "scipy", "builtins", "collections", "copyreg")


class Contents(NamedTuple):
    """What an artifact's file holds.

    Attributes:
        model: a classifier or Pipeline of two classes.
        anomaly: an isolation forest, or None.
    """

    model: Any
    anomaly: Any = None


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
    if not re.fullmatch(NAME, name):
        msg = (
            f"{name!r} is not a valid model name: use letters, digits, dots, dashes and underscores"
        )
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


def check_content(otherwise: str, packed: bytes, manifest: Manifest) -> None:
    """Refuse a model file that is not the one of its manifest.

    Args:
        otherwise: what the error says of it, before "that was saved".
        packed: the file's bytes.
        manifest: with its sha256.

    Raises:
        UsageError: it is another.
    """
    found = hashlib.sha256(packed).hexdigest()
    if found != manifest.sha256:
        msg = (
            f"{otherwise} that was saved: its sha256 is {found[:HASH_DIGITS]}..., the "
            f"manifest says {manifest.sha256[:HASH_DIGITS]}...; restore it or train again"
        )
        raise UsageError(msg)


def load_artifact(folder: Path, manifest: Manifest | None = None) -> Contents:
    """What was fitted for an artifact, once its hash and libraries are what the manifest says.

    Args:
        folder: the artifact. The caller has made sure that it belongs to the registry.
        manifest: what was read from it, if it was.

    Raises:
        NotFoundError: there is no artifact, or its model file is missing.
        UsageError: the model file is not the one that was saved, or other libraries wrote it.
        UnavailableError: the model file cannot be read.
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
        raise UnavailableError(msg) from error
    check_content(f"{path} is not the file", packed, manifest)
    check_libraries(folder, manifest)
    try:
        with warnings.catch_warnings():
            # patch releases differ without harm; check_libraries has refused the others
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            # the very bytes that were hashed: the file may have been replaced since
            held = joblib.load(io.BytesIO(packed))
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:
        msg = f"{path} cannot be unpickled ({type(error).__name__}: {error}); train again"
        raise UsageError(msg) from error
    fitted = (
        Contents(**held) if isinstance(held, dict) else Contents(held)
    )  # format 1: the model alone
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


class _ImportPaths(pickle.Unpickler):
    """Unpickles what this process has just pickled, and refuses classes that must not be in a model."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".", maxsplit=1)[0] not in _PICKLED_FROM:
            msg = f"a model must hold scikit-learn and numpy objects only, not {module}.{name}"
            raise ValueError(msg)
        return super().find_class(module, name)


def _check_classes(held: Any) -> None:
    _ImportPaths(io.BytesIO(pickle.dumps(held))).load()  # noqa: S301
