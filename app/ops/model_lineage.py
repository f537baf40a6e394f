"""How a model was trained, for training the next one alike, and where a model comes from."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import UsageError
from app.kafka.change_history import DecidingModel
from app.metrics.prometheus import release
from app.ops.feature_choice import FeatureChoice, features_of
from app.ops.train import TrainingOptions
from app.settings import Settings
from models.manifest import Manifest
from models.splits import Periods
from models.training_candidates import KINDS
from models.training_examples import Examples

_SECOND_MS = 1_000


@dataclass(frozen=True)
class Recipe:
    """How a model was trained.

    Attributes:
        manifest: the model's.
        choice: its features.
    """

    manifest: Manifest
    choice: FeatureChoice

    @classmethod
    def of(cls, settings: Settings, manifest: Manifest) -> "Recipe":
        """The recipe of a model.

        Raises:
            UsageError: fraudstream has not trained it, or this deployment does not compute its features any more.
        """
        if manifest.kind not in KINDS:
            msg = (
                f"{manifest.name}@{manifest.version} is of the kind {manifest.kind}, which fraudstream does not train: "
                "train its next version yourself, and use `fraudstream models import`"
            )
            raise UsageError(msg)
        return cls(manifest, features_of(settings, manifest))

    def options(
        self,
        settings: Settings,
        *,
        folder: Path,
        name: str,
        version: int,
        newest_ms: int,
        source: dict[str, Any],
    ) -> TrainingOptions:
        """Options of the next training.

        Args:
            settings: how long labels take.
            folder: where the model goes.
            name: its name.
            version: its version.
            newest_ms: newest event time that it is trained with, epoch milliseconds.
            source: see `lineage`.
        """
        told = self.manifest.trained
        by = str(told.get("threshold_by", "")).split()
        return TrainingOptions(
            folder=folder,
            name=name,
            version=version,
            kind=self.manifest.kind,
            seed=int(told.get("seed", 1)),
            alerts_a_day=float(by[0]) if by[1:] == ["alerts", "a", "day"] else None,
            choice=self.choice,
            periods=periods_like(told, newest_ms, settings.label_delay),
            anomaly=self.manifest.anomaly is not None,
            source=source,
            fixed=told.get("fixed", {}),
            importance=False,
            # else the newest weeks, which show today's fraud, would only have judged it
            refit=True,
        )


def periods_like(told: dict[str, Any], newest_ms: int, delay_ms: int) -> Periods | None:
    """Periods as long as those of an earlier training, the last of which ends now; None: it had none.

    Args:
        told: `Manifest.trained`.
        newest_ms: newest event time, epoch milliseconds.
        delay_ms: how long labels take.
    """
    lengths = told.get("periods")
    if lengths is None:
        return None
    test_to = newest_ms + 1
    test_from = test_to - lengths["test_ms"]
    train_to = test_from - max(lengths["gap_ms"], delay_ms)
    return Periods(train_to - lengths["train_ms"], train_to, test_from, test_to, delay_ms)


def lineage(current: DecidingModel, examples: Examples) -> dict[str, Any]:
    """What a manifest says of where a model comes from: the model before it, the rows and labels, and the code."""
    rows = hashlib.sha256()
    for column in (examples.event_time_ms, examples.card_id, examples.is_fraud):
        rows.update(np.ascontiguousarray(column).tobytes())
    return {
        "stored_in": "Cassandra",
        "parent": current.model,
        "parent_hash": current.hash,
        "until_ms": int(examples.event_time_ms.max()),
        "rows_sha256": rows.hexdigest(),
        "release": release(),
        "code_sha256": _code(),
    }


def parent_of(manifest: Manifest) -> str | None:
    """Hash of the model after which this one was retrained; None: it was not."""
    found: str | None = manifest.trained.get("source", {}).get("parent_hash")
    return found


def trained_until(manifest: Manifest) -> int:
    """Newest event time that a model was trained with, epoch milliseconds; 0: not on this deployment's transactions."""
    source = manifest.trained.get("source", {})
    if "stored_in" not in source:
        return 0
    if "until_ms" in source:
        return int(source["until_ms"])
    return int(datetime.fromisoformat(manifest.trained["to"]).timestamp() * 1000) + 999


def unseen_from(trained: dict[str, Any]) -> int | None:
    """Event time from which on a model has learned from no label, epoch milliseconds; None: it does not say.

    That is the beginning of its test set; for a model that was fitted once more on its test set, the moment after it.

    Args:
        trained: `Manifest.trained`.
    """
    told = [_epoch_ms(trained.get("judged_from")), fitted_until(trained)]
    return max((one for one in told if one is not None), default=None)


def fitted_until(trained: dict[str, Any]) -> int | None:
    """The first event time after those that a model was fitted on, epoch milliseconds; None: it does not say."""
    last = _epoch_ms(trained.get("learned_to"))
    return None if last is None else last + _SECOND_MS  # the manifest has whole seconds


def _epoch_ms(moment: object) -> int | None:
    try:
        return int(datetime.fromisoformat(str(moment)).timestamp() * 1000)
    except ValueError:
        return None


def _code() -> str:
    """sha256 over the sources that compute features and train models."""
    root = Path(__file__).parents[2]
    files = [
        *(root / "models").glob("*.py"), *(root / "app" / "domain").rglob("*.py"),
        *(root / "app" / "windows").rglob("*.py"), *(root / "app" / "ops").glob("*train*.py"),
    ]  # fmt: skip
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()
