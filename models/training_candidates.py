"""Fits and selects a model: pure over arrays. Another kind of model is one more entry of `KINDS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError  # it has no public name
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from app.errors import UsageError
from models.scoring import positive_column
from models.splits import Labels, Split

#: Strengths of regularisation that are tried: frauds are few and the windows of one count tell much
#: the same, so that large opposite weights would chase noise.
LOGISTIC_C = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)

#: Leaves and iterations of boosting that are tried; the rate that goes with them.
HISTGB = ((8, 100, 0.1), (15, 200, 0.05), (31, 200, 0.05))
#: Depths of a random forest that are tried.
FOREST_DEPTHS = (6, 10, 14)
#: Trees and depth of a blend's forest, leaves, iterations and rate of its boosting.
BLEND = ((40, 8, 12, 120, 0.06), (40, 12, 12, 120, 0.06))
#: Of the forest's probability and of boosting's. On three weeks of the Handbook's data (`docs/models.md`) the
#: forest alone ranked best by average precision, and boosting by AUC where days to learn from were few.
BLEND_WEIGHTS = (0.8, 0.2)
#: Of genuine transactions a blend learns from so many, each weighted as ten: a forest of all of them had not
#: finished in a minute, one of a tenth takes 14 s and all frauds are in each.
GENUINE = 0.1

Floats = npt.NDArray[np.float64]


class Candidate(NamedTuple):
    """One model to try.

    Attributes:
        parameters: what is told of it.
        estimator: not fitted.
        genuine: the share of genuine transactions that is learned from, each with the weight of those that it
            stands for; frauds are all learned from.
    """

    parameters: dict[str, Any]
    estimator: Any
    genuine: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """The candidate that did best on the validation slice.

    Attributes:
        estimator: fitted on the train slice.
        parameters: what was chosen.
        usual: median of each feature in the train slice.
        tried: average precision on the validation slice of each candidate, as tried.
        genuine: see `Candidate`.
        seed: of the draw of these.
    """

    estimator: Any
    parameters: dict[str, Any]
    usual: tuple[float, ...]
    tried: tuple[tuple[dict[str, Any], float], ...]
    genuine: float = 1.0
    seed: int = 1


def _logistic(seed: int) -> list[Candidate]:
    """Standardised features, no class weights: they bend probabilities and ranked no better.

    Measured on simulated data: average precision 0.25 without weights, 0.22 balanced; logarithms or
    square roots of amounts and counts did not better the plain values.
    """
    return [
        Candidate(
            {"C": c},
            make_pipeline(
                StandardScaler(),
                # few features, many rows: a handful of exact Newton steps, the same each time
                LogisticRegression(C=c, solver="newton-cholesky", tol=1e-8, max_iter=200),
            ),
        )
        for c in LOGISTIC_C
    ]


def _histgb(seed: int) -> list[Candidate]:
    """Boosted trees on binned features; shallow ones, which 100 to 200 iterations fit without haste."""
    return [
        Candidate(
            {"leaves": leaves, "iterations": iterations, "learning_rate": rate},
            HistGradientBoostingClassifier(
                max_leaf_nodes=leaves,
                max_iter=iterations,
                learning_rate=rate,
                min_samples_leaf=50,
                early_stopping=False,  # it would choose by rows drawn from all of the time
                random_state=seed,
            ),
        )
        for leaves, iterations, rate in HISTGB
    ]


def _forest(seed: int) -> list[Candidate]:
    """Random forests of limited depth: it bounds what a row costs, and the size of the file."""
    return [
        Candidate(
            {"trees": 100, "depth": depth},
            RandomForestClassifier(
                n_estimators=100, max_depth=depth, min_samples_leaf=10, random_state=seed
            ),
        )
        for depth in FOREST_DEPTHS
    ]


def _blend(seed: int) -> list[Candidate]:
    """The mean of a random forest's and boosting's probabilities, learned from a tenth of the genuine ones.

    They err on different transactions. Boosting puts a feature into 255 bins of equally many rows, and where
    frauds begin within one (the largest amounts share two or three) it cannot tell: a random forest
    splits anywhere. Boosting ranks better what neither is sure of, which is AUC.
    """
    return [
        Candidate(
            {"trees": trees, "depth": depth, "leaves": leaves, "iterations": iterations},
            VotingClassifier(
                [
                    (
                        "forest",
                        RandomForestClassifier(
                            n_estimators=trees,
                            max_depth=depth,
                            min_samples_leaf=5,
                            max_features=0.4,
                            random_state=seed,
                        ),
                    ),
                    (
                        "histgb",
                        HistGradientBoostingClassifier(
                            max_leaf_nodes=leaves,
                            max_iter=iterations,
                            learning_rate=rate,
                            min_samples_leaf=40,
                            l2_regularization=30,
                            max_features=0.3,
                            early_stopping=False,  # as above
                            random_state=seed,
                        ),
                    ),
                ],
                voting="soft",
                weights=BLEND_WEIGHTS,
            ),
            GENUINE,
        )
        for trees, depth, leaves, iterations, rate in BLEND
    ]


#: Kind -> its candidates for a seed.
KINDS: Mapping[str, Callable[[int], list[Candidate]]] = {
    "logistic": _logistic,
    "histgb": _histgb,
    "forest": _forest,
    "blend": _blend,
}


def candidates_of(
    kind: str, seed: int, fixed: Mapping[str, float] | None = None
) -> list[Candidate]:
    """The candidates of a kind, or the one whose parameters are given.

    Args:
        kind: one of `KINDS`.
        seed: for kinds that draw.
        fixed: parameters by scikit-learn's names; the others are those of the last candidate.

    Raises:
        UsageError: the kind has no such parameter.
    """
    candidates = KINDS[kind](seed)
    if not fixed:
        return candidates
    estimator = clone(candidates[-1].estimator)
    model = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    # a blend's own parameters are its members; theirs are written forest__max_depth
    given = model.get_params()
    known = [each for each, value in given.items() if not hasattr(value, "get_params")]
    for name in fixed:
        if name not in known:
            msg = f"--parameter {name} is unknown; {kind} has {', '.join(sorted(known))}"
            raise UsageError(msg)
    model.set_params(**fixed)
    return [Candidate(dict(fixed), estimator, candidates[-1].genuine)]


def fit_best(
    kind: str,
    features: Floats,
    fraud: Labels,
    split: Split,
    *,
    seed: int = 1,
    fixed: Mapping[str, float] | None = None,
    cores: int = 1,
    tell: Callable[[int, int], None] = lambda _done, _all: None,
) -> Fitted:
    """Fit every candidate of a kind on the train slice, keep the best on the validation slice.

    "Best" is average precision: frauds are rare, and the top of the ranking is what is looked at. The same
    arguments give the same coefficients to the bit on one machine: the linear algebra runs in one
    thread, because the number of threads changes the order of its sums.

    Args:
        kind: one of `KINDS`.
        features: (n, k), finite.
        fraud: (n,) labels.
        split: slices of the rows.
        seed: for kinds that draw.
        fixed: parameters that are given; see `candidates_of`.
        cores: trees of a forest that grow at once; nothing depends on it.
        tell: called with the number of candidates done and of all.
    """
    candidates = candidates_of(kind, seed, fixed)
    tried: list[tuple[dict[str, Any], float]] = []
    best = candidates[0]
    train, valid = features[split.train], features[split.valid]
    with threadpool_limits(1):
        for done, candidate in enumerate(candidates):
            tell(done, len(candidates))
            try:
                estimator = _fit(
                    candidate.estimator, train, fraud[split.train], candidate.genuine, seed, cores
                )
            except InvalidParameterError as error:  # only given ones can be
                msg = f"--parameter: {' '.join(str(error).split())}"
                raise UsageError(msg) from None
            scores = estimator.predict_proba(valid)[:, positive_column(estimator)]
            precision = float(average_precision_score(fraud[split.valid], scores))
            if not tried or precision > max(figure for _, figure in tried):
                best = candidate
            tried.append((candidate.parameters, precision))
    tell(len(candidates), len(candidates))
    usual = tuple(np.median(train, axis=0).tolist())
    return Fitted(best.estimator, best.parameters, usual, tuple(tried), best.genuine, seed)


def _fit(
    estimator: Any, features: Floats, fraud: Labels, genuine: float, seed: int, cores: int
) -> Any:
    """Fit on all frauds and so much of the rest, drawn by the seed; the weights make it whole again."""
    labels = fraud.astype(np.int64)
    _set_jobs(estimator, cores)
    if genuine >= 1:
        estimator.fit(features, labels)
    else:
        rows = np.flatnonzero(fraud | (np.random.default_rng(seed).random(len(fraud)) < genuine))
        weights = np.where(fraud[rows], 1.0, 1.0 / genuine)
        estimator.fit(features[rows], labels[rows], sample_weight=weights)
    _set_jobs(estimator, None)
    return estimator


def _set_jobs(estimator: Any, jobs: int | None) -> None:
    """Let forests grow so many trees at once; each has its own seed, so that they are the same ones.

    Only while they grow: `predict_proba` would add up the trees in the order in which they are done.
    """
    members = [estimator, *estimator.get_params().values(), *getattr(estimator, "estimators_", ())]
    for member in members:
        if isinstance(member, RandomForestClassifier):
            member.n_jobs = jobs


def refit(
    fitted: Fitted, features: Floats, fraud: Labels, rows: Labels, *, cores: int = 1
) -> Fitted:
    """The chosen parameters once more, learned from all of the training period.

    Args:
        fitted: what was chosen on the end of the period.
        features: (n, k).
        fraud: (n,) labels.
        rows: (n,) the training period.
        cores: as for `fit_best`.
    """
    train = features[rows]
    with threadpool_limits(1):
        estimator = _fit(
            clone(fitted.estimator), train, fraud[rows], fitted.genuine, fitted.seed, cores
        )
    return replace(fitted, estimator=estimator, usual=tuple(np.median(train, axis=0).tolist()))
