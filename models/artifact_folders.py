"""Which folders of this machine models are loaded from, and which artifact a name means."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from app.errors import NotFoundError, UsageError
from app.settings import Settings
from models.artifact import MANIFEST_FILE, read_manifest
from models.manifest import HASH_DIGITS, Manifest
from models.shipped_models import FORMER, SHIPPED


class Entry(NamedTuple):
    """One artifact of the registry: not loaded, and so harmless."""

    folder: Path
    manifest: Manifest

    @property
    def model(self) -> str:
        """Name and version, as rows and records have them."""
        return f"{self.manifest.name}@{self.manifest.version}"


class ArtifactFolders:
    """The artifacts below some folders. Nothing else is ever loaded.

    Args:
        folders: each an artifact or a folder of artifacts. A name means the model of the first folder that has one
            of that name, whatever versions later folders have.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))

    def scan(self) -> tuple[list[Entry], list[str]]:
        """Every artifact, sorted by name and version, and a line for each that is damaged."""
        entries: list[Entry] = []
        damaged: list[str] = []
        seen: set[Path] = set()
        for folder in self.folders:
            for manifest in sorted(
                {*folder.glob(MANIFEST_FILE), *folder.glob(f"*/{MANIFEST_FILE}")} - seen
            ):
                seen.add(manifest)  # one folder may stand in another
                if manifest.parent.name.startswith("."):
                    continue  # a draft of `save_artifact`
                if not self._is_ours(manifest.parent.resolve()):
                    damaged.append(f"{manifest.parent} leads out of the model folders")
                    continue
                try:
                    entries.append(Entry(manifest.parent, read_manifest(manifest.parent)))
                except (NotFoundError, UsageError) as error:
                    damaged.append(str(error))
        entries.sort(key=lambda entry: (entry.manifest.name, entry.manifest.version))
        return entries, damaged

    def find(self, wanted: str) -> Entry:
        """The artifact that a person means.

        Args:
            wanted: `name` (its newest version in the first folder that has one), `name@version`, a hash, or an
                artifact's folder.

        Raises:
            NotFoundError: there is none; the text lists those that there are.
            UsageError: its manifest is damaged, or the folder is not the registry's.
        """
        if is_path(wanted):
            return self._at(Path(wanted).resolve())
        name, _, version = wanted.partition("@")
        entries, damaged = self.scan()
        found = [
            entry
            for entry in entries
            if entry.manifest.name == name and version in ("", str(entry.manifest.version))
        ]
        if found:
            rank = min(map(self._rank, found))
            # the newest of its versions; of equal ones the first
            return max(
                (entry for entry in found if self._rank(entry) == rank),
                key=lambda entry: entry.manifest.version,
            )
        try:
            return self.by_hash(wanted)
        except NotFoundError:
            pass
        known = ", ".join(sorted({entry.manifest.name for entry in entries})) or "none"
        broken = f"; damaged: {damaged[0]}" if damaged else ""
        msg = f"no model {wanted!r}; known models: {known}; `fraudstream models` lists them{broken}"
        raise NotFoundError(msg)

    def by_hash(self, model_hash: str) -> Entry:
        """The artifact with this hash (`Manifest.scoring_hash`), abbreviated or whole.

        Raises:
            NotFoundError: it is not here any more; the text says what needs it.
        """
        if len(model_hash) >= HASH_DIGITS:
            for entry in (*self._former(), *sorted(self.scan()[0], key=self._rank)):
                if entry.manifest.scoring_hash.startswith(model_hash):
                    return entry
        msg = (
            f"the model with hash {model_hash} is not in {', '.join(map(str, self.folders))}: "
            "without it, transactions that it scored cannot be scored again; put it back"
        )
        raise NotFoundError(msg)

    def next_version(self, name: str) -> int:
        """The version of this name's next training: 1 for a new name."""
        entries = self.scan()[0]
        return 1 + max((e.manifest.version for e in entries if e.manifest.name == name), default=0)

    def newer(self, entry: Entry) -> list[Entry]:
        """Models that have an entry's name and a higher version, in later folders: those that `find` passes over."""
        same = [one for one in self.scan()[0] if one.manifest.name == entry.manifest.name]
        return [one for one in same if one.manifest.version > entry.manifest.version]

    def _former(self) -> Iterator[Entry]:
        """Shipped models under the hashes that they had before they were converted."""
        if SHIPPED.resolve() in self.folders:
            for name, written, sha256 in FORMER:
                manifest = read_manifest(SHIPPED / name)
                told = {"format": written, "sha256": sha256}
                yield Entry(SHIPPED / name, manifest.model_copy(update=told))

    def _rank(self, entry: Entry) -> int:
        """Which of the folders it is in."""
        at = entry.folder.resolve()
        return next(n for n, folder in enumerate(self.folders) if at.is_relative_to(folder))

    def _is_ours(self, folder: Path) -> bool:
        return any(folder.is_relative_to(ours) for ours in self.folders)

    def _at(self, folder: Path) -> Entry:
        if not folder.exists():
            msg = f"there is no model at {folder}: it does not exist"
            raise NotFoundError(msg)
        if not self._is_ours(folder):
            msg = (
                f"{folder} is not a model folder: models are loaded from "
                f"{', '.join(map(str, self.folders))} only, because loading a model runs code"
            )
            raise UsageError(msg)
        return Entry(folder, read_manifest(folder))


def is_path(wanted: str) -> bool:
    """Whether a model is named by its folder rather than by its name."""
    return "/" in wanted or wanted.startswith(".")


def artifact_folders(settings: Settings) -> ArtifactFolders:
    """The folders of a deployment: what came with the package, what was trained here, and `settings.model`.

    Whoever can write to the home must not replace a model that came with the package by a higher version.
    """
    named = [Path(settings.model)] if is_path(settings.model) else []
    return ArtifactFolders(SHIPPED, settings.home / "models", *named)
