"""Models in the folders here and in the registry: listed, found, registered, signed, downloaded."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from app.cassandra import fetched_models, model_registry
from app.cassandra.model_registry import RegisteredModel
from app.cassandra.session import connected
from app.change_author import author
from app.errors import FraudstreamError, NotFoundError, UnavailableError, UsageError
from app.settings import Settings
from models.artifact import MANIFEST_FILE, check_free, read_manifest
from models.artifact_folders import ArtifactFolders, Entry, artifact_folders, is_path
from models.manifest import HASH_DIGITS
from models.signing import new_key, sign_manifest


class ModelList(NamedTuple):
    """All models.

    Attributes:
        registered: those in the registry; None: it does not answer.
        away: why it does not.
        here: those in the folders.
        damaged: a line for each folder that cannot be read.
    """

    registered: list[RegisteredModel] | None
    away: str
    here: list[Entry]
    damaged: list[str]


def list_models(settings: Settings) -> ModelList:
    """The models of the registry, if it answers, and those in the folders."""
    here, damaged = artifact_folders(settings).scan()
    try:
        with connected(settings) as session:
            found = model_registry.list_registered(session, settings)
    except FraudstreamError as error:
        return ModelList(None, str(error), here, damaged)
    return ModelList(found, "", here, damaged)


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
            return fetched_models.entry_of(settings, session, wanted)
    except (NotFoundError, UnavailableError):
        return artifact_folders(settings).find(wanted)


def register(settings: Settings, wanted: str) -> tuple[Entry, bool]:
    """Put a model of the folders into the registry; whether it is new there.

    Raises:
        NotFoundError, UsageError: there is none, it is damaged, its version is another's, or the name may mean two.
        UnavailableError: the registry does not answer.
    """
    folders = artifact_folders(settings)
    if is_path(wanted):
        folders = ArtifactFolders(*folders.folders, Path(wanted))
    entry = folders.find(wanted)
    if wanted == entry.manifest.name and (newer := folders.newer(entry)):
        msg = (
            f"{wanted} may mean {entry.model}, which comes with fraudstream, or {newer[-1].model} in "
            f"{newer[-1].folder}: name the version"
        )
        raise UsageError(msg)
    with connected(settings) as session:
        return entry, model_registry.register(session, settings, entry, author())


def make_key(file: Path) -> str:
    """Write a new private key into a file that its owner alone can read; gives the public key.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    pem, public = new_key()
    try:
        with open(file, "xb", opener=partial(os.open, mode=0o600)) as private:  # noqa: PTH123
            private.write(pem)
    except FileExistsError:
        msg = f"{file} exists already: choose another file"
        raise UsageError(msg) from None
    except OSError as error:
        msg = f"cannot write {file}: {error.strerror}"
        raise UsageError(msg) from error
    return public


def sign(
    settings: Settings,
    wanted: str,
    key: Path,
    *,
    expected: str | None = None,
    approved: Entry | None = None,
) -> Entry:
    """Sign the manifest of a registered model.

    Args:
        settings: the deployment.
        wanted: the model.
        key: file of the private key.
        expected: its hash, whole or abbreviated; None: whatever the registry has.
        approved: an artifact that was trained or examined here: the registry's manifest must be the same.

    Raises:
        NotFoundError: there is no such model.
        UsageError: the key cannot be used, or the registry's model is not the one that was expected or approved.
        UnavailableError: the registry does not answer.
    """
    try:
        pem = key.read_bytes()
    except OSError as error:
        msg = f"cannot read {key}: {error.strerror}"
        raise UsageError(msg) from error
    with connected(settings) as session:
        entry = fetched_models.entry_of(settings, session, wanted)
        text = (entry.folder / MANIFEST_FILE).read_text()
        if expected is not None and not (
            len(expected) >= HASH_DIGITS and entry.manifest.scoring_hash.startswith(expected)
        ):
            msg = (
                f"the registry's {entry.model} has the hash {entry.manifest.model_hash}, not {expected}: it is not "
                "signed; compare it with what was trained"
            )
            raise UsageError(msg)
        if approved is not None and _unsigned(text) != _unsigned(
            (approved.folder / MANIFEST_FILE).read_text()
        ):
            msg = (
                f"the registry's manifest of {entry.model} is not the one in {approved.folder}: it is not signed; "
                "compare them"
            )
            raise UsageError(msg)
        signed = sign_manifest(text, pem)
        model_registry.keep_signed(session, settings, entry, signed)
    return Entry(entry.folder, read_manifest(entry.folder))


def _unsigned(manifest: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(manifest).items() if name != "signature"}


def download(settings: Settings, wanted: str, folder: Path) -> Entry:
    """Copy a registered model into a folder.

    Raises:
        NotFoundError, UsageError: there is none, or the folder exists.
        UnavailableError: the registry does not answer, or the folder cannot be written.
    """
    check_free(folder)
    with connected(settings) as session:
        entry = fetched_models.entry_of(settings, session, wanted)
    try:
        folder.mkdir(parents=True)
        for name in (MANIFEST_FILE, entry.manifest.file):
            shutil.copyfile(entry.folder / name, folder / name)
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror}"
        raise UnavailableError(msg) from error
    return Entry(folder, entry.manifest)
