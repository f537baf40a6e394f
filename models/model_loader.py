"""Loads models and keeps them: by name for the next block, by hash for a replay of an old one."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from app.domain.explanation import Explainer
from app.domain.features import Catalogue
from app.errors import NotAnsweringError, NotFoundError, UnavailableError, UsageError
from models.artifact import check_content, load_artifact
from models.artifact_folders import ArtifactFolders, Entry
from models.manifest import HASH_DIGITS, Manifest, check_features
from models.shipped_models import SHIPPED
from models.trusted_artifacts import Trust

if TYPE_CHECKING:  # it imports scikit-learn, which takes a second: not before a model is loaded
    from models.scoring import AnomalyScorer, Rows, Scorer


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
        self, manifest: Manifest, scorer: "Scorer", anomaly: "AnomalyScorer | None" = None
    ) -> None:
        self.manifest = manifest
        self.version = f"{manifest.name}@{manifest.version}"
        self.hash = manifest.model_hash
        self.threshold = manifest.threshold
        self.baseline = dict(zip(manifest.features, manifest.usual, strict=True))
        self._scorer = scorer
        self.score = scorer.score
        self.reasons = scorer.reasons
        self.anomaly_threshold = manifest.anomaly.threshold if manifest.anomaly else None
        self._anomaly = anomaly

    def anomalies(self, rows: "Rows") -> "Rows | None":
        """How odd each row is, in [0, 1], whoever its company is; None when the model cannot tell.

        Args:
            rows: (n, k) float64, the features in the order of the catalogue.
        """
        return None if self._anomaly is None else self._anomaly.score(rows)

    def pushes(self, features: Mapping[str, float | None]) -> dict[str, tuple[float, float]]:
        """By feature of one transaction: its baseline, and how far it moved the score from there.

        Args:
            features: by name; one that is missing counts as its baseline.

        Returns:
            Contributions in the scorer's unit (see `models/scoring.py`); positive means towards fraud.
        """
        values = [features.get(name) for name in self.baseline]
        usual = self.baseline.values()
        row = [at if one is None else one for one, at in zip(values, usual, strict=True)]
        (told,) = self._scorer.contributions(np.array([row], dtype=np.float64)).tolist()
        return dict(zip(self.baseline, zip(usual, told, strict=True), strict=True))


class ModelHolder:
    """Loads each model once, checked against the catalogue of this deployment.

    Args:
        registry: where models are.
        catalogue: the features that this deployment computes.
        digits: digits after the decimal point in its currency, for the wording of reasons.
        elsewhere: gives the artifact of a hash from the registry; None: there is none.
        trust: which artifacts are loaded.
    """

    def __init__(
        self,
        registry: ArtifactFolders,
        catalogue: Catalogue,
        digits: int,
        elsewhere: Callable[[str], Entry] | None = None,
        trust: Trust = Trust(),  # noqa: B008 -- it never changes
    ) -> None:
        self.registry = registry
        self._elsewhere = elsewhere
        self._trust = trust
        self._catalogue = catalogue
        self._digits = digits
        self._loaded: dict[str, Model] = {}

    def named(self, wanted: str) -> Model:
        """The model that `ArtifactFolders.find` finds, loaded.

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
        """The artifact of a hash, not loaded: one that came with the package, else the registry's.

        Others in folders serve where the registry has none, and while it does not answer, if they are intact.

        Raises:
            NotFoundError, UsageError: it is missing or damaged; the text says why.
            UnavailableError: the registry does not answer or refuses us, and it is not here.
        """
        here, missing = None, NotFoundError()
        try:
            here = self.registry.by_hash(model_hash)
        except NotFoundError as error:
            missing = error
        if here is not None and _is_shipped(here) and self._trust.accepts(*here):
            return here
        if self._elsewhere is not None:
            try:
                return self._elsewhere(model_hash)
            except NotAnsweringError:
                if here is not None and self._trust.accepts(*here) and _is_intact(here):
                    return here
                raise
            except UnavailableError:  # there is no registry here, or it refuses us
                if here is None:  # which does not mean that it lacks the model
                    raise
            except NotFoundError as error:
                missing = error
        if here is None:
            raise missing
        return here  # if it is damaged or not signed, `load` says so

    def load(self, entry: Entry) -> Model:
        """Load an artifact, checked; once.

        Raises:
            NotFoundError, UsageError: it is missing, damaged, or does not fit; the text says why.
        """
        manifest = entry.manifest
        model = self._loaded.get(manifest.model_hash)
        # a model of format 1 may have a copy of its hash with another threshold
        if model is None or model.manifest != manifest:
            from models.scoring import AnomalyScorer, build_scorer

            self._trust.check(*entry)
            catalogue = self._catalogue
            columns = check_features(manifest, catalogue.names, catalogue.schema)
            explainer = Explainer(manifest.features, manifest.usual, self._digits, catalogue.own)
            part, anomaly = manifest.anomaly, None
            odd = part and check_features(manifest, catalogue.names, catalogue.schema, part)
            fitted = load_artifact(entry.folder, manifest, pickled=self._trust.pickled)
            if odd:
                anomaly = AnomalyScorer(fitted.anomaly, odd)
            scorer = build_scorer(fitted.model, columns, explainer)
            model = self._loaded[manifest.model_hash] = Model(manifest, scorer, anomaly)
        return model


def _is_shipped(entry: Entry) -> bool:
    return entry.folder.resolve().is_relative_to(SHIPPED.resolve())


def _is_intact(entry: Entry) -> bool:
    """Whether a local artifact is what its hash says; in format 1 that covers the file alone, and not the threshold."""
    manifest = entry.manifest
    try:
        packed = (entry.folder / manifest.file).read_bytes()
        check_content("", packed, manifest)
    except (OSError, UsageError):
        return False
    return manifest.format > 1
