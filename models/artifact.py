"""A model's artifact: a folder with `model.skops` and the `manifest.json` that says what it is.

Reading a file in skops' format runs no code of it (`models/skops_file.py`). Artifacts of earlier releases, and foreign
models whose types skops does not take, are pickles (`model.joblib`): loading one runs what is in it. They are loaded
only where the deployment allows it, and only once the file's hash is the manifest's.
"""

import hashlib
import io
import re
import shutil
import sys
import tempfile
import warnings
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from app.errors import NotFoundError, UnavailableError, UsageError
from models.manifest import HASH_DIGITS, NAME, PICKLED, SKOPS, Manifest
from models.shipped_models import FORMER, SHIPPED
from models.skops_file import UntrustedTypeError, pack, unpack

MANIFEST_FILE = "manifest.json"
_LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib", "skops")


class Contents(NamedTuple):
    """What an artifact's file holds.

    Attributes:
        model: a classifier or Pipeline of two classes.
        anomaly: an isolation forest, or None.
    """

    model: Any
    anomaly: Any = None


def save_artifact(
    folder: Path, pipeline: Any, *, isolation: Any = None, pickled: bool = False, **described: Any
) -> Manifest:
    """Write an artifact; it appears whole or not at all.

    Args:
        folder: where; must not exist yet.
        pipeline: a fitted scikit-learn estimator.
        isolation: a fitted isolation forest, described by `anomaly`; None without one.
        pickled: whether it may be a pickle if skops does not take all of its types.
        described: the manifest's fields, but for `format`, `sha256` and `libraries`.

    Raises:
        UsageError: the folder exists or cannot be written.
        UntrustedTypeError: the pipeline holds types that skops does not take, and must not be a pickle.
    """
    check_free(folder)
    held = {"model": pipeline, "anomaly": isolation}
    try:
        written, packed = SKOPS, pack(held)
    except UntrustedTypeError:
        if not pickled:
            raise
        written, packed = PICKLED, _pickle(held)
    manifest = Manifest(
        format=written,
        sha256=hashlib.sha256(packed).hexdigest(),
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
            (draft / manifest.file).write_bytes(packed)
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


def load_artifact(
    folder: Path, manifest: Manifest | None = None, *, pickled: bool = False
) -> Contents:
    """What was fitted for an artifact, once its hash and libraries are what the manifest says.

    Args:
        folder: the artifact. The caller has made sure that it belongs to the registry.
        manifest: what was read from it, if it was.
        pickled: whether a pickle is loaded.

    Raises:
        NotFoundError: there is no artifact, or its model file is missing.
        UsageError: the model file is not the one that was saved, other libraries wrote it, or it must not be loaded.
        UnavailableError: the model file cannot be read.
    """
    manifest = manifest or read_manifest(folder)
    for former in FORMER:
        if manifest.is_pickle and manifest.sha256 == former.sha256:
            return load_artifact(SHIPPED / former.folder)
    path = folder / manifest.file
    if manifest.is_pickle and not pickled:
        model = f"{manifest.name}@{manifest.version}"
        msg = (
            f"model {model} is a pickle, and loading a pickle runs code: if you trust it, set "
            f"FRAUDSTREAM_ALLOW_PICKLED_MODELS=true, convert it (`fraudstream models convert {model}`), promote the "
            "result, and remove the setting"
        )
        raise UsageError(msg)
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        msg = f"no model in {folder}: there is a {MANIFEST_FILE} but no {manifest.file}"
        raise NotFoundError(msg) from None
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise UnavailableError(msg) from error
    check_content(f"{path} is not the file", packed, manifest)
    check_libraries(folder, manifest)
    # the very bytes that were hashed: the file may have been replaced since
    held = _read(path, packed, pickled=manifest.is_pickle)
    fitted = (
        Contents(**held) if isinstance(held, dict) else Contents(held)
    )  # format 1: the model alone
    if (fitted.anomaly is None) != (manifest.anomaly is None):
        msg = (
            f"{path} and {MANIFEST_FILE} disagree on whether there are anomaly scores; train again"
        )
        raise UsageError(msg)
    return fitted


def _read(path: Path, packed: bytes, *, pickled: bool) -> Any:
    # not before a model is loaded: it takes a second, and most commands read manifests only
    from sklearn.exceptions import InconsistentVersionWarning

    try:
        with warnings.catch_warnings():
            # patch releases differ without harm; check_libraries has refused the others
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            return _unpickle(packed) if pickled else unpack(packed)
    except MemoryError:  # says nothing of the file
        raise
    except UntrustedTypeError as error:
        msg = (
            f"{path} is refused: {error}; train again, or import the estimator from its pickle with "
            "FRAUDSTREAM_ALLOW_PICKLED_MODELS=true"
        )
        raise UsageError(msg) from error
    except Exception as error:
        detail = " ".join(str(error).split())
        msg = f"{path} cannot be read ({type(error).__name__}: {detail}); train again"
        raise UsageError(msg) from error


def check_libraries(folder: Path, manifest: Manifest) -> None:
    """Refuse a file that another minor release of scikit-learn wrote: its fields may mean other things.

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


def _unpickle(packed: bytes) -> Any:
    import joblib

    return joblib.load(io.BytesIO(packed))


def _pickle(held: Any) -> bytes:
    import joblib

    packed = io.BytesIO()
    joblib.dump(held, packed)
    return packed.getvalue()
