"""Finds models and keeps them: by name for the next block, by hash for a replay of an old one."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from app.domain.explanation import Explainer
from app.domain.features import Catalogue
from app.errors import AwayError, NotFoundError, UnavailableError, UsageError
from app.settings import Settings
from models.artifact import MANIFEST_FILE, load_artifact, read_manifest
from models.manifest import HASH_DIGITS, Manifest, check_features
from models.scoring import AnomalyScorer, Rows, Scorer, build_scorer

#: Models that come with the package.
SHIPPED = Path(__file__).parent / "artifacts"


class Entry(NamedTuple):
    """One artifact of the registry: not loaded, and so harmless."""

    folder: Path
    manifest: Manifest

    @property
    def model(self) -> str:
        """Name and version, as rows and records have them."""
        return f"{self.manifest.name}@{self.manifest.version}"


class ModelRegistry:
    """The artifacts below some folders. Nothing else is ever loaded.

    Args:
        folders: each an artifact or a folder of artifacts; earlier ones win where versions are equal.
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
            wanted: `name` (its newest version), `name@version`, a hash, or an artifact's folder.

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
            newest = found[-1].manifest.version
            return next(entry for entry in found if entry.manifest.version == newest)
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
            for entry in self.scan()[0]:
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


class Model:
    """A loaded model, ready to score rows in the catalogue's order.

    Attributes:
        manifest: what it is.
        version: `name@version`, for rows and records.
        hash: abbreviated hash of all that it scores by, for rows and records.
        threshold: score from which a transaction is called fraud.
        anomaly_threshold: anomaly score from which a transaction is flagged; None without such scores.
        baseline: median of each of its features in training, by name.
    """

    def __init__(
        self, manifest: Manifest, scorer: Scorer, anomaly: AnomalyScorer | None = None
    ) -> None:
        self.manifest = manifest
        self.version = f"{manifest.name}@{manifest.version}"
        self.hash = manifest.model_hash
        self.threshold = manifest.threshold
        self.baseline = dict(zip(manifest.features, manifest.usual, strict=True))
        self.score = scorer.score
        self.reasons = scorer.reasons
        self.anomaly_threshold = manifest.anomaly.threshold if manifest.anomaly else None
        self._anomaly = anomaly

    def anomalies(self, rows: Rows) -> Rows | None:
        """How odd each row is, in [0, 1], whoever its company is; None when the model cannot tell.

        Args:
            rows: (n, k) float64, the features in the order of the catalogue.
        """
        return None if self._anomaly is None else self._anomaly.score(rows)


class ModelHolder:
    """Loads each model once, checked against the catalogue of this deployment.

    Args:
        registry: where models are.
        catalogue: the features that this deployment computes.
        digits: digits after the decimal point in its currency, for the wording of reasons.
        elsewhere: gives the artifact of a hash that is not in these folders; None: there is nowhere else.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        catalogue: Catalogue,
        digits: int,
        elsewhere: Callable[[str], Entry] | None = None,
    ) -> None:
        self.registry = registry
        self._elsewhere = elsewhere
        self._catalogue = catalogue
        self._digits = digits
        self._loaded: dict[str, Model] = {}

    def named(self, wanted: str) -> Model:
        """The model that `ModelRegistry.find` finds, loaded.

        Raises:
            NotFoundError, UsageError: it is missing, damaged, or does not fit; the text says why.
        """
        return self.load(self.registry.find(wanted))

    def by_hash(self, model_hash: str) -> Model:
        """The model that scored a row, for scoring it again.

        Raises:
            NotFoundError, UsageError: it is missing, damaged, or does not fit; the text says why.
        """
        return self.loaded(model_hash) or self.load(self.entry(model_hash))

    def loaded(self, model_hash: str) -> Model | None:
        """The model of a hash, if it is loaded."""
        return self._loaded.get(model_hash[:HASH_DIGITS])

    def forget(self, model_hash: str) -> None:
        """Let a loaded model go."""
        self._loaded.pop(model_hash[:HASH_DIGITS], None)

    def entry(self, model_hash: str) -> Entry:
        """The artifact of a hash, not loaded.

        Raises:
            NotFoundError, UsageError: it is missing or damaged; the text says why.
        """
        try:
            return self.registry.by_hash(model_hash)
        except NotFoundError as missing:
            if self._elsewhere is None:
                raise
            try:
                return self._elsewhere(model_hash)
            except UnavailableError as error:
                if isinstance(error, AwayError):
                    raise
                raise missing from error  # there is no registry here

    def load(self, entry: Entry) -> Model:
        """Load an artifact, checked; once.

        Raises:
            NotFoundError, UsageError: it is missing, damaged, or does not fit; the text says why.
        """
        manifest = entry.manifest
        model = self._loaded.get(manifest.model_hash)
        # a model of format 1 may have a copy of its hash with another threshold
        if model is None or model.manifest != manifest:
            catalogue = self._catalogue
            columns = check_features(manifest, catalogue.names, catalogue.schema)
            explainer = Explainer(manifest.features, manifest.usual, self._digits, catalogue.own)
            part, anomaly = manifest.anomaly, None
            odd = part and check_features(manifest, catalogue.names, catalogue.schema, part)
            fitted = load_artifact(entry.folder, manifest)
            if odd:
                anomaly = AnomalyScorer(fitted.anomaly, odd)
            scorer = build_scorer(fitted.model, columns, explainer)
            model = self._loaded[manifest.model_hash] = Model(manifest, scorer, anomaly)
        return model


def is_path(wanted: str) -> bool:
    """Whether a model is named by its folder rather than by its name."""
    return "/" in wanted or wanted.startswith(".")


def registry_of(settings: Settings) -> ModelRegistry:
    """The registry of a deployment: what was trained here, what came with the package, and `settings.model`."""
    named = [Path(settings.model)] if is_path(settings.model) else []
    return ModelRegistry(settings.home / "models", SHIPPED, *named)
