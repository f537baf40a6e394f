"""Train a model: features by the stream's code, time-ordered slices, an artifact with its report."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from app.domain.decision import Explainer
from app.handlers.catalogue import catalogue_of
from app.settings import Settings
from app.tools.features import Columns, compute_features
from models.artifact import Manifest, check_free, check_name, save_artifact
from models.evaluation import best_f1_threshold, budget_threshold, evaluate
from models.holder import registry_of
from models.scoring import build_scorer
from models.training import Fitted, Labels, Split, fit_best, split_by_time

#: Shows one piece of work: text and length in, what to tell the progress to out.
Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Labelled(Columns, Protocol):
    """Transactions in the order of their arrival, with labels."""

    @property
    def is_fraud(self) -> np.ndarray:
        """The label, bool."""


@dataclass(frozen=True)
class TrainingOptions:
    """What to train.

    Attributes:
        folder: where the artifact goes; see `place`.
        name: what the model is called.
        version: its version.
        kind: one of `models.training.KINDS`.
        seed: for kinds that draw.
        alerts_a_day: the threshold keeps to so many on the validation slice; None: the best F1.
        source: where the transactions come from, for the manifest.
    """

    folder: Path
    name: str = "fraud"
    version: int = 1
    kind: str = "logistic"
    seed: int = 1
    alerts_a_day: float | None = None
    source: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A new artifact."""

    folder: Path
    manifest: Manifest


def _silent(_text: str, _length: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _done: None)


def place(settings: Settings, name: str, out: Path | None = None) -> tuple[int, Path]:
    """The version and folder of the next model of this name: known, and free, before the work begins.

    Args:
        settings: `home`, and where models are.
        name: what the model is called.
        out: its folder; None: in `<home>/models`, where `settings.model` finds it by name.

    Raises:
        UsageError: the name cannot be one, or the folder exists already.
    """
    check_name(name)
    version = registry_of(settings).next_version(name)
    folder = out or settings.home / "models" / f"{name}-{version}"
    check_free(folder)
    return version, folder


def train(
    columns: Labelled,
    settings: Settings,
    options: TrainingOptions,
    *,
    now_ms: int,
    kinds_of_fraud: np.ndarray | None = None,
    stage: Stage = _silent,
) -> Trained:
    """Train, choose, judge and save.

    The oldest 60 % of the time-ordered transactions are learned from, the next 20 % choose the
    regularisation and the threshold, the newest 20 % give the figures of the report. The first days, when
    windows are still filling, are learned from as well: a new deployment starts like that.

    Args:
        columns: labelled transactions in the order of their arrival.
        settings: windows and all else that features depend on.
        options: what to train.
        now_ms: the time, for the manifest.
        kinds_of_fraud: names of the kinds, where they are known: recall is reported for each.
        stage: shows progress.

    Raises:
        UsageError: too few transactions or frauds, or the artifact exists already.
    """
    with stage("computing features", len(columns.event_time_ms)) as tell:
        features = compute_features(columns, settings, tell)
    scored = ~np.isnan(features[:, 0])  # duplicates are not
    features = features[scored]
    fraud: Labels = columns.is_fraud[scored].astype(bool)
    times = columns.event_time_ms[scored]
    split = split_by_time(times, fraud)
    with stage("fitting", 100) as tell:
        fitted = fit_best(
            options.kind,
            features,
            fraud,
            split,
            seed=options.seed,
            tell=lambda done, every: tell(done * 100 // every),
        )
    catalogue = catalogue_of(settings)
    explainer = Explainer(catalogue.names, fitted.usual, settings.minor_unit_digits)
    # scored as the stream will: the threshold is one of its scores, to the bit
    scorer = build_scorer(fitted.estimator, range(len(catalogue.names)), explainer)
    threshold = _threshold(scorer.score(features[split.valid]), fraud, times, split, options)
    metrics = evaluate(
        scorer.score(features[split.test]),
        fraud[split.test],
        threshold=threshold,
        card=columns.card_id[scored][split.test],
        event_time_ms=times[split.test],
        kind=None if kinds_of_fraud is None else kinds_of_fraud[scored][split.test],
    )
    manifest = save_artifact(
        options.folder,
        fitted.estimator,
        name=options.name,
        version=options.version,
        kind=options.kind,
        features=catalogue.names,
        feature_schema=catalogue.schema,
        usual=fitted.usual,
        threshold=threshold,
        trained=_described(options, fitted, times, fraud, split, now_ms),
        metrics=metrics,
    )
    return Trained(options.folder, manifest)


def _threshold(
    scores: np.ndarray, fraud: Labels, times: np.ndarray, split: Split, options: TrainingOptions
) -> float:
    if options.alerts_a_day is not None:
        return budget_threshold(scores, times[split.valid], options.alerts_a_day)
    return best_f1_threshold(scores, fraud[split.valid])


def _described(
    options: TrainingOptions,
    fitted: Fitted,
    times: np.ndarray,
    fraud: Labels,
    split: Split,
    now_ms: int,
) -> dict[str, Any]:
    return {
        "at": _iso(now_ms),
        "from": _iso(int(times.min())),
        "to": _iso(int(times.max())),
        "learned_to": _iso(int(times[split.train].max())),
        "judged_from": _iso(int(times[split.test].min())),
        "rows": len(times),
        "frauds": int(np.count_nonzero(fraud)),
        "seed": options.seed,
        "parameters": fitted.parameters,
        "tried": [{**parameters, "average_precision": ap} for parameters, ap in fitted.tried],
        "threshold_by": (
            "best F1" if options.alerts_a_day is None else f"{options.alerts_a_day:g} alerts a day"
        ),
        "source": options.source,
    }


def _iso(epoch_ms: int) -> str:
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
