"""Fits and selects a model: pure over arrays. Another kind of model is one more entry of `KINDS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
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


#: Kind -> its candidates for a seed.
KINDS: Mapping[str, Callable[[int], list[Candidate]]] = {"logistic": _logistic}


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
    for name, rows in zip(("oldest 60 %", "next 20 %", "newest 20 %"), split, strict=True):
        labels = fraud[rows]
        if not labels.any() or labels.all():
            msg = (
                f"the {name} of the transactions hold {np.count_nonzero(labels)} frauds in "
                f"{len(labels)}: each part needs both frauds and others; give more transactions"
            )
            raise UsageError(msg)
    return split


def fit_best(
    kind: str,
    features: Floats,
    fraud: Labels,
    split: Split,
    *,
    seed: int = 1,
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
        tell: called with the number of candidates done and of all.
    """
    candidates = KINDS[kind](seed)
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
