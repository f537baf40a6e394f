"""Models that are fetched from the registry: compared with their hash, and kept in a local folder.

The folder has a bounded number of artifacts, and serves while Cassandra is away.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cassandra.cluster import Session
from pydantic import ValidationError

from app.cassandra.model_registry import check_artifact, find_registered, read_artifact
from app.cassandra.session import shared_session
from app.domain.features import Catalogue
from app.errors import UsageError
from app.settings import Settings
from models.artifact import MANIFEST_FILE
from models.artifact_folders import Entry, artifact_folders
from models.manifest import HASH_DIGITS, Manifest
from models.model_loader import ModelHolder
from models.trusted_artifacts import trust_of

#: Artifacts that are kept in the local folder.
_KEPT = 20


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
        folder.touch()
        return Entry(folder, manifest)

    def _keep(self, entry: Entry, text: str, content: bytes) -> Entry:
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".", dir=self._folder))
        (draft / MANIFEST_FILE).write_text(text)
        (draft / entry.manifest.file).write_bytes(content)
        shutil.rmtree(entry.folder, ignore_errors=True)
        try:
            draft.rename(entry.folder)
        except OSError:  # another process has just fetched it
            shutil.rmtree(draft, ignore_errors=True)
        here = sorted(self._folder.glob("[!.]*"), key=lambda one: one.stat().st_mtime)
        for oldest in here[:-_KEPT]:
            shutil.rmtree(oldest, ignore_errors=True)
        return entry


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
