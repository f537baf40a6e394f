"""Models that are fetched from the registry: compared with their hash, and kept in a local folder.

The folder has a bounded number of artifacts, and serves while Cassandra is away.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from cassandra.cluster import Session
from pydantic import ValidationError

from app.cassandra.model_registry import check_artifact, find_registered, read_artifact
from app.cassandra.session import shared_session
from app.domain.features import Catalogue
from app.errors import UsageError
from app.file_writing import explained, write_whole
from app.settings import Settings
from models.artifact import MANIFEST_FILE
from models.artifact_folders import Entry, artifact_folders
from models.manifest import HASH_DIGITS, Manifest
from models.model_loader import ModelHolder
from models.trusted_artifacts import trust_of

#: Artifacts that are kept in the local folder.
_KEPT = 20
#: An artifact that was used within this time before the newest is not removed: another process may be reading it.
_IDLE_SECONDS = 3_600.0


class FetchedModels:
    """Artifacts of the registry in a local folder.

    Args:
        settings: where Cassandra is.
        folder: where artifacts are kept.
        session: gives the session; may raise what `connect` raises.
    """

    def __init__(self, settings: Settings, folder: Path, session: Callable[[], Session]) -> None:
        self._settings = settings
        self._folder = folder
        self._session = session

    def fetch(self, model_hash: str) -> Entry:
        """The artifact of a hash, whole or abbreviated; blocks while Cassandra answers.

        Raises:
            NotFoundError: the registry has none.
            UsageError: what it has is not what the hash says.
            UnavailableError: Cassandra does not answer.
        """
        kept = self._kept(model_hash)
        if kept is not None and trust_of(self._settings).accepts(*kept):
            return kept  # if it is not signed, it may have been since
        session = self._session()
        if len(model_hash) < len(hashlib.sha256().hexdigest()):
            model_hash = find_registered(session, self._settings, model_hash).hash
        text, content = read_artifact(session, self._settings, model_hash)
        where = f"the registry's {model_hash[:HASH_DIGITS]}"
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            msg = f"the manifest of {where} is damaged: {error.errors()[0]['msg']}; register the model again"
            raise UsageError(msg) from None
        check_artifact(manifest, content, model_hash, where)
        return self._keep(Entry(self._folder / model_hash[:HASH_DIGITS], manifest), text, content)

    def _kept(self, model_hash: str) -> Entry | None:
        folder = self._folder / model_hash[:HASH_DIGITS]
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
            if manifest.format == 1 or not manifest.scoring_hash.startswith(model_hash):
                return None  # the hash of format 1 does not cover the manifest
            content = (folder / manifest.file).read_bytes()
            check_artifact(manifest, content, manifest.scoring_hash, str(folder))
        except (OSError, ValidationError, UsageError):  # not here, or damaged: it is fetched
            return None
        with suppress(OSError):  # another process has just removed it, or it is read-only
            os.utime(folder)
        return Entry(folder, manifest)

    def _keep(self, entry: Entry, text: str, content: bytes) -> Entry:
        """Write an artifact, whose files other processes may be reading or writing: each is replaced, none removed."""
        with explained(self._folder, "FRAUDSTREAM_HOME"):
            write_whole(entry.folder / entry.manifest.file, content)
            write_whole(entry.folder / MANIFEST_FILE, text)
        self._remove_idle()
        return entry

    def _remove_idle(self) -> None:
        used: dict[Path, float] = {}
        for folder in self._folder.glob("[!.]*"):
            with suppress(FileNotFoundError):  # another process has just removed it
                used[folder] = folder.stat().st_mtime
        newest_first = sorted(used, key=lambda one: used[one], reverse=True)
        for folder in newest_first[_KEPT:]:
            if used[folder] < used[newest_first[0]] - _IDLE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def holder_of(settings: Settings, catalogue: Catalogue) -> ModelHolder:
    """Loads models of a deployment by hash: those that come with it, else the registry's, else those in its folders."""
    session = partial(shared_session, settings)
    fetched = FetchedModels(settings, settings.home / "fetched-models", session)
    return ModelHolder(
        artifact_folders(settings),
        catalogue,
        settings.minor_unit_digits,
        elsewhere=fetched.fetch,
        trust=trust_of(settings),
    )


def entry_of(settings: Settings, session: Session, wanted: str) -> Entry:
    """The artifact of a registered model, fetched if need be.

    Raises:
        NotFoundError, UsageError, UnavailableError: see `find_registered` and `FetchedModels.fetch`.
        UsageError: the registry binds the name and version to an artifact of another.
    """
    found = find_registered(session, settings, wanted)
    fetched = FetchedModels(settings, settings.home / "fetched-models", lambda: session)
    entry = fetched.fetch(found.hash)
    if entry.model != found.model:
        msg = f"the registry says that {found.model} is {entry.model}: it was changed; register the model again"
        raise UsageError(msg)
    return entry
