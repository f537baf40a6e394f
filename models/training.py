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
)
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from app.errors import UsageError
from models.scoring import positive_column

#: Shares of the rows that are learned from and that choose; the newest rest judges.
TRAIN_SHARE, VALID_SHARE = 0.6, 0.2
#: Strengths of regularisation that are tried: frauds are few and the windows of one count tell much
#: the same, so that large opposite weights would chase noise.
LOGISTIC_C = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)

#: Leaves and iterations of boosting that are tried; the rate that goes with them.
HISTGB = ((8, 100, 0.1), (15, 200, 0.05), (31, 200, 0.05))
#: Depths of a random forest that are tried.
FOREST_DEPTHS = (6, 10, 14)
#: So much of the end of a training period chooses the parameters; a quarter of it if that is less.
VALIDATION_MS = 7 * 86_400_000

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


class Split(NamedTuple):
    """Three slices of time, oldest first, as masks over the rows."""

    train: Labels
    valid: Labels
    test: Labels


class Candidate(NamedTuple):
    """One model to try."""

    parameters: dict[str, Any]
    estimator: Any


@dataclass(frozen=True)
class Fitted:
    """The candidate that did best on the validation slice.

    Attributes:
        estimator: fitted on the train slice.
        parameters: what was chosen.
        usual: median of each feature in the train slice.
        tried: average precision on the validation slice of each candidate, as tried.
    """

    estimator: Any
    parameters: dict[str, Any]
    usual: tuple[float, ...]
    tried: tuple[tuple[dict[str, Any], float], ...]


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


#: Kind -> its candidates for a seed.
KINDS: Mapping[str, Callable[[int], list[Candidate]]] = {
    "logistic": _logistic,
    "histgb": _histgb,
    "forest": _forest,
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
    known = model.get_params(deep=False)
    for name in fixed:
        if name not in known:
            msg = f"--parameter {name}: {kind} has {', '.join(sorted(known))}"
            raise UsageError(msg)
    model.set_params(**fixed)
    return [Candidate(dict(fixed), estimator)]


@dataclass(frozen=True)
class Periods:
    """When to learn and when to judge, epoch milliseconds; each beginning is in its period, each end is not.

    Attributes:
        train_from, train_to: transactions that are learned from.
        test_from, test_to: transactions that judge.
        delay_ms: how long a label takes to come: what is learned from was known when the test begins.
    """

    train_from: int
    train_to: int
    test_from: int
    test_to: int
    delay_ms: int

    def later(self, weeks: int) -> "Periods":
        """The same so many weeks later, judged by a week."""
        shift = weeks * VALIDATION_MS
        return Periods(
            self.train_from + shift,
            self.train_to + shift,
            self.test_from + shift,
            self.test_from + shift + VALIDATION_MS,
            self.delay_ms,
        )


def split_by_periods(event_time_ms: np.ndarray, fraud: Labels, periods: Periods) -> Split:
    """Slices of given periods; the end of the training period chooses.

    The label delay lies between the train slice and it, if the period is long enough. What is learned from in
    the end is all of the training period: `in_training`.

    Raises:
        UsageError: the periods are not in order, labels would not have come, or a slice has no frauds.
    """
    known_to = periods.test_from - periods.delay_ms
    if not periods.train_from < periods.train_to:
        msg = "--train-to must lie behind --train-from"
        raise UsageError(msg)
    if not periods.test_from < periods.test_to:
        msg = "--test-to must lie behind --test-from"
        raise UsageError(msg)
    if periods.train_to > known_to:
        msg = (
            "--test-from must lie --delay behind --train-to: labels of the last days of training would "
            "not have come when the test begins"
        )
        raise UsageError(msg)
    length = min(VALIDATION_MS, (periods.train_to - periods.train_from) // 4)
    valid_from = periods.train_to - length
    # as before the test: labels of the last days were not known when the slice that chooses began
    known_to = valid_from - periods.delay_ms
    if known_to - periods.train_from < length:
        known_to = valid_from  # too short a period for that: better choose by more than by nothing
    split = Split(
        _between(event_time_ms, periods.train_from, known_to),
        _between(event_time_ms, valid_from, periods.train_to),
        _between(event_time_ms, periods.test_from, periods.test_to),
    )
    names = ("training period", "end of the training period", "test period")
    _check_frauds(split, fraud, names)
    return split


def in_training(event_time_ms: np.ndarray, periods: Periods) -> Labels:
    """(n,) which transactions are in the training period."""
    return _between(event_time_ms, periods.train_from, periods.train_to)


def _between(event_time_ms: np.ndarray, begin: int, end: int) -> Labels:
    inside: Labels = (event_time_ms >= begin) & (event_time_ms < end)
    return inside


def _check_frauds(split: Split, fraud: Labels, names: tuple[str, ...]) -> None:
    for name, rows in zip(names, split, strict=True):
        labels = fraud[rows]
        if not labels.any() or labels.all():
            msg = (
                f"the {name} of the transactions hold {np.count_nonzero(labels)} frauds in "
                f"{len(labels)}: each part needs both frauds and others; give more transactions"
            )
            raise UsageError(msg)


def split_by_time(event_time_ms: np.ndarray, fraud: Labels) -> Split:
    """The oldest 60 % to learn from, the next 20 % to choose with, the newest 20 % to judge by.

    Transactions of the same millisecond stay together.

    Raises:
        UsageError: a slice has no frauds, or nothing else.
    """
    count = len(event_time_ms)
    if not count:
        msg = "there are no transactions to train on"
        raise UsageError(msg)
    ordered = np.sort(event_time_ms)
    first = ordered[int(count * TRAIN_SHARE)]
    second = ordered[int(count * (TRAIN_SHARE + VALID_SHARE))]
    split = Split(
        event_time_ms < first,
        (event_time_ms >= first) & (event_time_ms < second),
        event_time_ms >= second,
    )
    _check_frauds(split, fraud, ("oldest 60 %", "next 20 %", "newest 20 %"))
    return split


def fit_best(
    kind: str,
    features: Floats,
    fraud: Labels,
    split: Split,
    *,
    seed: int = 1,
    fixed: Mapping[str, float] | None = None,
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
        tell: called with the number of candidates done and of all.
    """
    candidates = candidates_of(kind, seed, fixed)
    tried: list[tuple[dict[str, Any], float]] = []
    best = candidates[0]
    train, valid = features[split.train], features[split.valid]
    with threadpool_limits(1):
        for done, candidate in enumerate(candidates):
            tell(done, len(candidates))
            estimator = candidate.estimator.fit(train, fraud[split.train].astype(np.int64))
            scores = estimator.predict_proba(valid)[:, positive_column(estimator)]
            precision = float(average_precision_score(fraud[split.valid], scores))
            if not tried or precision > max(figure for _, figure in tried):
                best = candidate
            tried.append((candidate.parameters, precision))
    tell(len(candidates), len(candidates))
    usual = tuple(np.median(train, axis=0).tolist())
    return Fitted(best.estimator, best.parameters, usual, tuple(tried))


def refit(fitted: Fitted, features: Floats, fraud: Labels, rows: Labels) -> Fitted:
    """The chosen parameters once more, learned from all of the training period.

    Args:
        fitted: what was chosen on the end of the period.
        features: (n, k).
        fraud: (n,) labels.
        rows: (n,) the training period.
    """
    train = features[rows]
    with threadpool_limits(1):
        estimator = clone(fitted.estimator).fit(train, fraud[rows].astype(np.int64))
    return replace(fitted, estimator=estimator, usual=tuple(np.median(train, axis=0).tolist()))
