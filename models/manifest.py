"""What a manifest says of a model, and whether a deployment computes what it needs.

A model is named in rows and records by a hash of all that scoring takes from its artifact: the model's file and
the manifest's features, usual values and thresholds. Change one by hand, and it is another model.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.domain.features.feature_schema import same_meaning
from app.errors import UsageError

#: Hexadecimal digits of a model's hash in rows and records: enough to tell models apart.
HASH_DIGITS = 16
#: Formats of manifests: since 2 the hash covers the manifest's scoring fields too; the model's file of 3 is skops'.
PICKLED = 2
SKOPS = 3
#: The default now; the one before it takes the set `basic`.
_NEW = ("default", 2)
#: Missing features that are named.
_SHOWN = 3
#: What a model may be called.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


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


class Signature(BaseModel):
    """Who vouches for a manifest; see `models/signing.py`.

    Attributes:
        key: public Ed25519 key, base64.
        value: the signature, base64.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    value: str


class Manifest(BaseModel):
    """What an artifact is; unknown fields of later releases are ignored.

    Attributes:
        format: 1: the model's hash is that of its file; from 2 on: see `scoring_hash`; 3: the file is not a pickle.
        name: what the model is called; versions of one model share it.
        version: a number, rising with each training.
        sha256: of the model's file, 64 hexadecimal digits.
        kind: family of the estimator, such as `logistic`.
        features: names in the order in which the model takes them.
        feature_schema: the catalogue that they were computed by.
        usual: median of each feature in training; reasons are told relative to it.
        threshold: score from which a transaction is called fraud.
        trained: where the data came from (`from`, `to` as ISO 8601, `rows`, `frauds`, `source`, `seed`).
        metrics: figures on data that training never saw.
        libraries: versions that wrote the file.
        anomaly: the isolation forest in the same file, if there is one.
        distribution: of the training data, for drift (models/training_distribution.py reads it); None: trained before.
        signature: over all else in the manifest; no part of the hash.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = Field(default=1, ge=1, le=SKOPS)
    name: str = Field(pattern=NAME)
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
    distribution: dict[str, Any] | None = None
    signature: Signature | None = None

    @property
    def is_pickle(self) -> bool:
        """Whether loading the model's file runs what is in it."""
        return self.format < SKOPS

    @property
    def file(self) -> str:
        """The name of the model's file, beside the manifest."""
        return "model.joblib" if self.is_pickle else "model.skops"

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


def check_features(
    manifest: Manifest, names: tuple[str, ...], schema: str, part: AnomalyPart | None = None
) -> list[int]:
    """Where the features of a model, or of its anomaly scores, stand in this deployment's catalogue.

    It may compute more than the model takes, such as further windows.

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
            f"{model} uses features that this deployment does not compute: {_some(missing)} "
            f"({needs.feature_schema}); {_remedy(needs.feature_schema, schema)}{_older(manifest)}"
        )
        raise UsageError(msg)
    if not same_meaning(needs.features, needs.feature_schema, schema):
        msg = (
            f"{model} was trained on features {needs.feature_schema}, this deployment computes "
            f"{schema}: {_remedy(needs.feature_schema, schema)}"
        )
        raise UsageError(msg)
    return [names.index(name) for name in needs.features]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _older(manifest: Manifest) -> str:
    """How a deployment that keeps the features of earlier releases keeps their model."""
    return (
        ", or set FRAUDSTREAM_MODEL=default@1" if (manifest.name, manifest.version) == _NEW else ""
    )


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
