"""Train a model: features by the stream's code, time-ordered slices, an artifact with its report."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from joblib import cpu_count

from app.domain.explanation import Explainer
from app.file_writing import require_writable
from app.ops.feature_choice import FeatureChoice, choose_features, label_free_choice
from app.ops.training_features import TransactionColumns, compute_features
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from app.wire.own_features_file import own_of
from models.anomaly_training import isolate
from models.artifact import check_free, check_name, save_artifact
from models.artifact_folders import artifact_folders
from models.backtest import judge_weeks
from models.evaluation import best_f1_threshold, budget_threshold, evaluate
from models.evaluation_sets import on_known_cards
from models.importance import permutation_importance
from models.manifest import Manifest
from models.scoring import Scorer, build_scorer
from models.splits import Labels, Periods, Split, in_training, split_by_periods, split_by_time
from models.training_candidates import Fitted, fit_best, refit
from models.training_distribution import Described, describe
from models.training_examples import Examples

#: Shows one piece of work: text and length in, what to tell the progress to out.
Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class LabelledColumns(TransactionColumns, Protocol):
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
        kind: one of `models.training_candidates.KINDS`.
        seed: for kinds that draw.
        alerts_a_day: the threshold keeps to so many on the validation slice; None: the best F1.
        features: the feature set to learn from; None: all that the deployment computes.
        choice: the features to learn from, where they are of no set; None: those of `features`.
        periods: when to learn and to judge; None: by share, see `train`.
        anomaly: whether an isolation forest goes with it.
        source: where the transactions come from, for the manifest.
        fixed: parameters that are given, by scikit-learn's names; the others are chosen.
        weeks: judge by so many weeks from the test period's first day on, each by a model that is trained
            anew, so much later; needs periods.
        importance: whether the report says what each feature is worth: it scores the validation slice once more
            for each.
        refit: whether the model that is saved is fitted once more after the figures were made, on the test set, too:
            see `train_on`.
    """

    folder: Path
    name: str = "fraud"
    version: int = 1
    kind: str = "logistic"
    seed: int = 1
    alerts_a_day: float | None = None
    features: str | None = None
    choice: FeatureChoice | None = None
    periods: Periods | None = None
    anomaly: bool = False
    source: dict[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    weeks: int = 1
    importance: bool = True
    refit: bool = False


@dataclass(frozen=True)
class TrainedModel:
    """A new artifact.

    Attributes:
        folder: where it is.
        manifest: what it is.
        scores, fraud: of the transactions that judged it.
    """

    folder: Path
    manifest: Manifest
    scores: np.ndarray
    fraud: np.ndarray


def _silent(_text: str, _length: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _done: None)


def place(
    settings: Settings, name: str, out: Path | None = None, *, after: int = 0
) -> tuple[int, Path]:
    """The version and folder of the next model of this name: known, and free, before the work begins.

    Args:
        settings: `home`, and where models are.
        name: what the model is called.
        out: its folder; None: in `<home>/models`, where `settings.model` finds it by name.
        after: the highest version that there is elsewhere.

    Raises:
        UsageError: the name cannot be one, or the folder exists already.
        UnavailableError: its parent cannot be written.
    """
    check_name(name)
    version = max(after + 1, artifact_folders(settings).next_version(name))
    folder = out or settings.home / "models" / f"{name}-{version}"
    check_free(folder)
    require_writable(folder.parent, "--out" if out else "FRAUDSTREAM_HOME")
    return version, folder


def train(
    columns: LabelledColumns | Examples,
    settings: Settings,
    options: TrainingOptions,
    *,
    now_ms: int,
    kinds_of_fraud: np.ndarray | None = None,
    stage: Stage = _silent,
) -> TrainedModel:
    """Compute features, then train; see `train_on`.

    Args:
        columns: labelled transactions in the order of their arrival, or such with their features.
        settings: windows and all else that features depend on.
        options: what to train.
        now_ms: the time, for the manifest.
        kinds_of_fraud: names of the kinds, where they are known: recall is reported for each.
        stage: shows progress.

    Raises:
        UsageError: as `train_on`.
    """
    if isinstance(columns, Examples):
        return train_on(columns, settings, options, now_ms=now_ms, stage=stage)
    choose_features(settings, options.features)
    # refused before the minutes that features of a long history take; duplicates do not matter yet
    _split(columns.event_time_ms, columns.is_fraud.astype(bool), options.periods)
    with stage("computing features", len(columns.event_time_ms)) as tell:
        computed = compute_features(columns, settings, tell, cores=cpu_count())
    scored = ~np.isnan(computed[:, 0])  # duplicates are not
    examples = Examples(
        computed[scored],
        columns.is_fraud[scored].astype(bool),
        columns.event_time_ms[scored],
        columns.card_id[scored],
        None if kinds_of_fraud is None else kinds_of_fraud[scored],
        columns.terminal_id[scored],
    )
    return train_on(examples, settings, options, now_ms=now_ms, stage=stage)


def train_on(
    examples: Examples,
    settings: Settings,
    options: TrainingOptions,
    *,
    now_ms: int,
    stage: Stage = _silent,
) -> TrainedModel:
    """Train, choose, judge and save.

    Without periods the oldest 60 % of the time-ordered transactions are learned from, the next 20 % choose
    parameters and threshold, the newest 20 % give the figures of the report. With them the end of the
    training period chooses; then all of it is learned from with what was chosen. Features know
    everything before their transaction, periods or not. The first days, when windows are still filling,
    are learned from as well: a new deployment starts like that.

    With `options.refit` the figures, the threshold and the distribution of scores are those of that model, and then
    the same recipe is fitted once more on the newest transactions: all of them, or with periods as many days as the
    training period has, up to the end of the test period. That model is saved. It has learned from the test set, so
    nothing may compare it on transactions before `learned_to`.

    Args:
        examples: features of the deployment's catalogue, and labels.
        settings: windows and all else that features depend on.
        options: what to train.
        now_ms: the time, for the manifest.
        stage: shows progress.

    Raises:
        UsageError: too few transactions or frauds, periods out of order, a feature set that the deployment
            does not compute, or the artifact exists already.
    """
    choice = options.choice or choose_features(settings, options.features)
    computed, fraud = examples.features, examples.is_fraud
    # a set may hold all features of the catalogue in another order
    in_order = choice.columns == list(range(computed.shape[1]))
    features = computed if in_order else computed[:, choice.columns]
    times, card = examples.event_time_ms, examples.card_id
    periods = options.periods
    split = _split(times, fraud, periods)
    with stage("fitting", 100) as tell:
        fitted = fit_best(
            options.kind,
            features,
            fraud,
            split,
            seed=options.seed,
            fixed=options.fixed,
            cores=cpu_count(),
            tell=lambda done, every: tell(done * 100 // every),
        )
    # scored as the stream will: the threshold is one of its scores, to the bit
    scorer = _scorer(fitted, choice, settings)
    threshold = _threshold(scorer.score(features[split.valid]), fraud, times, split, options)
    if periods is not None:
        fitted = refit(fitted, features, fraud, in_training(times, periods), cores=cpu_count())
        scorer = _scorer(fitted, choice, settings)
    delay_ms = settings.label_delay if periods is None else periods.delay_ms
    known = on_known_cards(card, times, fraud, split.test, delay_ms)
    scores = scorer.score(features[split.test])
    with stage("evaluating", 0):
        metrics = evaluate(
            scores,
            fraud[split.test],
            threshold=threshold,
            card=card[split.test],
            event_time_ms=times[split.test],
            known=known,
            kind=None if examples.kind is None else examples.kind[split.test],
            seed=options.seed,
        )
        metrics["importance"] = {}
        if options.importance:
            metrics["importance"] = permutation_importance(
                scorer.score, features[split.valid], fraud[split.valid], choice.names, options.seed
            )
    if periods is not None and options.weeks > 1:
        with stage("training week by week", options.weeks) as tell:
            metrics["weeks"] = judge_weeks(
                fitted, features, examples, periods, options.weeks, tell=tell
            )
    isolation, part = None, None
    if options.anomaly:
        odd = label_free_choice(settings, choice)
        with stage("isolating", 0):
            isolation, facts = isolate(computed[:, odd.columns], fraud, split, options.seed)
        part = {"features": odd.names, "feature_schema": odd.schema, **facts}
    learned = split.train if periods is None else in_training(times, periods)
    if options.refit:
        learned = _newest(times, periods)
        with stage("fitting again", 0):
            fitted = refit(fitted, features, fraud, learned, cores=cpu_count())
    manifest = save_artifact(
        options.folder,
        fitted.estimator,
        isolation=isolation,
        anomaly=part,
        name=options.name,
        version=options.version,
        kind=options.kind,
        features=choice.names,
        feature_schema=choice.schema,
        usual=fitted.usual,
        threshold=threshold,
        trained=_described(options, fitted, times, fraud, split, learned, delay_ms, now_ms),
        metrics=metrics,
        distribution=_distribution(
            examples, settings, choice, scores, split.test, threshold=threshold
        ),
    )
    return TrainedModel(options.folder, manifest, scores, fraud[split.test])


def _distribution(
    examples: Examples,
    settings: Settings,
    choice: FeatureChoice,
    scores: np.ndarray,
    test: Labels,
    *,
    threshold: float,
) -> dict[str, Any]:
    """What the training data looked like, for drift: its scores are those of the test slice."""
    every = np.full(len(examples.event_time_ms), np.nan)
    every[test] = scores
    order = np.argsort(examples.event_time_ms, kind="stable")
    terminal = examples.terminal_id
    catalogue = catalogue_of(settings)
    return describe(
        Described(
            choice.names,
            examples.features[:, choice.columns][order],
            every[order],
            examples.is_fraud[order],
            examples.event_time_ms[order],
            examples.card_id[order],
            None if terminal is None else terminal[order],
        ),
        threshold=threshold,
        warm_up_ms=max(catalogue.card_reach_ms, catalogue.terminal_reach_ms),
        timezone=settings.timezone,
    )


def _scorer(fitted: Fitted, choice: FeatureChoice, settings: Settings) -> Scorer:
    explainer = Explainer(choice.names, fitted.usual, settings.minor_unit_digits, own_of(settings))
    return build_scorer(fitted.estimator, range(len(choice.names)), explainer)


def _split(times: np.ndarray, fraud: Labels, periods: Periods | None) -> Split:
    if periods is None:
        return split_by_time(times, fraud)
    return split_by_periods(times, fraud, periods)


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
    learned: Labels,
    delay_ms: int,
    now_ms: int,
) -> dict[str, Any]:
    periods = options.periods
    return {
        "at": _iso(now_ms),
        "from": _iso(int(times.min())),
        "to": _iso(int(times.max())),
        "learned_from": _iso(int(times[learned].min())),
        "learned_to": _iso(int(times[learned].max())),
        "learned_rows": int(np.count_nonzero(learned)),
        "refit": options.refit,
        "chosen_from": _iso(int(times[split.valid].min())),
        "judged_from": _iso(int(times[split.test].min())),
        "judged_to": _iso(int(times[split.test].max())),
        "label_delay": f"{delay_ms / 86_400_000:g}d",
        "rows": len(times),
        "frauds": int(np.count_nonzero(fraud)),
        "seed": options.seed,
        "parameters": fitted.parameters,
        "fixed": dict(options.fixed),
        "periods": None if periods is None else _lengths(periods),
        "genuine_share": fitted.genuine,
        "tried": [{**parameters, "average_precision": ap} for parameters, ap in fitted.tried],
        "threshold_by": (
            "best F1" if options.alerts_a_day is None else f"{options.alerts_a_day:g} alerts a day"
        ),
        "source": options.source,
    }


def _newest(times: np.ndarray, periods: Periods | None) -> Labels:
    """What a model is fitted on in the end: as long as its training period, up to the end of the test period."""
    if periods is None:
        return np.ones(len(times), dtype=np.bool_)
    begin = periods.test_to - (periods.train_to - periods.train_from)
    found: Labels = (times >= begin) & (times < periods.test_to)
    return found


def _lengths(periods: Periods) -> dict[str, int]:
    """How long the periods and the gap between them are, milliseconds: for training again."""
    return {
        "train_ms": periods.train_to - periods.train_from,
        "gap_ms": periods.test_from - periods.train_to,
        "test_ms": periods.test_to - periods.test_from,
    }


def _iso(epoch_ms: int) -> str:
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
